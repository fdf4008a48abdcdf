"""The methods: starts beside the released code and PEFT, and steps that are exact on one layer."""

import math
from types import SimpleNamespace

import peft
import pytest
import torch
from torch import nn

from lorabook.adapters import PreconditionedAdamW
from lorabook.adapters.targets import targets
from lorabook.experiments import ExperimentError, methods, points, settings
from lorabook.linalg import truncate

VALUES = points.values(settings.load("glue"), rehearse=True) | {"modules": ["q"], "gamma": 4.0, "start_examples": 3}


class OneLayer(nn.Module):
    """Least squares, with the loss where transformers' models have it."""

    def __init__(self, rows=12, columns=10):
        super().__init__()
        self.q = nn.Linear(columns, rows, bias=False)
        self.q.weight.data = torch.linspace(-1, 1, rows * columns).view(rows, columns).sin()

    def forward(self, x, labels):
        return SimpleNamespace(loss=((self.q(x) - labels) ** 2).sum(-1).mean() / 2)


def batches(count):
    source = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(4, 10, generator=source), "labels": torch.randn(4, 12, generator=source)}] * 1 + [
        {"x": torch.randn(4, 10, generator=source), "labels": torch.randn(4, 12, generator=source)}
        for _ in range(count - 1)
    ]


def gradient(model, given):
    """The mean of the batches' gradients, in closed form."""
    W = model.q.weight.detach()
    parts = [(one["x"] @ W.mT - one["labels"]).mT @ one["x"] / len(one["x"]) for one in given]
    return sum(parts) / len(parts)


def test_one_step_is_the_best_of_the_grid_along_the_full_gradient():
    model, given = OneLayer(), batches(3)
    W, G = model.q.weight.detach().clone(), gradient(model, given)
    found = methods.one_step(model, given, VALUES)

    def loss(eta):
        return sum(float(((one["x"] @ (W - eta * G).mT - one["labels"]) ** 2).sum(-1).mean() / 2) for one in given) / 3

    best = min(VALUES["step_sizes"], key=loss)
    assert found["step_size"] == best and 1e-4 < best < 10  # inside the grid, so that the search decides something
    # float32 sums in another order
    assert torch.allclose(model.q.weight, W - best * G, atol=1e-6)
    assert dict(found["losses"])[best] == pytest.approx(loss(best), rel=1e-5)


def test_one_step_of_low_rank_moves_the_modules_alone_along_the_best_part():
    model, given = OneLayer(), batches(2)
    W, G = model.q.weight.detach().clone(), gradient(model, given)
    found = methods.one_step(model, given, VALUES, rank=2)
    step = (W - model.q.weight.detach()) / found["step_size"]
    assert torch.linalg.matrix_rank(step, rtol=1e-4) == 2
    assert torch.allclose(step, truncate(G.double(), 2).float(), atol=1e-4)


def test_lora_ga_is_the_released_codes_and_leaves_the_function():
    model, given = OneLayer(), batches(3)
    W, G = model.q.weight.detach().clone(), gradient(model, given)
    ready = methods.ready("lora_ga", model, VALUES, 3, 1e-4, lambda count: given[:count])
    (target,) = targets(ready.model).values()
    # run_exp.py: B = U[:, r:2r], A = V[:r, :], both times m^(1/4) / gamma^(1/2)
    U, _, Vh = torch.linalg.svd(G.double())
    c = 12**0.25 / VALUES["lora_ga_gamma"] ** 0.5
    cosines = lambda X, Y: (X.double() * Y).sum(-1).abs() / Y.norm(dim=-1) ** 2
    for found, wanted in ((target.B.mT, c * U[:, 3:6].mT), (target.A, c * Vh[:3])):
        assert torch.allclose(cosines(found.detach(), wanted), torch.ones(3, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(target.weight + target.scale * target.B @ target.A, W, atol=1e-6)


def test_lora_ga_has_the_directions_of_pefts_own_and_not_its_singular_values():
    given = batches(3)
    ours = methods.ready("lora_ga", OneLayer(), VALUES, 3, 1e-4, lambda count: given).model
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    model = OneLayer()
    sub = LoraGAConfig(direction="ArB2r", scale="stable", stable_gamma=VALUES["lora_ga_gamma"])
    config = peft.LoraConfig(r=3, target_modules=["q"], init_lora_weights="lora_ga", lora_ga_config=sub)
    preprocess_loraga(model, config, lambda: [model(**one).loss.backward() for one in given])
    theirs = peft.get_peft_model(model, config)
    (mine,), (other,) = targets(ours).values(), targets(theirs).values()
    unit = lambda X: X.detach() / X.detach().norm(dim=-1, keepdim=True)
    for X, Y in ((mine.A, other.A), (mine.B.mT, other.B.mT)):
        assert torch.allclose((unit(X) * unit(Y)).sum(-1).abs(), torch.ones(3), atol=1e-4)
    sizes = mine.B.detach().norm(dim=0)
    assert torch.allclose(sizes, sizes[:1].expand(3), rtol=1e-4)  # c for all
    assert not torch.allclose(other.B.detach().norm(dim=0), sizes, rtol=0.1)


def test_pissa_is_pefts_and_leaves_the_function():
    model = OneLayer()
    W = model.q.weight.detach().clone()
    ready = methods.ready("pissa", model, VALUES, 3, 1e-4, batches)
    (target,) = targets(ready.model).values()
    product = target.scale * (target.B @ target.A).detach()
    assert torch.allclose(product, truncate(W.double(), 3).float(), atol=1e-5)
    assert torch.allclose(target.weight + product, W, atol=1e-6)


def test_each_method_brings_its_optimiser_and_trains_what_it_should():
    given = batches(3)
    found = {one: methods.ready(one, OneLayer(), VALUES, 3, 1e-3, lambda count: given) for one in methods.METHODS}
    trained = {
        name: sorted(
            key.split(".")[-2 if "lora" not in key else -3]
            for key, one in ready.model.named_parameters()
            if one.requires_grad
        )
        for name, ready in found.items()
    }
    assert {name for name, ready in found.items() if not ready.trains} == {
        "pretrained",
        "one_step",
        "one_step_low_rank",
    }
    assert trained["full"] == ["q"]
    assert all(trained[name] == ["lora_A", "lora_B"] for name in methods.ADAPTED)
    for name in ("p_lora", "lora_one"):
        assert isinstance(found[name].optimizer, PreconditionedAdamW)
        assert found[name].optimizer.param_groups[0]["ridge"] == VALUES["ridge"]
    assert {name for name, ready in found.items() if ready.callbacks} == {"lora_one", "lora_one_plain"}
    rates = {id(one): group["lr"] for group in found["lora_plus"].optimizer.param_groups for one in group["params"]}
    (target,) = targets(found["lora_plus"].model).values()
    assert rates[id(target.A)] == 1e-3 and math.isclose(rates[id(target.B)], 16e-3)
    (target,) = targets(found["lora"].model).values()
    assert target.scale == pytest.approx(16 / 3**0.5)  # alpha / sqrt(r)
    with pytest.raises(ExperimentError, match="There is no method 'dora'"):
        methods.ready("dora", OneLayer(), VALUES, 3, 1e-3, batches)
