"""One dynamics: the four early phases, the exchange, the angles and the races, each held by other means than its
own."""

import math
import re

import numpy as np
import pytest
import torch
from device_discipline import no_hidden_host_transfers
from scipy.integrate import solve_ivp
from scipy.linalg import sqrtm
from scipy.stats import beta as beta_law

from lorabook import device, kim, linalg, lora_one, mallada, measure, rushka
from lorabook import one_dynamics as one
from lorabook.page import lists

f64 = torch.float64
SEEDS = (0, 1, 2)
NAMES = ("rushka", "mallada", "lora_one", "kim")
SCALES = torch.tensor([1e-2, 1e-3, 1e-4], dtype=f64)


def draw(seed, *shape):
    return device.normal(shape, device.generator(seed), "cpu")


def regression(seed, n=4, kappa=5.0, rank=2):
    source = device.generator(seed)
    Q, U, V = (linalg.random_orthonormal(n, k, source, "cpu") for k in (n, rank, rank))
    eigenvalues = torch.logspace(0, -1, n, base=kappa, dtype=f64)
    shift = (U * torch.linspace(2, 1, rank, dtype=f64)) @ V.mT
    return lora_one.Regression(math.sqrt(n) * (Q * eigenvalues.sqrt()) @ Q.mT, torch.zeros(n, n, dtype=f64), shift)


def beginning(name, seed=0, scales=SCALES, n=4, rank=2):
    rows, more, W0 = draw(seed, rank, n), draw(seed + 10, rank, n), draw(seed + 20, n, n)
    W0 = W0 + (1 - W0.diagonal().mean()) * torch.eye(n, dtype=f64)
    if name == "rushka":
        return one.trace_early(W0, rows, scales)
    if name == "mallada":
        return one.two_layer_early(
            mallada.isotropic((n, n, n), device.generator(seed), 0.6, 1.0, 1.5, device="cpu"), rows, more, scales
        )
    if name == "lora_one":
        return one.regression_early(regression(seed, n), more.mT, scales, 0.05)
    return one.landscape_early(kim.laboratory.instance("strict", n=n), rows, scales)


def some_times(early):
    return (
        torch.tensor([1.0, 5.0, 20.0], dtype=f64) if early.learning_rate else torch.tensor([0.1, 0.4, 1.0], dtype=f64)
    )


# The early phase


@pytest.mark.parametrize("name", NAMES)
def test_g_is_minus_the_gradient_of_the_sources_own_loss(name):
    """Witness: automatic differentiation of the loss as its chapter defines it, not of the right-hand side."""
    n, early = 4, beginning(name)
    X = torch.zeros(n, n, dtype=f64, requires_grad=True)
    if name == "rushka":
        losses = [(0.5 * (early.target[0] - X).trace() ** 2, X)]
    elif name == "mallada":
        problem = mallada.isotropic((n, n, n), device.generator(0), 0.6, 1.0, 1.5, device="cpu")
        whole = problem.W2 @ problem.W1 + problem.shift
        losses = [
            (0.5 * (whole - problem.W2 @ (problem.W1 + X)).square().sum(), X),
            (0.5 * (whole - (problem.W2 + X) @ problem.W1).square().sum(), X),
        ]
    elif name == "lora_one":
        problem = regression(0)
        losses = [((problem.X @ (X - problem.shift)).square().sum() / (2 * len(problem.X)), X)]
    else:
        losses = [(kim.laboratory.instance("strict", n=n).loss(X), X)]
    for G, (loss, at) in zip(early.G, losses, strict=True):
        # rounding of a few products
        assert (torch.autograd.grad(loss, at)[0] + G).abs().max() < 1e-13


@pytest.mark.parametrize("name", NAMES)
def test_the_linear_phase_is_a_matrix_exponential_or_a_power(name):
    early = beginning(name)
    times = some_times(early)
    for (B0, A0), G, (B, A) in zip(early.start, early.G, one.linear(early, times), strict=True):
        m, n = G.shape
        H = torch.zeros(m + n, m + n, dtype=f64)
        H[:m, m:], H[m:, :m] = G, G.mT
        Z0, eye = torch.cat([B0, A0.mT], -2), torch.eye(m + n, dtype=f64)
        for t, b, a in zip(times.tolist(), B, A):
            if early.learning_rate:
                step = torch.linalg.matrix_power(eye + early.learning_rate * H, int(t))
            else:
                step = torch.matrix_exp(t * (H - early.decay * eye))
            # rounding, relative to the start
            assert (torch.cat([b, a.mT], -2) - step @ Z0).abs().max() < 1e-12 * step.abs().max() * Z0.abs().max()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_error_falls_with_the_square_of_the_start_and_not_with_another_matrix(name, seed):
    early = beginning(name, seed)
    at = [round(1 / early.rate) if early.learning_rate else 1 / early.rate]
    # the next term is of relative order 1e-3 at the largest start; it bends the slope by a few thousandths
    assert abs(measure.log_slope(SCALES, one.misfit(early, at)[0]) - 2) < 0.02
    assert abs(measure.log_slope(SCALES, one.misfit(early, at, early.target)[0])) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_is_the_growth_of_the_linear_phase(name):
    early = beginning(name)
    late = torch.tensor([60.0, 61.0], dtype=f64) * (20 if early.learning_rate else 1)
    sizes = sum(part.square().sum((-2, -1)) for pair in one.linear(early, late) for part in pair).sqrt()
    # what grows slower has fallen behind by e^-9 or more
    assert abs(float((sizes[1] / sizes[0]).log()[0] / (late[1] - late[0]) / early.rate) - 1) < 1e-3


def test_decay_shrinks_and_does_nothing_else():
    with_decay, without = (
        one.landscape_early(kim.laboratory.instance("strict", lam=lam), draw(0, 1, 3), SCALES) for lam in (0.3, 0.0)
    )
    G = without.G
    times = torch.tensor([0.5, 2.0], dtype=f64)
    for slow, fast in zip(one.linear(with_decay, times, G)[0], one.linear(without, times)[0]):
        # one multiplication
        assert (slow - torch.exp(-0.3 * times)[:, None, None, None] * fast).abs().max() < 1e-14 * fast.abs().max()


def test_at_time_zero_own_dynamics_and_linear_phase_are_the_start():
    for name in ("rushka", "lora_one", "kim"):
        assert one.misfit(beginning(name), [0.0]).max() == 0


# One mode


@pytest.mark.parametrize(
    "c, x0, y0, clock", [(1.0, 0.1, 0.0, 1.0), (2.0, 0.3, 0.3, 0.5), (0.4, 0.5, -0.2, 3.0), (-1.0, 0.2, 0.1, 1.0)]
)
def test_a_mode_is_its_differential_equation(c, x0, y0, clock):
    times = [0.5, 2.0, 6.0]
    run = solve_ivp(
        lambda t, z: clock * (c - z[0] * z[1]) * z[::-1], (0, 6), [y0, x0], "DOP853", times, rtol=1e-12, atol=1e-14
    )
    wanted = torch.tensor(run.y[0] * run.y[1] / c)
    # the reference solution's tolerance, amplified by the growth
    assert (one.learnt(c, x0, times, y0, clock) - wanted).abs().max() < 1e-9


def test_a_mode_at_its_ends_and_in_a_batch():
    times = torch.tensor([0.0, 1.0, 1e6], dtype=f64)
    c, x0 = torch.tensor([1.0, 3.0], dtype=f64), torch.tensor([0.1, 0.2], dtype=f64)
    share = one.learnt(c, x0, times, 0.5 * x0)
    # at 0 the product of the start, at infinity everything
    assert (share[0] - 0.5 * x0**2 / c).abs().max() < 1e-15 and (share[2] - 1).abs().max() < 1e-15
    for k in range(2):
        assert (share[:, k] - one.learnt(c[k], x0[k], times, 0.5 * x0[k])).abs().max() < 1e-15
    # a clock is a change of time
    assert (one.learnt(c, x0, times / 7, clock=7.0) - one.learnt(c, x0, times)).abs().max() < 1e-13


def test_a_mode_is_what_rushka_and_xu_call_theirs():
    times = torch.linspace(0, 8, 9, dtype=f64)
    assert (one.learnt(2.0, 0.1, times) - rushka.mode(2.0, 0.1, times) / 2).abs().max() < 1e-13
    talk = 1.5 * mallada.scalar_product(times, 2.0, 1.5, 0.01) / 2.0
    assert (one.learnt(2.0 / 1.5, 0.1, times, clock=1.5**2) - talk).abs().max() < 1e-13


@pytest.mark.parametrize("seed", SEEDS)
def test_regression_flow_is_the_limit_of_descent(seed):
    problem, B0, A0 = regression(seed), 0.3 * draw(seed, 1, 4, 2), 0.3 * draw(seed + 1, 1, 2, 4)
    B, A = one.regression_flow(problem, B0, A0, [1.0])
    gaps = []
    for steps in (200, 400):
        run = lora_one.descend(problem, B0, A0, 1 / steps, 1 / steps, steps, every=steps)
        gaps.append(float((run.B @ run.A - (B @ A)[0]).norm()))
    # first order in the step: halving it halves the distance, up to the second order
    assert abs(gaps[0] / gaps[1] - 2) < 0.1


# Starts


def test_six_starts_are_what_their_names_say():
    problem = regression(3)
    G = lora_one.negative_gradient(problem)
    starts = one.six_starts(problem, 3, 1e-3, 1.0, device.generator(0))
    assert list(starts) == ["zero B", "zero A", "spectral", "gradient, small", "gradient", "large"]
    assert not starts["zero B"][0].any() and not starts["zero A"][1].any() and not starts["spectral"][0].any()
    # products of the gradient starts are multiples of its best approximation; G has rank two
    assert (starts["gradient"][0] @ starts["gradient"][1] - G).abs().max() < 1e-14
    assert abs(torch.linalg.matrix_norm(starts["gradient, small"][0], 2) - 1e-3) < 1e-15
    V = torch.linalg.svd(problem.shift).Vh[:2].mT
    assert lora_one.largest_sine(starts["spectral"][1][:2].mT * 1e3, V) < 1e-13
    for name, (B, A) in starts.items():
        assert B.shape == (4, 3) and A.shape == (3, 4), name


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_from_zero_stay_in_the_targets_row_space_and_columns_do_not(seed):
    problem = regression(seed)
    starts = one.six_starts(problem, 3, 1e-3, 1.0, device.generator(seed))
    B, A = one.regression_flow(
        problem, *(torch.stack([starts[name][k] for name in ("zero A", "zero B")]) for k in (0, 1)), [2.0, 8.0, 20.0]
    )
    # the integrator's tolerance
    assert lora_one.row_leak(A[:, 0], problem.shift, 2).max() < 1e-9
    assert lora_one.row_leak(B[:, 1].mT, problem.shift.mT, 2)[:2].max() > 0.01


# Angles


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sine_is_that_of_the_angle_and_keeps_tiny_ones(seed):
    x, u = draw(seed, 7, 5), draw(seed + 1, 7, 5)
    cosine = torch.nn.functional.cosine_similarity(x, u, dim=-1)
    # sqrt(1 - cos^2) is good to 1e-8 only where the sine is small; Gaussian vectors are far apart
    assert (one.sine(x, u) - (1 - cosine**2).sqrt()).abs().max() < 1e-12
    assert (one.sine(3 * x, -2 * u) - one.sine(u, x)).abs().max() < 1e-14 and one.sine(x, x).max() < 1e-15
    e = torch.eye(2, dtype=f64)
    assert one.sine(e[0] + 1e-12 * e[1], e[0]) == pytest.approx(1e-12, rel=1e-12)


@pytest.mark.parametrize("d, samples", [(2, 3), (5, 8), (20, 30)])
def test_the_sampled_sine_has_the_mean_of_its_beta_law(d, samples):
    # independent of the formula: tan^2 = chi2_{d-1} / chi2_N means sin^2 ~ Beta((d-1)/2, N/2)
    assert one.mean_sampled_sine_squared(d, samples) == pytest.approx(
        beta_law((d - 1) / 2, samples / 2).mean(), rel=1e-12
    )
    squares = one.sampled_sine_squared(d, samples, 4000, device.generator(d), "cpu")
    X = draw(d, 4000, samples, d)  # the same draws, and the angle from its cosine
    pulled = np.einsum("dni,dn->di", X.numpy(), X.numpy()[:, :, 0])
    # 1 - cos^2 is good to 1e-15 of one
    assert np.abs(squares.numpy() - (1 - pulled[:, 0] ** 2 / np.square(pulled).sum(1))).max() < 1e-13
    # four standard errors
    assert abs(squares.mean() - one.mean_sampled_sine_squared(d, samples)) < 4 * squares.std() / math.sqrt(4000)
    assert one.mean_sampled_sine_squared(1, samples) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_square_root_is_symmetric_positive_and_squares_back(seed):
    M = draw(seed, 3, 4, 6)
    M = torch.cat(
        [M @ M.mT, torch.diag(torch.tensor([4.0, 1.0, 0.0, 0.0], dtype=f64))[None]]
    )  # the last one is singular
    root = one.square_root(M)
    # rounding of one product; symmetric and without negative eigenvalue, which makes it the only one
    assert (root @ root - M).abs().max() < 1e-13 * M.abs().max()
    assert (root - root.mT).abs().max() < 1e-14 * M.abs().max() and torch.linalg.eigvalsh(root).min() > -1e-13
    for k in range(3):
        # Schur's method; regular matrices lose a digit or two
        assert np.abs(root[k].numpy() - sqrtm(M[k].numpy())).max() < 1e-10


@pytest.mark.parametrize("ratio", [0.2, 1.0, 7.0])
def test_the_exact_relu_sine_is_that_of_a_sum_over_the_circle(ratio):
    angles = torch.tensor([0.2, 1.3, 2.8], dtype=f64)
    found = one.exact_relu_sine(ratio, angles)
    points = np.linspace(0, 2 * np.pi, 400_001)[:-1]
    x = np.stack([np.cos(points), np.sin(points)])  # the radius of a normal x only multiplies the gradient
    for angle, value in zip(angles.tolist(), found.tolist()):
        delta = ratio * np.array([np.cos(angle), np.sin(angle)])
        gradient = (x * (np.maximum((np.array([1.0, 0.0]) + delta) @ x, 0) - np.maximum(x[0], 0)) * (x[0] > 0)).mean(1)
        # a sum over equal steps of a function with kinks
        assert value == pytest.approx(
            abs(gradient[0] * delta[1] - gradient[1] * delta[0]) / np.linalg.norm(gradient) / ratio, abs=1e-4
        )
    # a table of ratios and angles at once; a shift along the weights is not turned
    assert (one.exact_relu_sine(torch.tensor([[ratio], [2 * ratio]], dtype=f64), angles)[0] - found).abs().max() < 1e-15
    assert one.exact_relu_sine(ratio, 0.0) < 1e-15


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.0, 2.9])
def test_the_relu_sine_is_that_of_a_large_sample(angle):
    ratio = 0.5
    w = torch.tensor([1.0, 0.0], dtype=f64)
    delta = ratio * torch.tensor([math.cos(angle), math.sin(angle)], dtype=f64)
    # Gauss-Legendre on the circle: x = rho (cos, sin) has E rho^2 = 2, and the rest depends on the direction alone
    points = torch.linspace(0, 2 * math.pi, 2_000_001, dtype=f64)[:-1]
    x = torch.stack([points.cos(), points.sin()], -1)
    gradient = (x * (((x @ (w + delta)).clamp(min=0) - (x @ w).clamp(min=0)) * (x @ w > 0))[:, None]).mean(0) * 2
    exact = lora_one.mean_relu_gradient(w[:, None], delta[:, None])[:, 0]
    # a sum over two million equal steps, with kinks
    assert (gradient - exact).abs().max() < 1e-5
    gaps = [
        abs(
            float(
                one.sine(lora_one.mean_relu_gradient(w[:, None], r * delta[:, None])[:, 0], delta)
                - one.relu_sine(r * ratio, angle)
            )
        )
        for r in (1e-2, 1e-3)
    ]
    # what is left out is of second order
    assert 50 < gaps[0] / gaps[1] < 200


# Races


def trap(pull, decay=0.1):
    return kim.decoy_family(4, 1, 1.0, 10.0, pull + decay, 11.0, decay, decoys=1)


@pytest.mark.parametrize("pull", [0.5, 2.0])
@pytest.mark.parametrize("kind", one.KINDS)
def test_a_small_start_goes_with_the_larger_pull(kind, pull):
    race, again = (one.staged_race(kind, pull, size, n=4, rank=2, draws=6, decay=0.1, seed=1) for size in (1e-5, 1e-6))
    assert race.pull == pytest.approx(pull, rel=1e-12)
    assert bool((race.rival_leads() == float(pull > 1)).all())
    # long enough: one of the two is learnt in every draw, and a smaller start changes nothing
    assert torch.maximum(race.first, race.rival).amax(0).min() > 0.9
    assert torch.equal(race.rival_leads(), again.rival_leads())


@pytest.mark.parametrize("pull", [0.5, 2.0])
@pytest.mark.parametrize("kind", one.KINDS)
def test_a_start_ten_times_smaller_delays_the_winner_by_the_logarithm_over_its_rate(kind, pull):
    # sigma ||W2^T u|| = 1 / pull and sigma ||W1 v|| = 1; S_i D_i = 2 and 2 pull; a = 1 and c - lambda = pull
    rate = {"adapters": max(1 / pull, 1.0), "subspaces": 2 * max(1.0, pull), "minima": max(1.0, pull)}[kind]
    races = [one.staged_race(kind, pull, size, n=4, rank=2, draws=6, decay=0.1, seed=1) for size in (1e-6, 1e-7)]
    early, late = (
        measure.first_passage(race.times, torch.maximum(race.first, race.rival), 0.5, upwards=True) for race in races
    )
    # each time is read off a grid
    assert float((late - early - math.log(10) / rate).abs().max()) < float(races[1].times.diff()[0])


def test_an_adapter_race_favours_adapter_one_by_the_norms_alone():
    problem = mallada.isotropic((4, 4, 4), device.generator(0), 1.0, 1.0, 1.0, count=6, device="cpu")
    u, v = (part[..., None] for part in mallada.mode(problem)[1:3])
    larger = mallada.TwoLayer(problem.W1, (3 * torch.eye(4, dtype=f64) - 2.5 * u @ u.mT) @ problem.W2, problem.shift)
    race = one.adapter_race(larger, 1e-5 * draw(1, 6, 2, 4), 1e-5 * draw(2, 6, 2, 4), [1.0])
    # the pulls from the layers themselves
    assert race.pull == pytest.approx(
        float(((larger.W1 @ v).norm(dim=(1, 2)) / (larger.W2.mT @ u).norm(dim=(1, 2))).mean()), rel=1e-12
    )
    assert bool((larger.W2.norm(dim=(1, 2)) > larger.W1.norm(dim=(1, 2))).all())


def test_pulls_are_singular_values_of_g():
    pull = 1.7
    G = -trap(pull).gradient(torch.zeros(4, 4, dtype=f64)).diagonal()
    # decay takes lambda off both
    assert float((G[1] - 0.1) / (G[0] - 0.1)) == pytest.approx(
        one.minimum_race(trap(pull), torch.zeros(1, 4, 1, dtype=f64), 1e-5 * draw(0, 1, 1, 4), [1.0]).pull, rel=1e-12
    )


def test_where_a_race_ends():
    times = torch.linspace(0, 40, 100, dtype=f64)
    start = 1e-4 * draw(5, 4, 1, 2)
    given_up, kept = (one.subspace_race([3.0, 1.0], [1.0, weight], start, times) for weight in (4.0, 12.0))
    # the best update of rank one: the larger covariance times square, 9 against 4 and 9 against 12
    assert (
        given_up.rival.amax(0).min() > 0.9
        and given_up.rival[-1].abs().max() < 1e-3
        and (given_up.first[-1] - 1).abs().max() < 1e-3
    )
    assert (kept.rival[-1] - 1).abs().max() < 1e-3
    end = one.minimum_race(trap(2.0), torch.zeros(1, 4, 1, dtype=f64), 1e-5 * draw(0, 1, 1, 4), [60.0])
    assert abs(end.rival[-1, 0] - 1) < 1e-6


def test_a_race_that_nobody_finishes_has_no_winner():
    share = torch.tensor([[0.0, 0.0, 0.1], [0.2, 0.6, 0.2]], dtype=f64)
    race = one.Race(torch.arange(2, dtype=f64), share, torch.tensor([[0.0, 0.0, 0.7], [0.3, 0.1, 0.9]], dtype=f64), 1.0)
    leads = race.rival_leads()
    assert leads[0].isnan() and leads[1:].tolist() == [0.0, 1.0]


# The public door


@pytest.mark.parametrize(
    "call, came",
    [
        (
            lambda: one.trace_early(draw(0, 4, 4), draw(1, 2, 4), [0.1, -1.0]),
            "scales must be a vector of positive numbers",
        ),
        (lambda: one.trace_early(draw(0, 4, 4), draw(1, 2, 4), 0.1), "scales must be a vector of positive numbers"),
        (lambda: one.trace_early(draw(0, 4, 4) * math.nan, draw(1, 2, 4), [0.1]), "W0 has entries that are NaN"),
        (lambda: one.landscape_early(trap(2.0), draw(0, 1, 4).float(), [0.1]), "A0 must be a float64 tensor"),
        (
            lambda: one.two_layer_early(
                mallada.TwoLayer(draw(0, 5, 4), draw(1, 4, 5), draw(2, 4, 4)), draw(3, 2, 4), draw(4, 2, 5), [0.1]
            ),
            "all layers must be square",
        ),
        (lambda: one.learnt(0.0, 0.1, [1.0]), "The target of a mode is 0"),
        (lambda: one.learnt(1.0, math.nan, [1.0]), "x0 has entries that are NaN"),
        (lambda: one.learnt(1.0, 0.1, [-1.0]), "times must not be negative"),
        (lambda: one.mean_sampled_sine_squared(0, 5), "d must be a whole number >= 1"),
        (lambda: one.mean_sampled_sine_squared(3, 2.5), "samples must be a whole number >= 1"),
        (
            lambda: one.six_starts(regression(0), 2, 0.0, 1.0, device.generator(0)),
            "size must be positive and finite; got 0.0",
        ),
        (
            lambda: one.six_starts(regression(0), 2, 1.0, math.inf, device.generator(0)),
            "large must be positive and finite; got inf",
        ),
        (lambda: one.six_starts(regression(0), 9, 0.1, 1.0, device.generator(0)), "rank 9"),
        (lambda: one.subspace_race([1.0, 2.0], [1.0, 1.0], draw(0, 3, 1, 2), [1.0]), "singular decreasing"),
        (lambda: one.subspace_race([2.0, 1.0], [1.0, 0.0], draw(0, 3, 1, 2), [1.0]), "two positive numbers each"),
        (
            lambda: one.adapter_race(
                mallada.isotropic((4, 4, 4), device.generator(0), 2.0, device="cpu"),
                draw(1, 2, 4),
                draw(2, 2, 4),
                [1.0],
            ),
            "W2 must be larger than W1",
        ),
        (lambda: one.misfit(beginning("kim"), [math.nan]), "NaN or infinite"),
        (
            lambda: one.staged_race("layers", 2.0, 0.1, 4, 2, 3, 0.1, 0),
            "kind must be one of adapters, subspaces, minima; got 'layers'",
        ),
        (lambda: one.staged_race("minima", 0.0, 0.1, 4, 2, 3, 0.1, 0), "pull must be positive and finite; got 0.0"),
        (
            lambda: one.staged_race("minima", 2.0, math.nan, 4, 2, 3, 0.1, 0),
            "size must be positive and finite; got nan",
        ),
        (lambda: one.sampled_sine_squared(3, 0, 5, device.generator(0)), "samples must be a whole number >= 1"),
        (lambda: one.square_root(torch.full((2, 2), math.nan, dtype=f64)), "NaN or infinite"),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, came):
    with pytest.raises(ValueError, match=came) as raised:
        call()
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


def test_a_flow_that_does_not_arrive_says_so():
    with pytest.raises(RuntimeError, match="1 of 2 systems did not arrive"):
        one.factor_flow(
            lambda B, A: (B**3, A),
            torch.tensor([0.1, 5.0], dtype=f64)[:, None, None],
            torch.ones(2, 1, 1, dtype=f64),
            [1.0],
        )


def test_every_line_of_the_table_of_theorems_shows_the_verdict_of_the_claim_it_leads_to(root):
    lines = [line for line in (root / "notebooks/one_dynamics.md").read_text().splitlines() if "::verdict-" in line]
    assert len(lines) > 20
    for line in lines:
        (anchor,), (claim,) = (
            re.findall(r"\(#claim-([\w-]+)\)", line),
            re.findall(r"ledger\.ipynb::verdict-([\w.-]+):s`", line),
        )
        assert anchor == claim.replace(".", "-") and lists.find(claim)


def test_no_room_below_knows_this_one():
    from pathlib import Path

    root = Path(one.__file__).parent.parent
    for path in root.rglob("*.py"):
        if path.parent.name != "one_dynamics":
            assert not re.search(r"lorabook\.one_dynamics|import .*\bone_dynamics", path.read_text()), path


@pytest.mark.parametrize("name", NAMES)
def test_the_early_phase_stays_on_its_device(name):
    early = beginning(name)
    times = some_times(early)
    with no_hidden_host_transfers():
        one.linear(early, times)


def test_the_rest_stays_on_its_device():
    problem, x, start = regression(0), draw(0, 3, 4), (draw(1, 1, 4, 2), draw(2, 1, 2, 4))
    problem.pull, problem.covariance  # noqa: B018
    with no_hidden_host_transfers():
        one.learnt(x, x, x[0].abs().cumsum(0), clock=x.abs())
        (
            one.sine(x, x),
            one.relu_sine(x, x),
            one.exact_relu_sine(x, x),
        )
        one.square_root(x.mT @ x), one.sampled_sine_squared(3, 4, 5, device.generator(0), x.device)
        one.regression_flow(problem, *start, x[0].abs().cumsum(0))
