"""Proximal SGD and the factored starts: exact steps on one layer, and the minimiser in closed form."""

import peft
import pytest
import torch
from torch import nn

from lorabook.experiments import ExperimentError, nuclear, points, settings
from lorabook.kim import prox_nuclear

VALUES = points.values(settings.load("sst2")) | {"modules": ["query"]}
f64 = torch.float64


def layer(rows=7, columns=5):
    model = nn.ModuleDict({"query": nn.Linear(columns, rows, bias=False), "key": nn.Linear(columns, rows)}).double()
    source = torch.Generator().manual_seed(0)
    for one in model.parameters():
        one.data = torch.randn(one.shape, generator=source, dtype=f64)
    return model


def test_only_the_matrices_of_the_named_modules_are_tuned():
    model = layer()
    found = nuclear.tuned(model, ["query"])
    assert list(found) == ["query.weight"]
    assert [name for name, one in model.named_parameters() if one.requires_grad] == ["query.weight"]
    assert list(nuclear.tuned(nn.ModuleDict({"4": model}), ["4.query"])) == ["4.query.weight"]  # as PEFT reads names
    with pytest.raises(ExperimentError, match="The model has no modules value"):
        nuclear.tuned(model, ["value"])


def test_a_step_is_a_gradient_step_and_a_soft_threshold_of_the_change():
    model = layer()
    weights = nuclear.tuned(model, ["query"])
    W0 = weights["query.weight"].detach().clone()
    Q = torch.linalg.qr(torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=f64)).Q
    rate, decay = 0.1, 2.0
    s = torch.tensor([5.0, 3.0, 2.5, 1.0, 0.5], dtype=f64)
    proximal = nuclear.ProximalSGD(weights, rate, decay)
    weights["query.weight"].grad = -Q * s  # its singular values are s, and the gradient step changes W by rate times it
    proximal.optimizer.step()
    wanted = Q * (rate * (s - decay)).clamp(min=0)  # soft threshold at rate * decay, in closed form
    assert torch.allclose(weights["query.weight"] - W0, wanted, atol=1e-12)
    found = proximal.values()["query.weight"]
    assert torch.allclose(found, (rate * (s - decay)).clamp(min=0), atol=1e-12)
    assert nuclear.ranks({"W": found}, 1e-4) == {"W": 3}


def test_what_rounding_leaves_of_a_change_has_no_rank():
    source = torch.Generator().manual_seed(5)
    model = nn.ModuleDict({"query": nn.Linear(60, 60, bias=False)})
    model["query"].weight.data = torch.randn(60, 60, generator=source) / 8
    proximal = nuclear.ProximalSGD(nuclear.tuned(model, ["query"]), 0.1, 0.0)
    (weight,) = proximal.weights.values()
    before = weight.detach().clone()
    line = torch.ones(60, 60) / 60  # of rank 1 and norm 1
    for size, rank in ((1e-2, 1), (1e-5, 1), (1e-8, 0), (0.0, 0)):
        with torch.no_grad():
            weight.copy_(before + size * line)
        assert nuclear.ranks(proximal.values(), 1e-4) == {"query.weight": rank}, size
        bare = torch.linalg.svdvals((weight - before).detach().double())
        if size == 1e-5:
            assert nuclear.ranks({"query.weight": bare}, 1e-4)["query.weight"] > 10, "rounding looks like a rank"


@pytest.mark.parametrize("size, tau", [((9, 9), 0.5), ((3, 12, 7), 1e-3), ((6, 11), 100.0)])
def test_the_fast_proximal_map_is_the_proximal_map(size, tau):
    X = torch.randn(size, generator=torch.Generator().manual_seed(4), dtype=f64)
    # eps s_1 / tau
    assert torch.allclose(nuclear.shrunk(X, tau), prox_nuclear(X, tau), atol=1e-15 * 10 * max(1, 10 / tau))
    assert not nuclear.shrunk(0 * X, tau).any()


def test_proximal_descent_ends_at_the_minimiser_of_a_quadratic():
    model = layer()
    weights = nuclear.tuned(model, ["query"])
    W = weights["query.weight"]
    W0, M = W.detach().clone(), torch.randn(7, 5, generator=torch.Generator().manual_seed(2), dtype=f64)
    proximal = nuclear.ProximalSGD(weights, 0.3, 1.0)
    for _ in range(200):
        proximal.optimizer.zero_grad()
        ((W - M) ** 2).sum().div(2).backward()
        proximal.optimizer.step()
    U, s, Vh = torch.linalg.svd(M - W0, full_matrices=False)
    # 0.7^200 of the distance is left
    assert torch.allclose(W - W0, (U * (s - 1).clamp(min=0)) @ Vh, atol=1e-10)


def test_the_threshold_follows_the_schedule_and_without_decay_it_is_sgd():
    for decay in (0.0, 1.0):
        model = layer()
        weights = nuclear.tuned(model, ["query"])
        W0 = weights["query.weight"].detach().clone()
        proximal = nuclear.ProximalSGD(weights, 1.0, decay)
        torch.optim.lr_scheduler.LambdaLR(proximal.optimizer, lambda step: 0.1)  # a tenth of the rate
        G = torch.zeros(7, 5, dtype=f64)
        G[0, 0] = -3.0
        weights["query.weight"].grad = G
        proximal.optimizer.step()
        assert float((weights["query.weight"] - W0)[0, 0]) == pytest.approx(0.1 * (3 - decay))


def test_ranks_are_relative_to_the_largest_and_that_of_nothing_is_zero():
    values = {"a": torch.tensor([2.0, 1e-3, 1e-5]), "b": torch.zeros(3)}
    assert nuclear.ranks(values, 1e-4) == {"a": 2, "b": 0}
    assert nuclear.ranks(values, 1e-6) == {"a": 3, "b": 0}


@pytest.mark.parametrize(
    "start, size", [("small_1", 0.01), ("small_2", 0.03), ("small_3", 0.1), ("large", 1.0), ("0.001", 0.001)]
)
def test_gaussian_starts_have_their_size_and_their_seed(start, size):
    big = lambda: nn.ModuleDict({"query": nn.Linear(200, 200)})
    model = nuclear.factored(big(), VALUES, 8, start, seed=3)
    again = nuclear.factored(big(), VALUES, 8, start, seed=3)
    other = nuclear.factored(big(), VALUES, 8, start, seed=4)
    factors = [
        {name: one.detach() for name, one in m.named_parameters() if "lora_" in name} for m in (model, again, other)
    ]
    for name, one in factors[0].items():
        # 1600 draws: the deviation is known to about 1 / sqrt(2 1600), here five times that
        assert float(one.std()) == pytest.approx(size, rel=0.09)
        assert torch.equal(one, factors[1][name]) and not torch.equal(one, factors[2][name])


def test_the_zero_start_is_pefts_and_the_update_is_the_plain_product():
    torch.manual_seed(0)
    model = nuclear.factored(nn.ModuleDict({"query": nn.Linear(20, 20)}), VALUES, 8, "zero", seed=3)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(
        nn.ModuleDict({"query": nn.Linear(20, 20)}), peft.LoraConfig(r=8, lora_alpha=8, target_modules=["query"])
    )
    for (name, one), other in zip(model.named_parameters(), theirs.parameters()):
        assert torch.equal(one, other), name
    (s,) = nuclear.products(model).values()
    assert float(s.abs().max()) == 0
    with torch.no_grad():
        B, A = (one for name, one in sorted(model.named_parameters(), reverse=True) if "lora_" in name)
        B.fill_(1.0)
        wanted = torch.linalg.svdvals((B @ A).double())
    (s,) = nuclear.products(model).values()
    assert torch.allclose(s, wanted, atol=1e-6)
    with pytest.raises(ExperimentError, match="There is no start 'huge'"):
        nuclear.factored(nn.ModuleDict({"query": nn.Linear(20, 20)}), VALUES, 8, "huge", seed=3)
