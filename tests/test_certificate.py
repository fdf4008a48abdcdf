"""The certificate as a bound, and its verdict under noise and AdamW, on runs whose truth is known."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F

from lorabook import device, kim
from lorabook.adapters import certify
from lorabook.adapters.certificate import WITHIN_NOISE, beyond
from lorabook.adapters.noise import batch_noise
from lorabook.adapters.targets import targets

f64 = torch.float64
M, N, ROWS, BATCH = 8, 10, 96, 8


def data(seed, rank=4, noise=0.3):
    """A regression whose answer has this rank: x (ROWS, N), y (ROWS, M)."""
    source = device.generator(seed)
    x = device.normal((ROWS, N), source, "cpu")
    W = device.normal((M, rank), source, "cpu") @ device.normal((rank, N), source, "cpu") / 3
    return x, x @ W.mT + noise * device.normal((ROWS, M), source, "cpu")


def loss_of(W, x, y):
    """Half the mean square of an example: convex in W and not negative."""
    return (x @ W.mT - y).square().sum(1).mean() / 2


def loss(model, batch):
    return F.mse_loss(model(batch[0]), batch[1]) * M / 2


def model_of(rank, scale=1.0):
    layer = nn.Sequential(nn.Linear(N, M, bias=False)).to(f64)
    layer[0].weight.data.zero_()
    torch.manual_seed(0)
    return get_peft_model(layer, LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=["0"])).to(f64)


def batches(x, y, size=BATCH):
    return [(x[k : k + size], y[k : k + size]) for k in range(0, len(x), size)]


def trained(model, given, steps, decay, rate=None, seed=0, adamw=False):
    """Some steps of SGD with a penalty, or of AdamW with a falling rate, on one batch each, drawn at random."""
    target, source = targets(model)["0"], torch.Generator().manual_seed(seed)
    B, A, c = target.B.detach(), target.A.detach(), target.scale
    kind = torch.optim.AdamW if adamw else torch.optim.SGD
    optimiser = kind([B, A], lr=rate, weight_decay=decay, foreach=False)
    for step in range(steps):
        x, y = given[int(torch.randint(len(given), (1,), generator=source))]
        G = (c * (x @ A.mT) @ B.mT - y).mT @ x / len(x)
        B.grad, A.grad = c * G @ A.mT, c * B.mT @ G
        optimiser.param_groups[0]["lr"] = rate * max(0.02, 1 - step / steps) if adamw else rate
        optimiser.step()
    return model


def least(x, y, mu, steps=400):
    """min over all W of L + mu ||W||_*, by proximal gradient steps."""
    W = torch.zeros(M, N, dtype=f64)
    rate = 1 / float(torch.linalg.eigvalsh(x.mT @ x / len(x))[-1])
    for _ in range(steps):
        W = kim.prox_nuclear(W - rate * (x @ W.mT - y).mT @ x / len(x), rate * mu)
    return float(loss_of(W, x, y) + mu * torch.linalg.svdvals(W).sum())


def least_in_ball(x, y, radius, steps=400):
    """min of L over ``||W||_* <= radius``, by projected gradient steps."""
    W = torch.zeros(M, N, dtype=f64)
    rate = 1 / float(torch.linalg.eigvalsh(x.mT @ x / len(x))[-1])
    for _ in range(steps):
        U, s, Vh = torch.linalg.svd(W - rate * (x @ W.mT - y).mT @ x / len(x), full_matrices=False)
        if float(s.sum()) > radius:
            falls = (s.cumsum(0) - radius) / torch.arange(1, len(s) + 1)
            cut = falls[(s > falls).nonzero().max()]
            s = (s - cut).clamp(min=0)
        W = (U * s) @ Vh
    return float(loss_of(W, x, y))


def objective(model, x, y, decay):
    target = targets(model)["0"]
    penalty = decay / 2 * float(target.B.square().sum() + target.A.square().sum())
    return float(loss(model, (x, y))) + penalty


# ---------------------------------------------------------------- the bound


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scale", [0.5, 4.0])
@pytest.mark.parametrize("lam", [0.02, 0.3, 3.0])
def test_no_adapter_of_any_rank_lowers_the_objective_by_more_than_the_bound_wherever_the_factors_are(seed, scale, lam):
    x, y = data(seed)
    known, source = least(x, y, lam / scale), device.generator(seed + 50)
    for size in (0.0, 0.1, 1.0, 3.0):
        B, A = size * device.normal((M, 2), source, "cpu"), size * device.normal((2, N), source, "cpu")
        W = scale * B @ A
        value, G = float(loss_of(W, x, y)), (x @ W.mT - y).mT @ x / len(x)
        now = value + lam / 2 * float(B.square().sum() + A.square().sum())
        bound = kim.certificate.gap_bound(value, B, A, G, lam, scale)
        # the known minimum is good to 1e-6
        assert now - known <= bound + 1e-6
        nuclear = float(torch.linalg.svdvals(W).sum())
        if size:
            inside = least_in_ball(x, y, nuclear)
            assert value - inside <= kim.certificate.same_size_bound(B, A, G, scale) + 1e-6


@pytest.mark.parametrize("name", ["magnet", "strict"])
def test_at_a_stationary_point_the_bound_is_that_of_the_chapter_and_half_of_it_is_false(name):
    problem = kim.laboratory.instance(name)
    B, A = problem.spurious_factors()
    G, top = problem.gradient(B @ A), float(torch.linalg.eigvalsh(problem.H)[-1])
    bound = kim.certificate.gap_bound(float(problem.loss(B @ A)), B, A, G, problem.lam)
    # the factors are stationary to 1e-10
    assert bound == pytest.approx(kim.certificate.two_sides(problem, B, A, top)[1], rel=1e-8)
    gap = float(kim.landscape.full_objective(problem, B @ A) - kim.landscape.full_objective(problem, problem.solution))
    assert bound / 2 < gap <= bound


def test_the_bounds_refuse_what_they_do_not_hold_for():
    B, A, G = torch.ones(3, 1, dtype=f64), torch.ones(1, 4, dtype=f64), torch.ones(3, 4, dtype=f64)
    for value, lam in ((-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, -1.0)):
        with pytest.raises(ValueError):
            kim.certificate.gap_bound(value, B, A, G, lam)
    with pytest.raises(ValueError):
        kim.certificate.same_size_bound(B, A, G, 0.0)


def test_a_loss_that_falls_below_zero_has_no_bound():
    model = model_of(2)
    x, y = data(0)
    said = certify(model, batches(x, y), 0.1, loss=lambda model, batch: loss(model, batch) - 1e3)["0"]
    assert said.gap is None and said.share is None and said.verdict


# ---------------------------------------------------------------- runs with a penalty


@pytest.mark.parametrize("rank, word", [(1, "rank-saturated"), (2, "rank-saturated"), (6, "stationary")])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_run_to_its_end_is_told_apart_by_its_rank(rank, word, scale):
    x, y = data(1)
    decay = 0.4 * scale  # cuts the answer to rank 4
    model = trained(model_of(rank, scale), [(x, y)], 5000, decay, 0.1 / scale)
    said = certify(model, batches(x, y), decay, loss=loss)["0"]
    gap = objective(model, x, y, decay) - least(x, y, decay / scale)
    assert said.verdict == word and -1e-6 <= gap <= said.gap + 1e-6
    assert (gap > 0.01) == (word == "rank-saturated")
    assert said.share == pytest.approx(max(0.0, 1 - 1 / said.excess), abs=2e-2)


def test_a_run_that_was_stopped_early_is_not_stationary_and_its_bound_holds():
    x, y = data(1)
    model = trained(model_of(6), batches(x, y), 10, 0.4, 0.03)
    said = certify(model, batches(x, y), 0.4, loss=loss)["0"]
    gap = objective(model, x, y, 0.4) - least(x, y, 0.4)
    assert said.verdict == "not stationary" and said.noise > 1 and 0 < gap <= said.gap


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank, word", [(1, "rank-saturated"), (6, "stationary")])
def test_a_run_on_minibatches_hovers_and_its_verdict_is_that_of_the_run_to_its_end(rank, word, seed):
    x, y = data(seed + 1)
    model = trained(model_of(rank), batches(x, y), 4000, 0.4, 0.01, seed)
    said = certify(model, batches(x, y), 0.4, loss=loss)["0"]
    assert said.slope > 1e-2 and said.noise < 1
    assert said.verdict == word + WITHIN_NOISE
    gap = objective(model, x, y, 0.4) - least(x, y, 0.4)
    assert 0 <= gap <= said.gap


# ---------------------------------------------------------------- runs of AdamW


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "rank, word", [(1, "rank-saturated"), (3, "rank-saturated"), (4, "stationary"), (6, "stationary")]
)
def test_under_adamw_the_verdict_is_whether_a_new_direction_would_gain(rank, word, seed):
    (x, y), decay = data(seed, rank=4), 0.01
    model = trained(model_of(rank), batches(x, y), 1500, decay, 0.02, seed, adamw=True)
    said = certify(model, batches(x, y), decay, loss=loss, decoupled=True)["0"]
    assert said.verdict.removesuffix(WITHIN_NOISE) == word, said
    target = targets(model)["0"]
    W = (target.scale * target.B @ target.A).detach()
    value, best = float(loss_of(W, x, y)), least_in_ball(x, y, float(torch.linalg.svdvals(W).sum()))
    assert value - best <= said.gap + 1e-6
    # the truth: how far the loss could fall at the same size, by any rank
    assert ((value - best) / value > 0.05) == (word == "rank-saturated")


@pytest.mark.parametrize("seed", range(3))
def test_a_run_of_adamw_that_was_stopped_early_is_not_stationary(seed):
    x, y = data(seed)
    model = trained(model_of(8), batches(x, y), 10, 0.01, 0.02, seed, adamw=True)
    said = certify(model, batches(x, y), 0.01, loss=loss, decoupled=True)["0"]
    assert said.verdict == "not stationary" and said.noise > 1


def test_a_fixed_point_of_adamw_under_noise_balances_gradient_and_decay():
    """Copies of one coordinate rest where g + lambda s theta = 0, s the root mean square of their gradients."""
    source, decay, copies = torch.Generator().manual_seed(0), 0.5, 2000
    theta = torch.zeros(copies, dtype=f64)
    optimiser = torch.optim.AdamW([theta], lr=5e-3, weight_decay=decay, betas=(0.9, 0.999))
    for _ in range(2000):
        theta.grad = theta - 1 + 3 * torch.randn(copies, generator=source, dtype=f64)  # of (theta - 1)^2 / 2
        optimiser.step()
    rest = float(theta.mean())
    # theta - 1 + lambda s theta = 0 with s near 3, to a few hundredths
    assert rest == pytest.approx(1 / (1 + decay * 3.0), abs=0.03)
    assert abs(rest - 1 / (1 + decay)) > 0.2 and abs(rest - 1) > 0.5  # a plain penalty, and no decay


def test_without_a_penalty_a_decay_of_zero_is_allowed_and_with_one_it_is_not():
    x, y = data(0)
    model = model_of(2)
    assert certify(model, batches(x, y), 0.0, loss=loss, decoupled=True)["0"].excess == math.inf
    with pytest.raises(ValueError, match="weight decay must be positive"):
        certify(model, batches(x, y), 0.0, loss=loss)
    with pytest.raises(ValueError, match="weight decay must be positive"):
        certify(model, batches(x, y), -1.0, loss=loss, decoupled=True)


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("seed", range(3))
def test_a_full_batch_of_adamw_is_told_apart_too(seed):
    x, y = data(seed, rank=4)
    for rank, word in ((1, "rank-saturated"), (8, "stationary")):
        model = trained(model_of(rank), [(x, y)], 5000, 0.0, 0.02, seed, adamw=True)
        assert certify(model, [(x, y)], 0.0, loss=loss, decoupled=True)["0"].verdict == word


@pytest.mark.parametrize("size", [8, 16, 40])
def test_the_noise_is_that_of_the_batches_gradients_by_autograd(size):
    x, y = data(3)
    model = trained(model_of(3, 2.0), batches(x, y), 20, 0.1, 0.05)
    target, given = targets(model)["0"], batches(x, y, size)
    weigh = lambda model, batch: (loss(model, batch), len(batch[0]))
    found = batch_noise(model, {"0": target}, given, loss=weigh)["0"]
    share = torch.tensor([len(one[0]) for one in given], dtype=f64) / len(x)
    grads = [torch.autograd.grad(loss(model, one), [target.B, target.A]) for one in given]
    flat = torch.stack([torch.cat([B.flatten(), A.flatten()]) for B, A in grads])
    mean = share @ flat
    spread = (share @ (flat - mean).square().sum(1)) * len(given) / (len(given) - 1)
    # float64 all through
    assert found.spread == pytest.approx(float(spread.sqrt()), rel=1e-10)
    assert found.loss == pytest.approx(float(loss(model, (x, y))), rel=1e-12) and found.batches == len(given)
    rms = torch.cat([found.rms_B.flatten(), found.rms_A.flatten()])
    assert torch.allclose(rms, (share @ flat.square()).sqrt(), rtol=1e-10, atol=0)
    assert batch_noise(model, {"0": target}, [(x, y)], loss=loss)["0"].spread is None


def test_a_direction_is_judged_by_the_batches_that_it_was_not_taken_from():
    x, y = data(3)
    model = trained(model_of(3, 2.0), batches(x, y), 20, 0.1, 0.05)
    target, given = targets(model)["0"], batches(x, y, 10)
    u, v = (device.normal((size,), device.generator(size), "cpu") for size in target.matrix(target.weight).shape)
    weigh = lambda model, batch: (loss(model, batch), len(batch[0]))
    found = batch_noise(model, {"0": target}, given, loss=weigh, directions={"0": (u, v)})["0"].new
    tried = given[1::2]  # of the others come u and v
    share = torch.tensor([len(one[0]) for one in tried], dtype=f64)
    W = (target.weight + target.scale * target.B @ target.A).detach()
    slopes = torch.stack([u @ ((x @ W.mT - y).mT @ x / len(x)) @ v for x, y in tried])
    share = share / share.sum()
    mean = share @ slopes
    error = ((share @ slopes.square() - mean**2) / (len(tried) - 1)).sqrt()
    assert len(tried) > 2 and found == pytest.approx(float(mean / error), rel=1e-9)


def test_a_layer_that_some_batches_do_not_reach_has_no_gradient_there():
    model = get_peft_model(
        nn.ModuleDict({"a": nn.Linear(N, M, bias=False), "b": nn.Linear(N, M, bias=False)}).to(f64),
        LoraConfig(r=2, target_modules=["a", "b"], init_lora_weights=False),
    ).to(f64)
    x, y = data(0)
    layers = targets(model)
    rows = [(part, *batch) for part, batch in zip("abab", batches(x, y, 24))]
    one = lambda model, batch: loss(model.base_model.model[batch[0]], batch[1:])
    found = batch_noise(model, layers, rows, loss=one)
    for part in "ab":
        target = layers[part]
        grads = [
            torch.cat([g.flatten() for g in torch.autograd.grad(one(model, row), [target.B, target.A])])
            if row[0] == part
            else torch.zeros(target.B.numel() + target.A.numel(), dtype=f64)
            for row in rows
        ]
        flat = torch.stack(grads)
        # float64 all through
        assert found[part].spread == pytest.approx(float(flat.var(0).sum().sqrt()), rel=1e-10)


def test_what_lies_outside_the_factors_is_not_touched_by_moving_along_them():
    source = device.generator(0)
    draw = lambda *shape: device.normal(shape, source, "cpu")
    B, A, G = draw(7, 2), draw(2, 9), draw(7, 9)
    inside = B @ draw(2, 9) + draw(7, 2) @ A
    outside = beyond(B, A, G)
    # float64 all through
    assert torch.allclose(outside, beyond(B, A, G + inside), atol=1e-12)
    assert float((B.mT @ outside).abs().max()) < 1e-12 and float((outside @ A.mT).abs().max()) < 1e-12
    assert torch.equal(beyond(0 * B, 0 * A, G), G)
