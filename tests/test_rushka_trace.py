"""The trace-squared loss: closed forms for every start, limits, distances of minimisers, rates."""

import math
from fractions import Fraction

import pytest
import torch

from lorabook import device, flow, linalg, rushka

f64 = torch.float64
SEEDS = (0, 1, 2)


def draws(seed, *shapes):
    source = device.generator(seed)
    return tuple(device.normal(shape, source, "cpu") for shape in shapes)


def starts(seed, n, r, batch=()):
    return draws(seed, (*batch, n, r), (*batch, r, n))


def by_integrator(c, B0, A0, times):
    """The flow of (1/2)(c - Tr BA)^2."""

    def velocity(state, c):
        a = residual_of(c, *state)[:, None, None]
        return a * state[1].mT, a * state[0].mT

    return flow.integrate(velocity, (B0, A0), times, parameters=(c,)).states


def residual_of(c, B, A):
    return c - (B @ A).diagonal(dim1=-2, dim2=-1).sum(-1)


# Gradients


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradients_are_those_of_automatic_differentiation(seed):
    (B, A), c = starts(seed, 5, 2), 1.7
    wanted = torch.autograd.functional.jacobian(lambda B, A: (c - torch.trace(B @ A)).square() / 2, (B, A))
    for gradient, other in zip(rushka.trace_gradients(c), wanted):
        # two ways to one number differ by rounding
        assert (gradient(B, A) - other).abs().max() < 1e-13
        assert torch.allclose(gradient(B.expand(3, 5, 2), A.expand(3, 2, 5))[2], other, rtol=1e-13, atol=1e-13)


def test_the_gradients_take_one_trace_per_system():
    (B, A), c = starts(0, 5, 2, (3,)), torch.tensor([1.0, -2.0, 0.0], dtype=f64)
    gradient = rushka.trace_gradients(c)[0](B, A)
    for k in range(3):
        assert torch.equal(gradient[k], rushka.trace_gradients(float(c[k]))[0](B[k], A[k]))


# The flow


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n, r", [(5, 2), (4, 4), (6, 1)])
def test_the_flow_agrees_with_the_integrator_from_any_start(seed, n, r):
    B0, A0 = starts(seed, n, r, (7,))
    c = torch.tensor([3.0, -3.0, 0.0, 0.2, -8.0, 2.0, 2.0], dtype=f64)
    B0[5] = 0  # the paper's start
    A0[6] = 0  # and its mirror image
    times = torch.tensor([0.05, 0.3, 2.0], dtype=f64)
    found, wanted = rushka.trace_flow(c, B0, A0, times), by_integrator(c, B0, A0, times)
    assert found.B.shape == (3, 7, n, r) and found.A.shape == (3, 7, r, n) and found.residual.shape == (3, 7)
    for one, other in zip(found, wanted):
        # the integrator's error at rtol 1e-10
        assert (one - other).abs().max() < 1e-8 * other.abs().max()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_flow_moves_along_minus_the_gradient(seed):
    (B0, A0), c = starts(seed, 4, 2), -1.3
    one = torch.ones(1, dtype=f64)
    at, rate = torch.func.jvp(lambda t: tuple(rushka.trace_flow(c, B0, A0, t)), (one * 0.2,), (one,))
    a = at[2][0]
    # forward differentiation of the closed form is exact to rounding
    assert (rate[0][0] - a * at[1][0].mT).abs().max() < 1e-12 * (1 + rate[0].abs().max())
    assert (rate[1][0] - a * at[0][0].mT).abs().max() < 1e-12 * (1 + rate[1].abs().max())
    # and the residual falls at the rate |B|^2 + |A|^2
    assert abs(float(rate[2][0] + a * (at[0].square().sum() + at[1].square().sum()))) < 1e-11 * (
        1 + abs(float(rate[2][0]))
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [2.0, -2.0, 0.0])
def test_residual_and_factors_tell_one_story_and_the_balance_stays(seed, c):
    B0, A0 = starts(seed, 6, 3)
    at = rushka.trace_flow(c, B0, A0, torch.logspace(-6, 2, 40, dtype=f64))
    scale = at.B.square().sum((1, 2)) + at.A.square().sum((1, 2)) + abs(c)
    # c - Tr(BA) floors at rounding of its terms; the closed form does not
    assert ((residual_of(c, at.B, at.A) - at.residual).abs() / scale).max() < 1e-14
    drift = linalg.balance(at.B, at.A) - linalg.balance(B0, A0)
    # conserved by the flow, to rounding of the squares
    assert (drift.abs().amax((1, 2)) / scale).max() < 1e-14
    assert (at.residual[1:].abs() <= at.residual[:-1].abs()).all() and (at.residual * at.residual[0] >= 0).all()


def test_at_time_zero_the_start_is_returned():
    B0, A0 = starts(0, 5, 2)
    at = rushka.trace_flow(2.0, B0, A0, 0)
    # two square roots of one number, to rounding
    assert (at.B[0] - B0).abs().max() < 1e-15 * B0.abs().max() and (at.A[0] - A0).abs().max() < 1e-15 * A0.abs().max()
    # c - (P - Q) / 4 is Tr(W0 - B0 A0), to rounding of P and Q
    assert abs(float(at.residual[0] - residual_of(2.0, B0, A0))) < 1e-13


def test_from_b0_equal_zero_nothing_of_the_first_change_is_lost():
    _, A0 = starts(0, 5, 2)
    times = torch.tensor([1e-14, 1e-10, 1e-7], dtype=f64)
    at = rushka.trace_flow(2.0, torch.zeros_like(A0.mT), A0, times)
    first = 2.0 * times[:, None, None] * A0.mT  # B = c t A0^T + O(t^2)
    assert ((at.B - first).norm(dim=(1, 2)) / first.norm(dim=(1, 2)) < 1e-12 + 20 * times).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 30.0])
@pytest.mark.parametrize("c", [2.0, -2.0, 0.0])
def test_at_late_times_the_product_is_the_limit_and_nothing_overflows(seed, scale, c):
    B0, A0 = (scale * x for x in starts(seed, 5, 2, (4,)))
    B0[0] = 0
    limit = rushka.trace_limit(c, B0, A0)
    times = [1e6 / scale**2, 1e20 / scale**2, 1e290]
    at = rushka.trace_flow(c, B0, A0, times)
    assert all(field.isfinite().all() for field in at)
    size = at.B.square().sum((2, 3)) + at.A.square().sum((2, 3))
    # rounding of the products
    assert ((at.B @ at.A - limit).abs().amax((2, 3)) / size).max() < 1e-13
    assert at.residual.abs().max() < 1e-12 * (abs(c) + scale**2)
    # zero loss: the limit has the trace c
    assert ((limit.diagonal(dim1=1, dim2=2).sum(1) - c).abs() / size.amax(0)).max() < 1e-14


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 4, 7])
def test_from_b0_equal_zero_the_limit_is_equation_32_for_every_rank(seed, n):
    for r in range(1, n + 1):
        (A0,) = draws(seed, (r, n))
        for c in (3.0, -0.1):
            wanted = c * A0.mT @ A0 / A0.square().sum()
            # rounding relative to |c| + |A0|^2
            assert (rushka.trace_limit(c, torch.zeros(n, r, dtype=f64), A0) - wanted).abs().max() < 1e-15 * (
                A0.square().sum() + abs(c)
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_starts_on_the_stable_set_end_at_the_saddle_and_a_nudge_sets_them_free(seed):
    (A0,), nudge = draws(seed, (2, 5)), 1e-9
    for c, sign in ((1.5, -1.0), (-1.5, 1.0)):
        at = rushka.trace_flow(c, sign * A0.mT, A0, [1.0, 1e3, 1e300])
        assert all(field.isfinite().all() for field in at)
        # the factors die out, the residual stays at the trace
        assert (at.residual[1:] / c - 1).abs().max() < 1e-14 and at.A[1:].abs().max() < 1e-100
        assert rushka.trace_limit(c, sign * A0.mT, A0).abs().max() == 0
        free = rushka.trace_flow(c, (sign + nudge) * A0.mT, A0, 1e3)
        # counter-probe: rounding, enlarged by the 1e9 over which the nudge has grown
        assert free.residual.abs().max() < 1e-12 and abs(float((free.B[0] @ free.A[0]).trace()) - c) < 1e-6
        # the other sign of the trace is no trap
        assert rushka.trace_flow(-c, sign * A0.mT, A0, 1e3).residual.abs().max() < 1e-100


@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-6, 1e-9])
def test_beside_the_stable_set_nothing_is_lost(distance):
    A0, noise = draws(3, (2, 5), (5, 2))
    B0 = -A0.mT + distance * noise
    at, limit = rushka.trace_flow(1.0, B0, A0, 1e3), rushka.trace_limit(1.0, B0, A0)
    # rounding: the sum of nearly opposite starts is exact
    assert (at.B[0] @ at.A[0] - limit).abs().max() < 1e-14


def test_with_zero_trace_the_tail_is_algebraic_on_the_mirrored_starts():
    (A0,) = draws(4, (2, 5))
    P = 4 * A0.square().sum()
    for sign in (1.0, -1.0):
        times = torch.tensor([0.0, 1.0, 1e4, 1e9], dtype=f64)
        found = rushka.trace_flow(0.0, sign * A0.mT, A0, times).residual
        wanted = -sign * (P / 4) / (1 + P * times / 2)  # from a' = -2 |a| a
        # rounding
        assert (found / wanted - 1).abs().max() < 1e-14


@pytest.mark.parametrize("seed", SEEDS)
def test_rotations_transposes_units_and_signs(seed):
    (B0, A0), c = starts(seed, 5, 3), 1.2
    source = device.generator(seed + 40)
    U, Q = (linalg.random_orthonormal(k, k, source, "cpu") for k in (5, 3))
    times = torch.tensor([0.1, 1.0], dtype=f64)
    plain, limit = rushka.trace_flow(c, B0, A0, times), rushka.trace_limit(c, B0, A0)
    turned = rushka.trace_flow(c, U @ B0 @ Q, Q.mT @ A0 @ U.mT, times)
    flipped = rushka.trace_flow(c, A0.mT, B0.mT, times)
    scaled = rushka.trace_flow(4 * c, 2 * B0, 2 * A0, times / 4)
    signed = rushka.trace_flow(-c, -B0, A0, times)
    for one, other in (
        (turned.B, U @ plain.B @ Q),
        (turned.A, Q.mT @ plain.A @ U.mT),
        (turned.residual, plain.residual),
        (flipped.B, plain.A.mT),
        (flipped.A, plain.B.mT),
        (scaled.B, 2 * plain.B),
        (scaled.residual, 4 * plain.residual),
        (signed.B, -plain.B),
        (signed.A, plain.A),
        (signed.residual, -plain.residual),
        (rushka.trace_limit(c, U @ B0 @ Q, Q.mT @ A0 @ U.mT), U @ limit @ U.mT),
        (rushka.trace_limit(c, A0.mT, B0.mT), limit.mT),
        (rushka.trace_limit(-c, -B0, A0), -limit),
        (rushka.trace_limit(4 * c, 2 * B0, 2 * A0), 4 * limit),
    ):
        # rounding of the rotations
        assert (one - other).abs().max() < 1e-13 * (1 + other.abs().max())
    # counter-probe: the trace is not invariant under separate rotations of the two sides
    apart = rushka.trace_flow(c, U @ B0, A0, times)
    assert (apart.residual - plain.residual).abs().max() > 1e-2


def test_many_systems_at_once_equal_one_by_one_in_any_batch_shape():
    (B0, A0), c = starts(5, 4, 2, (2, 3)), draws(6, (2, 3))[0]
    times = [2.0, 0.0, 0.3]  # in any order
    at, limit = rushka.trace_flow(c, B0, A0, times), rushka.trace_limit(c, B0, A0)
    assert at.B.shape == (3, 2, 3, 4, 2) and at.residual.shape == (3, 2, 3) and limit.shape == (2, 3, 4, 4)
    for i in range(2):
        for j in range(3):
            one = rushka.trace_flow(float(c[i, j]), B0[i, j], A0[i, j], times)
            for single, many in zip(one, at):
                # sums in another order: rounding
                assert torch.allclose(single, many[:, i, j], rtol=1e-12, atol=1e-14)
            assert torch.allclose(rushka.trace_limit(c[i, j], B0[i, j], A0[i, j]), limit[i, j], rtol=1e-12, atol=1e-14)
    # one start, many traces; as many times as traces
    swept = rushka.trace_flow(torch.tensor([1.0, -1.0, 0.0], dtype=f64), B0[0, 0], A0[0, 0], times)
    assert swept.B.shape == (3, 3, 4, 2)
    for k, trace in enumerate((1.0, -1.0, 0.0)):
        assert torch.allclose(
            swept.B[:, k], rushka.trace_flow(trace, B0[0, 0], A0[0, 0], times).B, rtol=1e-13, atol=1e-15
        )
    assert rushka.trace_flow(1.0, B0[0], A0[0, 0], times).A.shape == (3, 3, 2, 4)


def test_a_million_times_are_one_call():
    B0, A0 = starts(0, 2, 1)
    at = rushka.trace_flow(1.0, B0, A0, torch.linspace(0, 50, 1_000_000, dtype=f64))
    assert at.B.shape == (1_000_000, 2, 1) and at.residual.isfinite().all()


# Full rank, rates


@pytest.mark.parametrize("seed", SEEDS)
def test_the_full_rank_flow_solves_its_equation_and_reaches_its_limit(seed):
    (X0,), c = draws(seed, (3, 4, 4)), -2.0
    times = [0.0, 0.3, 50.0]
    found = rushka.full_rank_flow(c, X0, times)
    eye = torch.eye(4, dtype=f64)
    velocity = lambda X: (c - X.diagonal(dim1=1, dim2=2).sum(1))[:, None, None] * eye
    # the integrator's error at rtol 1e-10
    assert (found - flow.integrate(velocity, X0, times).states).abs().max() < 1e-8
    assert torch.equal(found[0], X0)
    limit = X0 + (c - X0.diagonal(dim1=1, dim2=2).sum(1))[:, None, None] * eye / 4
    # exp(-200) is below rounding
    assert (found[-1] - limit).abs().max() < 1e-14
    small = rushka.full_rank_flow(c, X0 * 0, [1e-12])[0] / 1e-12
    # the initial speed c I, also at times at which 1 - exp(-n t) has lost its digits
    assert (small - c * eye).abs().max() < 1e-11
    many = rushka.full_rank_flow(torch.tensor([1.0, 2.0, 3.0], dtype=f64), X0, times)
    assert torch.allclose(many[:, 2], rushka.full_rank_flow(3.0, X0[2], times), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [2.0, -0.3])
def test_the_flow_is_at_the_residual_when_it_should_be(seed, c):
    (A0,) = draws(seed, (5, 2, 6))
    for share in (1.0, 0.9, 0.5, 1e-3, 1e-12, 1e-200):
        times = rushka.time_to_residual(c, A0, share * abs(c))
        for time, A in zip(times, A0):
            reached = rushka.trace_flow(c, torch.zeros(6, 2, dtype=f64), A, time).residual
            # rounding of rho t up to 500, as a factor
            assert abs(float(reached) / (share * c) - 1) < 1e-12
    # two exponentials bound the way: from e^{-rho t} <= a / c <= e^{-N t}
    N = A0.square().sum((1, 2))
    rho, times = torch.hypot(N, torch.tensor(2 * c, dtype=f64)), rushka.time_to_residual(c, A0, 1e-6 * abs(c))
    assert (times * N <= math.log(1e6)).all() and (times * rho >= math.log(1e6)).all()


# The two minimisers


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n, r", [(6, 2), (5, 5), (7, 1), (1, 1)])
def test_the_relative_error_is_the_distance_of_the_two_limits(seed, n, r):
    (A0,), c = draws(seed, (4, r, n)), 1.9
    full = c * torch.eye(n, dtype=f64) / n
    distance = (rushka.trace_limit(c, torch.zeros(4, n, r, dtype=f64), A0) - full).norm(dim=(1, 2)) / full.norm()
    found = rushka.relative_error(A0)
    # rounding; where it vanishes (n = 1) exactly so
    assert (found - distance).abs().max() < 1e-14 * n
    gram = (A0.mT @ A0).square().sum((1, 2))
    printed = (n * gram - A0.square().sum((1, 2)) ** 2).clamp(min=0).sqrt() / A0.square().sum((1, 2))
    # the printed form loses half the digits only where the error is 0
    assert (found - printed).abs().max() < 1e-7 and (n == 1 or (found / printed - 1).abs().max() < 1e-12)
    U = linalg.random_orthonormal(n, n, device.generator(seed), "cpu")
    for other in (rushka.relative_error(1e100 * A0), rushka.relative_error(1e-100 * A0), rushka.relative_error(A0 @ U)):
        # neither units nor rotations, to rounding
        assert (other - found).abs().max() < 1e-13


def test_the_floor_is_attained_by_orthogonal_rows_and_undercut_by_none():
    for n in range(1, 8):
        for r in range(1, n + 1):
            rows = 3.0 * linalg.random_orthonormal(n, r, device.generator(n), "cpu").mT
            # attained, to the square root of rounding at r = n where the floor is 0
            assert abs(float(rushka.relative_error(rows)) - rushka.error_floor(n, r)) < 1e-14 * n
            samples = rushka.relative_error(draws(r, (200, r, n))[0])
            assert (samples >= rushka.error_floor(n, r) - 1e-14).all()


@pytest.mark.parametrize("n, r", [(3, 1), (4, 2), (8, 3), (5, 5)])
def test_the_mean_square_is_that_of_many_draws(n, r):
    squares = torch.stack([rushka.relative_error(draws(seed, (20_000, r, n))[0]).square() for seed in SEEDS])
    wanted = rushka.expected_squared_error(n, r)
    error = squares.std() / squares.numel() ** 0.5
    # four standard errors, passed by chance in one of 16000 runs
    assert abs(float(squares.mean() - wanted)) < 4 * float(error)
    # counter-probe: a neighbour formula, n r + 1 in the denominator, lies outside the same band
    assert abs(float(squares.mean()) - (n * n + n - 2) / (n * r + 1)) > 4 * float(error)


def test_the_mean_square_is_the_ratio_of_exact_gaussian_moments():
    for n in range(1, 9):
        for r in range(1, n + 1):
            # E |A^T A|^2 = n r (n + r + 1) and E |A|^4 = n r (n r + 2); size and shape of a Gaussian are independent
            wanted = n * Fraction(n * r * (n + r + 1), n * r * (n * r + 2)) - 1
            # one division of integers: rounding
            assert abs(rushka.expected_squared_error(n, r) - float(wanted)) < 1e-15 * max(1, wanted)
            excess = Fraction(n * (r - 1) * (r + 2), r * (n * r + 2))
            assert abs(rushka.expected_squared_error(n, r) - rushka.error_floor(n, r) ** 2 - float(excess)) < 1e-14 * n


# The public door

B_, A_ = starts(0, 4, 2)
BAD_START = [
    (dict(B0=B_[:3]), r"The trace needs a square update; B0 A0 is \(3, 4\)"),
    (dict(B0=torch.ones(4, 3, dtype=f64)), "ranks 3 and 2 differ"),
    (
        dict(B0=torch.ones(4, 5, dtype=f64), A0=torch.ones(5, 4, dtype=f64)),
        "The rank 5 is above the smaller dimension 4",
    ),
    (dict(A0=A_ * math.nan), "A has entries that are NaN"),
    (dict(B0=B_.float()), "B must be a float64 tensor; got torch.float32"),
    (
        dict(B0=B_.expand(2, 4, 2), A0=A_.expand(3, 2, 4)),
        r"leading dimensions do not fit each other: B \(2,\), A \(3,\)",
    ),
    (dict(trace=torch.ones(3), B0=B_.expand(2, 4, 2)), r"trace \(3,\), B0 \(2,\), A0 \(\)"),
    (dict(trace=math.nan), "trace has entries that are NaN or infinite"),
    (dict(trace=math.inf), "trace has entries that are NaN or infinite"),
    (dict(trace=None), "trace must be a number or a tensor of numbers; got None"),
    (dict(trace=0.0, B0=B_ * 0, A0=A_ * 0), "Zero trace with zero start: loss and gradients vanish"),
    (dict(trace=torch.tensor([1.0, 0.0]), B0=B_ * 0, A0=A_ * 0), "Zero trace with zero start"),
]


def one_sentence(raised):
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message


@pytest.mark.parametrize("routine", ["trace_flow", "trace_limit"])
@pytest.mark.parametrize("change, came", BAD_START)
def test_a_bad_start_gets_one_sentence(routine, change, came):
    arguments = dict(trace=1.0, B0=B_, A0=A_) | ({"times": [1.0]} if routine == "trace_flow" else {}) | change
    with pytest.raises(ValueError, match=came) as raised:
        getattr(rushka, routine)(**arguments)
    one_sentence(raised)


@pytest.mark.parametrize(
    "call, came",
    [
        (lambda: rushka.trace_flow(1.0, B_, A_, [-1.0]), "times must not be negative; the smallest is -1"),
        (lambda: rushka.trace_flow(1.0, B_, A_, [math.nan]), "times has entries that are NaN"),
        (lambda: rushka.full_rank_flow(1.0, torch.ones(4, 3, dtype=f64), [1.0]), r"square matrix; got \(4, 3\)"),
        (lambda: rushka.full_rank_flow(math.nan, torch.ones(4, 4, dtype=f64), [1.0]), "trace has entries that are NaN"),
        (
            lambda: rushka.full_rank_flow(torch.ones(2), torch.ones(3, 4, 4, dtype=f64), [1.0]),
            r"trace \(2,\), start \(3,\)",
        ),
        (lambda: rushka.full_rank_flow(1.0, torch.ones(4, 4, dtype=f64), [-2.0]), "the smallest is -2"),
        (lambda: rushka.relative_error(A_ * 0), "A0 is zero"),
        (lambda: rushka.relative_error(torch.stack([A_, A_ * 0])), "A0 is zero"),
        (lambda: rushka.relative_error(A_.mT), "The rank 4 is above the dimension 2"),
        (lambda: rushka.relative_error(A_ * math.inf), "A0 has entries that are NaN or infinite"),
        (lambda: rushka.time_to_residual(0.0, A_, 0.1), "With zero trace or zero A0 nothing moves"),
        (lambda: rushka.time_to_residual(1.0, A_ * 0, 0.1), "With zero trace or zero A0 nothing moves"),
        (lambda: rushka.time_to_residual(1.0, A_, 0.0), r"epsilon must lie in \(0, \|trace\|\] = \(0, 1\]; got 0.0"),
        (lambda: rushka.time_to_residual(-2.0, A_, 2.5), r"\(0, 2\]; got 2.5"),
        (lambda: rushka.time_to_residual(math.nan, A_, 0.1), "trace has entries that are NaN"),
        (lambda: rushka.time_to_residual(1.0, A_, math.nan), "epsilon has entries that are NaN"),
        (lambda: rushka.expected_squared_error(4, 5), "The rank 5 must lie between 1 and the dimension 4"),
        (lambda: rushka.expected_squared_error(4, 0), "The rank 0 must lie between 1 and the dimension 4"),
        (lambda: rushka.error_floor(3, -1), "The rank -1 must lie between 1 and the dimension 3"),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, came):
    with pytest.raises(ValueError, match=came) as raised:
        call()
    one_sentence(raised)


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_a_scale_at_which_squares_leave_float64_is_refused_and_not_answered_wrongly(scale):
    B0, A0 = starts(0, 5, 2)
    for call in (
        lambda: rushka.trace_flow(1.0, scale * B0, scale * A0, [1.0]),
        lambda: rushka.trace_flow(scale, B0, A0, [1.0]),
        lambda: rushka.trace_limit(1.0, 0 * B0, scale * A0),
        lambda: rushka.time_to_residual(1.0, scale * A0, 0.5),
        lambda: rushka.mode(scale, 1.0, [1.0]),
        lambda: rushka.mode(1.0, scale, [1.0]),
        lambda: rushka.half_time(1.0, scale),
    ):
        with pytest.raises(ValueError, match="must be 0 or of a size between 1e-75 and 1e.75; got "):
            call()


@pytest.mark.parametrize("scale", [1e-70, 1e70])
def test_the_closed_form_scales_exactly_up_to_the_edge_of_its_range(scale):
    # the flow of (c s^2, B s, A s) at t / s^2 is s times the flow of (c, B, A) at t; powers of two would be exact, ten
    # is not
    B0, A0 = starts(0, 5, 2)
    root, there = scale**0.5, rushka.trace_flow(1.0, B0, A0, [0.3])
    far = rushka.trace_flow(scale, root * B0, root * A0, [0.3 / scale])
    # scaling by a number that is no power of two rounds each entry once
    assert (far.B / root - there.B).abs().max() < 1e-13 * there.B.abs().max()
    assert (far.residual / scale - there.residual).abs().max() < 1e-13
