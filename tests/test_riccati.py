"""The two Riccati equations: against arithmetic with hundreds of digits, integrators and derivatives."""

import math
import random

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.integrate import solve_ivp

from lorabook import device, flow, linalg, riccati

f64 = torch.float64
SEEDS = (0, 1, 2)


def scalar(*values):
    return tuple(torch.tensor(value, dtype=f64) for value in values)


def by_matrix_exponential(c, P, Q, t):
    """u(t) and a(t) with 700 digits, from the linear system [v; w]' = [[c, Q/2], [P/2, -c]] [v; w], u = v / w."""
    with mpmath.workdps(700):
        c, P, Q, t = map(mpmath.mpf, (c, P, Q, t))
        half = mpmath.sqrt(4 * c * c + P * Q) / 2
        cosh, sinhc = mpmath.cosh(half * t), mpmath.sinh(half * t) / half if half else t
        u = (cosh + (c + Q / 2) * sinhc) / (cosh + (P / 2 - c) * sinhc)
        return u, c - (P * u - Q / u) / 4


@pytest.mark.parametrize("seed", SEEDS)
def test_the_exchange_agrees_with_700_digits_over_forty_orders_of_magnitude(seed):
    rng, worst = random.Random(seed), 0.0
    for _ in range(60):
        c = rng.choice((-1, 0, 1)) * 10 ** rng.uniform(-6, 3)
        P = 10 ** rng.uniform(-20, 3)
        Q = (
            rng.choice((P, 10 ** rng.uniform(-20, 3))) if c else 10 ** rng.uniform(-20, 3)
        )  # c = 0 and P = Q stands still
        pace = math.hypot(2 * c, math.sqrt(P * Q))
        t = 10 ** rng.uniform(-6, 2.8) / pace
        u, a = by_matrix_exponential(c, P, Q, t)
        found = riccati.exchange(*scalar(c, P, Q, t))
        # a(0) = c - (P - Q) / 4 is the caller's subtraction; exp(-rho t) turns the rounding of rho t into a factor
        cancelled = (abs(c) + P + Q) / abs(c - (P - Q) / 4)
        allowed = 1e-15 * (4 + cancelled + pace * t)
        with mpmath.workdps(50):
            root = mpmath.sqrt(u)
            wanted = a, root, 1 / root, root - 1, 1 / root - 1
            errors = [number.item() / exact - 1 for number, exact in zip(found, wanted, strict=True)]
        worst = max(worst, *(float(abs(error)) / allowed for error in errors))
    assert worst < 1


@pytest.mark.parametrize(
    "c, P, Q",
    [
        (1.0, 0.3, 0.8),
        (-1.5, 2.0, 0.1),
        (0.0, 1.0, 3.0),
        (2.0, 1e-6, 1e-6),
        (0.4, 0.0, 1.0),
        (-0.4, 0.0, 1.0),
        (0.0, 0.0, 2.0),
    ],
)
def test_the_exchange_agrees_with_scipy_dop853(c, P, Q):
    grid = np.linspace(0, 6, 13)
    oracle = solve_ivp(
        lambda _, tau: c - (P * np.exp(2 * tau) - Q * np.exp(-2 * tau)) / 4,
        (0, 6),
        [0.0],
        method="DOP853",
        t_eval=grid,
        rtol=1e-12,
        atol=1e-13,
    )
    tau = oracle.y[0]
    at = riccati.exchange(*scalar(c, P, Q), torch.from_numpy(grid))
    residual = c - (P * np.exp(2 * tau) - Q * np.exp(-2 * tau)) / 4
    # the integrator's error, absolute
    assert np.abs(at.residual.numpy() - residual).max() < 1e-10
    # where P or Q is 0 its gain is given as 0, because it multiplies a factor that is 0
    for found, wanted in (
        (at.rise, np.expm1(tau) * (P > 0)),
        (at.fall, np.expm1(-tau) * (Q > 0)),
        (at.grow, np.exp(tau) * (P > 0)),
        (at.shrink, np.exp(-tau) * (Q > 0)),
    ):
        # the integrator's absolute error in tau is the relative one of exp(tau)
        assert np.abs(found.numpy() - wanted).max() < 1e-10 * np.exp(np.abs(tau)).max()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_derivative_of_tau_is_the_residual(seed):
    draw = device.normal((4, 50), device.generator(seed), "cpu")
    c, P, Q, t = draw[0], draw[1].square(), draw[2].square(), draw[3].abs()
    t.requires_grad_()
    at = riccati.exchange(c, P, Q, t)
    tau = torch.log(at.grow)
    (rate,) = torch.autograd.grad(tau.sum(), t)
    # rounding of the logarithm of exp(tau)
    assert (rate - at.residual).abs().max() < 1e-11


def test_at_time_zero_nothing_has_moved():
    at = riccati.exchange(*scalar(3.0, [0.0, 1.0, 2.0, 5.0], [2.0, 0.0, 2.0, 1e-9], 0.0))
    # the subtraction of the start, to rounding
    assert torch.allclose(at.residual, 3 - torch.tensor([-2.0, 1.0, 0.0, 5 - 1e-9], dtype=f64) / 4, rtol=1e-15, atol=0)
    # no gain at all, exactly
    assert torch.equal(at.rise, torch.zeros(4, dtype=f64)) and torch.equal(at.fall, torch.zeros(4, dtype=f64))


def test_at_late_times_the_residual_is_zero_unless_the_start_lies_on_the_stable_set():
    c, P, Q = scalar(
        [1.0, -1.0, 1.0, -1.0, 2.0, -2.0], [1.0, 1.0, 0.0, 1.0, 1e-30, 0.0], [2.0, 2.0, 1.0, 0.0, 1.0, 1e-30]
    )
    for time in (1e3, 1e9, 1e300):
        at = riccati.exchange(c, P, Q, torch.tensor(time, dtype=f64))
        assert at.residual.tolist() == [0.0, 0.0, 1.0, -1.0, 0.0, 0.0]
        # u solves P u - Q / u = 4 c, rounding only; nothing is infinite
        assert all(field.isfinite().all() for field in at)
        grow, shrink = at.grow[:2], at.shrink[:2]
        assert ((P[:2] * grow**2 - Q[:2] * shrink**2) / (4 * c[:2]) - 1).abs().max() < 1e-14


def test_the_residual_keeps_its_accuracy_when_the_decay_underflows():
    for exponent in (700.0, 720.0, 740.0, 760.0):
        c, P, Q, t = 1.0, 1e-20, 1e-20, exponent / 2
        found, wanted = riccati.exchange(*scalar(c, P, Q, t)).residual.item(), by_matrix_exponential(c, P, Q, t)[1]
        # exp(-rho t) with the rounding of rho t = 760
        assert abs(float(found / wanted - 1)) < 1e-13


def test_no_size_of_start_overflows():
    for size in (1e-300, 1e-160, 1e160, 1e300):
        at = riccati.exchange(*scalar(1.0, size, size, [0.0, 1.0 / max(size, 1.0), 1e3]))
        assert all(field.isfinite().all() for field in at)
        assert at.residual[0] == 1.0 and (at.residual.diff() <= 0).all() and at.residual[-1] < 1e-100


@pytest.mark.parametrize("seed", SEEDS)
def test_mirrors_units_and_batches_of_the_exchange(seed):
    draw = device.normal((4, 30), device.generator(seed), "cpu")
    c, P, Q, t = draw[0], draw[1].square(), draw[2].square(), draw[3].square() * 5
    plain = riccati.exchange(c, P, Q, t)
    mirrored = riccati.exchange(-c, Q, P, t)
    scaled = riccati.exchange(8 * c, 8 * P, 8 * Q, t / 8)
    for one, other in (
        (scaled.residual, 8 * plain.residual),
        (scaled.rise, plain.rise),
        (mirrored.residual, -plain.residual),
        (mirrored.rise, plain.fall),
        (mirrored.grow, plain.shrink),
    ):
        # rounding of rho t, up to 100 here, as a factor; the start's subtraction cancels by less than 100
        assert torch.allclose(one, other, rtol=1e-13, atol=0)
    alone = [riccati.exchange(*(x[k] for x in (c, P, Q, t))) for k in range(30)]
    # vectorised exp and hypot may differ in the last digit, and a digit of rho is rho t of them in exp(-rho t)
    assert torch.allclose(torch.stack([one.residual for one in alone]), plain.residual, rtol=1e-13, atol=0)
    grid = riccati.exchange(c, P[:, None], Q[:, None], t[:3, None, None])
    assert all(field.shape == (3, 30, 30) for field in grid)


def test_a_wrong_residual_would_be_seen():
    c, P, Q, t = 1.0, 0.3, 0.8, 2.0
    found, wanted = riccati.exchange(*scalar(c, P, Q, t)).residual.item(), by_matrix_exponential(c, P, Q * 1.001, t)[1]
    # counter-probe: a thousandth in Q is far outside every tolerance above
    assert abs(float(found / wanted - 1)) > 1e-5


# Time to a residual


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("share", [1 - 1e-15, 1 - 1e-8, 0.9, 0.5, 1e-3, 1e-12, 1e-100])
def test_the_time_to_a_residual_agrees_with_700_digits(size, share):
    found = riccati.time_to_residual(*scalar(1.0, size, share)).item()
    with mpmath.workdps(700):
        N, e = mpmath.mpf(size), mpmath.mpf(share)
        rho = mpmath.sqrt(N * N + 4)
        wanted = (mpmath.asinh((rho**2 / e - 4) / (2 * N)) - mpmath.asinh(N / 2)) / rho
        # rounding of the larger arsinh, which is below 1 + ln(rho / epsilon N)
        assert abs(float((found - wanted) * rho)) < 1e-15 * (1 + abs(math.log(float(rho) / share / size)))


@pytest.mark.parametrize("c", [3.0, -0.2])
def test_the_residual_at_that_time_is_the_one_asked_for(c):
    epsilon = abs(c) * torch.logspace(-200, 0, 41, dtype=f64)
    size = torch.tensor([1e-4, 1.0, 50.0], dtype=f64)[:, None]
    times = riccati.time_to_residual(torch.tensor(c, dtype=f64), size, epsilon)
    assert times.shape == (3, 41) and (times[:, :-1] > times[:, 1:]).all()
    # at epsilon = |c| the start itself
    assert times[:, -1].abs().max() < 1e-12
    reached = riccati.exchange(torch.tensor(c, dtype=f64), size, size, times).residual.abs()
    # rounding of rho t up to 500, as a factor
    assert (reached / epsilon - 1).abs().max() < 1e-12


# The matrix equation


def symmetric(seed, N, batch=()):
    H = device.normal((*batch, N, N), device.generator(seed), "cpu")
    return (H + H.mT) / 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("N, r", [(5, 2), (4, 4), (3, 1)])
def test_balanced_factors_follow_the_integrator(seed, N, r):
    H, Z0 = symmetric(seed, N, (3,)), device.normal((3, N, r), device.generator(seed + 9), "cpu")
    times = torch.tensor([0.3, 1.0, 4.0], dtype=f64)
    found = riccati.balanced_factors(H, Z0, times)
    states = flow.integrate(lambda Z, H: H @ Z - Z @ Z.mT @ Z / 2, Z0, times, parameters=(H,)).states
    wanted = states @ states.mT
    # the integrator's error at rtol 1e-10
    assert (found @ found.mT - wanted).abs().max() < 1e-8 * wanted.abs().max()


@pytest.mark.parametrize("seed", SEEDS)
def test_balanced_factors_agree_with_the_formula_by_matrix_exponentials(seed):
    H, Z0, t = symmetric(seed, 5), device.normal((5, 2), device.generator(seed + 3), "cpu"), 0.7
    # int_0^t e^{2Hs} ds is the corner block of one exponential (Van Loan 1978)
    block = np.zeros((10, 10))
    block[:5, :5], block[:5, 5:] = 2 * H.numpy(), np.eye(5)
    integral = scipy.linalg.expm(t * block)[:5, 5:]
    grown = scipy.linalg.expm(t * H.numpy()) @ Z0.numpy()
    wanted = grown @ np.linalg.solve(np.eye(2) + Z0.numpy().T @ integral @ Z0.numpy(), grown.T)
    found = riccati.balanced_factors(H, Z0, torch.tensor([t], dtype=f64))[0]
    # rounding, enlarged by exp(|H| t) of about ten
    assert np.abs((found @ found.mT).numpy() - wanted).max() < 1e-13


@pytest.mark.parametrize("seed", SEEDS)
def test_balanced_factors_satisfy_their_equation_by_differences(seed):
    H, Z0, h = symmetric(seed, 4), device.normal((4, 2), device.generator(seed + 5), "cpu"), 1e-4
    Z = riccati.balanced_factors(H, Z0, torch.tensor([1 - h, 1.0, 1 + h], dtype=f64))
    M = Z @ Z.mT
    rate = (M[2] - M[0]) / (2 * h)
    # a central difference: h^2 times a third derivative of order ten, and rounding over h
    assert (rate - (H @ M[1] + M[1] @ H - M[1] @ M[1])).abs().max() < 1e-6


def test_balanced_factors_form_a_semigroup_and_do_not_depend_on_the_steps():
    H, Z0 = symmetric(1, 6), device.normal((6, 3), device.generator(2), "cpu")
    straight = riccati.balanced_factors(H, Z0, torch.tensor([5.0], dtype=f64))[0]
    stops = riccati.balanced_factors(H, Z0, torch.tensor([0.0, 0.1, 0.1, 2.0, 5.0], dtype=f64))
    short = riccati.balanced_factors(H, Z0, torch.tensor([5.0], dtype=f64), longest=0.1)[0]
    for other in (stops[-1], short):
        # exact steps: rounding of a hundred of them
        assert (other @ other.mT - straight @ straight.mT).abs().max() < 1e-12
    assert torch.equal(stops[1], stops[2])
    # at time zero the start, but for a change of basis and back
    assert (stops[0] - Z0).abs().max() < 1e-14


@pytest.mark.parametrize("seed", SEEDS)
def test_rotations_scales_and_batches_of_balanced_factors(seed):
    H, Z0 = symmetric(seed, 5, (4,)), device.normal((4, 5, 2), device.generator(seed + 1), "cpu")
    times = torch.tensor([0.5, 3.0], dtype=f64)
    plain = riccati.balanced_factors(H, Z0, times)
    M = plain @ plain.mT
    source = device.generator(seed + 2)
    U, V = linalg.random_orthonormal(5, 5, source, "cpu"), linalg.random_orthonormal(2, 2, source, "cpu")
    turned = U.mT @ riccati.balanced_factors(U @ H @ U.mT, U @ Z0 @ V, times)
    scaled = riccati.balanced_factors(4 * H, 2 * Z0, times / 4)
    for other in (turned @ turned.mT, scaled @ scaled.mT / 4):
        # rounding, carried along the flow
        assert (other - M).abs().max() < 1e-12
    for k in range(4):
        alone = riccati.balanced_factors(H[k], Z0[k], times)
        assert (alone @ alone.mT - M[:, k]).abs().max() < 1e-12


def test_balanced_factors_end_at_the_positive_part_of_h():
    values = torch.tensor([3.0, 2.0, 0.5, -1.0, -2.0], dtype=f64)
    U = linalg.random_orthonormal(5, 5, device.generator(6), "cpu")
    H = U * values @ U.mT
    Z0 = device.normal((5, 2), device.generator(7), "cpu")
    Z = riccati.balanced_factors(H, Z0, torch.tensor([200.0], dtype=f64))[0]
    wanted = 2 * (U[:, :2] * values[:2]) @ U[:, :2].mT
    # M' = HM + MH - M^2 has the limit 2 H on the span of the two largest: rounding of the product
    assert (Z @ Z.mT - wanted).abs().max() < 1e-12
    assert (
        riccati.balanced_factors(
            torch.zeros(5, 5, dtype=f64), torch.zeros(5, 2, dtype=f64), torch.tensor([9.0], dtype=f64)
        )
        .abs()
        .max()
        == 0
    )
