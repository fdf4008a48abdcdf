"""The low-rank approximation: modes, spectral and balanced starts, and the limits of Eckart, Young and Mirsky."""

import math

import mpmath
import pytest
import torch

from lorabook import device, flow, linalg, rushka

f64 = torch.float64
SEEDS = (0, 1, 2)


def draws(seed, *shapes):
    source = device.generator(seed)
    return tuple(device.normal(shape, source, "cpu") for shape in shapes)


def by_integrator(W0, B0, A0, times):
    """The flow of (1/2)|W0 - B A|^2, products (T, S, m, n)."""

    def velocity(state, W0):
        B, A = state
        E = W0 - B @ A
        return E @ A.mT, B.mT @ E

    B, A = flow.integrate(velocity, (B0, A0), times, parameters=(W0,)).states
    return B @ A


def with_spectrum(seed, m, n, s):
    source = device.generator(seed)
    U, V = (linalg.random_orthonormal(k, len(s), source, "cpu") for k in (m, n))
    return U * torch.tensor(s, dtype=f64) @ V.mT


# Gradients


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradients_are_those_of_automatic_differentiation(seed):
    W0, B, A = draws(seed, (5, 4), (5, 2), (2, 4))
    wanted = torch.autograd.functional.jacobian(lambda B, A: (W0 - B @ A).square().sum() / 2, (B, A))
    for gradient, other in zip(rushka.frobenius_gradients(W0), wanted):
        # two ways to one number differ by rounding
        assert (gradient(B, A) - other).abs().max() < 1e-13
        assert gradient(B.expand(3, 5, 2), A).shape == (3, *other.shape)


# Modes


def test_a_mode_agrees_with_fifty_digits():
    for s0, x0, t in [
        (2.0, 0.5, 0.7),
        (1.0, 1e-8, 19.0),
        (1e-3, 2.0, 4.0),
        (5.0, 1e-3, 1e-6),
        (3.0, -0.1, 1.0),
        (0.7, 0.1, 40.0),
    ]:
        with mpmath.workdps(50):
            s, N, time = mpmath.mpf(s0), mpmath.mpf(x0) ** 2, mpmath.mpf(t)
            rho = mpmath.sqrt(N**2 + 4 * s**2)
            # from dw/dt = (s - w) sqrt(N^2 + 4 w^2): equation (313) in the other unknown, s - w = rho^2 / (2 N sinh + 4
            # s)
            wanted = s - rho**2 / (2 * N * mpmath.sinh(rho * time + mpmath.asinh(N / (2 * s))) + 4 * s)
            error = abs(float(rushka.mode(torch.tensor(s0, dtype=f64), x0, t).item() - wanted))
        # relative 1e-13 of s0
        assert error < 1e-13 * s0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mode_is_the_flow_of_two_scalars(seed):
    s0, x0 = (x.abs() for x in draws(seed, (6,), (6,)))
    s0[0] = 0
    times = torch.tensor([0.0, 0.5, 3.0], dtype=f64)
    wanted = by_integrator(s0[:, None, None], torch.zeros(6, 1, 1, dtype=f64), x0[:, None, None], times)[..., 0, 0]
    found = rushka.mode(s0, x0, times)
    assert found.shape == (3, 6)
    # the integrator's error at rtol 1e-10
    assert (found - wanted).abs().max() < 1e-9
    assert found[0].abs().max() == 0 and found[:, 0].abs().max() == 0
    w, rate = torch.func.jvp(lambda t: rushka.mode(s0, x0, t), (times[1:2],), (torch.ones(1, dtype=f64),))
    # third witness: the derivative, by automatic differentiation
    assert (rate - (s0 - w) * torch.hypot(x0**2, 2 * w)).abs().max() < 1e-12


@pytest.mark.parametrize("x0", [1e-75, 1e-8, 1.0, 1e8])
def test_a_mode_rises_from_zero_to_its_singular_value_at_any_time(x0):
    times = torch.tensor([0.0, 1e-3, 1.0, 50.0, 1e4, 1e300], dtype=f64)
    w = rushka.mode(torch.tensor(3.0, dtype=f64), x0, times)
    # monotone up to the last digit
    assert w[0] == 0 and (w.diff() >= -1e-15).all() and abs(float(w[-1]) / 3 - 1) < 1e-15
    assert rushka.mode(torch.tensor(3.0, dtype=f64), 0.0, times).abs().max() == 0


def test_modes_broadcast_and_scale():
    s0, x0 = draws(1, (4,), (5, 1))
    s0 = s0.abs()
    w = rushka.mode(s0, x0, [1.0, 2.0])
    assert w.shape == (2, 5, 4)
    for i in range(5):
        for j in range(4):
            # vectorised exp may differ in the last digit
            assert torch.allclose(rushka.mode(s0[j], x0[i, 0], [1.0, 2.0]), w[:, i, j], rtol=1e-13, atol=0)
    assert torch.allclose(rushka.mode(4 * s0, 2 * x0, [0.25, 0.5]), 4 * w, rtol=1e-13, atol=0)
    assert rushka.mode(1.0, 0.1, 3).shape == (1,) and rushka.mode(1, 1, 3).dtype == f64


@pytest.mark.parametrize("s0, x0", [(2.0, 1e-6), (2.0, 0.3), (0.01, 1.0), (5.0, -40.0)])
def test_at_its_half_time_a_mode_is_half_learned(s0, x0):
    time = rushka.half_time(s0, x0)
    # rounding of the time, times the rate
    assert abs(float(rushka.mode(s0, x0, time)) / (s0 / 2) - 1) < 1e-12
    if x0**2 < 1e-3 * s0:
        # the next term is of relative order x0^2 / s0 over the logarithm
        assert abs(float(time) * 2 * s0 / math.log(4 * s0 / x0**2) - 1) < 1e-3


# Spectral starts and the tail


@pytest.mark.parametrize("seed", SEEDS)
def test_the_tail_sum_is_what_the_best_approximation_leaves(seed):
    (W0,) = draws(seed, (3, 6, 4))
    tail = rushka.tail_sum(W0)
    assert tail.shape == (3, 5) and tail[:, -1].abs().max() == 0 and (tail.diff() <= 0).all()
    for r in range(5):
        left = (W0 - linalg.truncate(W0, r)).square().sum((1, 2))
        # rounding of |W0|^2
        assert (tail[:, r] - left).abs().max() < 1e-13 * tail.max()
    assert torch.allclose(rushka.tail_sum(W0.mT), tail, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("m, n", [(5, 4), (4, 6)])
def test_from_a_spectral_start_each_mode_goes_its_own_way(m, n):
    W0 = with_spectrum(0, m, n, [3.0, 2.0, 1.0, 0.5])
    x0 = torch.tensor([0.5, -0.2, 0.1], dtype=f64)
    B0, A0 = rushka.spectral_start(W0, x0)
    assert B0.shape == (m, 3) and A0.shape == (3, n) and B0.abs().max() == 0
    # rows along singular vectors, of length x0, to rounding
    assert (A0 @ A0.mT - torch.diag(x0**2)).abs().max() < 1e-14
    times = torch.tensor([0.5, 2.0, 5.0], dtype=f64)
    product = by_integrator(W0[None], B0[None], A0[None], times)[:, 0]
    U, s, Vh = torch.linalg.svd(W0, full_matrices=False)
    core = U.mT @ product @ Vh.mT
    wanted = torch.diag_embed(torch.nn.functional.pad(rushka.mode(s[:3], x0, times), (0, 1)))
    # the integrator's error at rtol 1e-10
    assert (core - wanted).abs().max() < 1e-8


def test_a_spectral_start_on_other_triplets_ends_at_the_saddle_they_span():
    W0 = with_spectrum(1, 5, 5, [4.0, 3.0, 2.0, 1.0])
    U, s, Vh = torch.linalg.svd(W0)
    for triplets in ([1, 2], torch.tensor([3, 0])):
        B0, A0 = rushka.spectral_start(W0, torch.tensor([0.3, 0.3], dtype=f64), triplets)
        found = rushka.frobenius_flow(W0, B0, A0, [8.0])[0]
        wanted = sum(s[i] * U[:, [i]] @ Vh[[i]] for i in map(int, triplets))
        # exp(-2 s t) of what the slowest mode has left, and the growth exp(3 t) of rounding along the saddle
        assert (found - wanted).abs().max() < 1e-3
        assert abs(float((W0 - found).square().sum()) - float(s.square().sum() - wanted.square().sum())) < 1e-3


def test_a_mode_of_zero_start_is_never_learned():
    W0 = with_spectrum(2, 4, 4, [3.0, 2.0, 1.0])
    B0, A0 = rushka.spectral_start(W0, torch.tensor([0.5, 0.0], dtype=f64))
    product = by_integrator(W0[None], B0[None], A0[None], [5.0])[0, 0]
    # the second mode sits on its saddle, up to rounding grown by exp(2 * 5)
    assert (product - linalg.truncate(W0, 1)).norm() < 1e-4


def test_spectral_starts_of_many_matrices():
    (W0,) = draws(3, (4, 5, 3))
    x0 = torch.tensor([1.0, 0.1], dtype=f64)
    B0, A0 = rushka.spectral_start(W0, x0)
    assert B0.shape == (4, 5, 2) and A0.shape == (4, 2, 3)
    for k in range(4):
        one = rushka.spectral_start(W0[k], x0)[1]
        # signs of singular vectors are free, the outer products are not
        assert (one.mT @ one - A0[k].mT @ A0[k]).abs().max() < 1e-13


# Balanced starts


def balanced(seed, m, n, r, shift):
    """A start with B0^T B0 - A0 A0^T = shift I."""
    source = device.generator(seed)
    Q = linalg.random_orthonormal(r, r, source, "cpu")
    sizes = 0.3 + device.normal((r,), source, "cpu").square()
    U, V = linalg.random_orthonormal(m, r, source, "cpu"), linalg.random_orthonormal(n, r, source, "cpu")
    low = max(-shift, 0.0)
    return U * (sizes + low + shift).sqrt() @ Q, Q.mT @ (V * (sizes + low).sqrt()).mT


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "m, n, r, shift", [(5, 4, 2, 0.0), (4, 5, 2, 0.7), (3, 4, 3, -0.7), (4, 4, 4, 0.2), (5, 3, 1, 1.0)]
)
def test_the_closed_form_from_a_balanced_start_agrees_with_the_integrator(seed, m, n, r, shift):
    B0, A0 = balanced(seed, m, n, r, shift)
    (W0,) = draws(seed + 5, (m, n))
    times = torch.tensor([0.0, 0.1, 1.0, 4.0], dtype=f64)
    found = rushka.frobenius_flow(W0, B0, A0, times)
    wanted = by_integrator(W0[None], B0[None], A0[None], times)[:, 0]
    assert found.shape == (4, m, n)
    # the integrator's error at rtol 1e-10
    assert (found - wanted).abs().max() < 1e-8 * wanted.abs().max()
    # time zero is the start, to rounding of an eigenbasis
    assert (found[0] - B0 @ A0).abs().max() < 1e-13


def test_a_start_that_is_balanced_to_rounding_has_the_closed_form_and_one_that_is_nearly_has_not():
    B0, A0 = balanced(0, 5, 4, 2, 0.3)
    (W0,) = draws(5, (5, 4))
    column = lambda by: B0 * torch.tensor([1 + by, 1.0], dtype=f64)
    assert rushka.frobenius_flow(W0, column(1e-13), A0, [1.0]).isfinite().all()
    with pytest.raises(ValueError, match="this start has no closed form here; integrate it"):
        rushka.frobenius_flow(W0, column(1e-7), A0, [1.0])


@pytest.mark.parametrize("seed", SEEDS)
def test_every_start_of_rank_one_and_every_orthogonal_one_has_the_closed_form(seed):
    W0, B1, A1 = draws(seed, (6, 5, 4), (6, 5, 1), (6, 1, 4))
    rows = 0.1 * linalg.random_orthonormal(4, 3, device.generator(seed + 4), "cpu").mT
    zero = torch.zeros(6, 5, 3, dtype=f64)
    times = torch.tensor([0.5, 3.0], dtype=f64)
    for B0, A0 in ((B1, A1), (zero, rows.expand(6, 3, 4))):
        found, wanted = rushka.frobenius_flow(W0, B0, A0, times), by_integrator(W0, B0, A0.contiguous(), times)
        # the integrator's error at rtol 1e-10, grown while a start of 0.1 leaves the saddle
        assert found.shape == (2, 6, 5, 4) and (found - wanted).abs().max() < 1e-8 * wanted.abs().max()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_closed_form_moves_along_minus_the_gradient(seed):
    W0, B0, A0 = draws(seed, (4, 3), (4, 1), (1, 3))
    h = 1e-4
    X = rushka.frobenius_flow(W0, B0, A0, [0.0, 2 * h])
    middle = rushka.frobenius_flow(W0, B0, A0, [h])[0]
    # at rank one B B^T and A^T A follow from the product and the conserved imbalance
    shift, size = float(linalg.balance(B0, A0)), middle.norm()
    b2, a2 = (math.sqrt(shift**2 + 4 * float(size) ** 2) + sign * shift for sign in (1, -1))
    E = W0 - middle
    rate = b2 / 2 * (middle @ middle.mT / size**2) @ E + E @ (middle.mT @ middle / size**2) * a2 / 2
    # a central difference: h^2 times a third derivative below 1e3, and rounding over h
    assert ((X[1] - X[0]) / (2 * h) - rate).abs().max() < 1e-5


@pytest.mark.parametrize("m, n, r", [(6, 5, 2), (4, 6, 3)])
def test_a_balanced_start_reaches_the_best_approximation(m, n, r):
    W0 = with_spectrum(4, m, n, [4.0, 3.0, 2.0, 1.0])
    rows = 0.5 * linalg.random_orthonormal(n, r, device.generator(6), "cpu").mT
    product = rushka.frobenius_flow(W0, torch.zeros(m, r, dtype=f64), rows, [60.0])[0]
    # exp(-gap t) with a gap of 1 is below rounding
    assert (product - linalg.truncate(W0, r)).abs().max() < 1e-12
    assert abs(float((W0 - product).square().sum() / rushka.tail_sum(W0)[r]) - 1) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_rotations_transposes_and_units_of_the_closed_form(seed):
    (B0, A0), (W0,) = balanced(seed, 5, 4, 2, 0.3), draws(seed + 1, (5, 4))
    source = device.generator(seed + 60)
    U, V, Q = (linalg.random_orthonormal(k, k, source, "cpu") for k in (5, 4, 2))
    times = torch.tensor([0.3, 2.0], dtype=f64)
    plain = rushka.frobenius_flow(W0, B0, A0, times)
    for one, other in (
        (rushka.frobenius_flow(U @ W0 @ V.mT, U @ B0 @ Q, Q.mT @ A0 @ V.mT, times), U @ plain @ V.mT),
        (rushka.frobenius_flow(W0.mT, A0.mT, B0.mT, times), plain.mT),
        (rushka.frobenius_flow(4 * W0, 2 * B0, 2 * A0, times / 4), 4 * plain),
        (rushka.frobenius_flow(-W0, -B0, A0, times), -plain),
    ):
        # rounding of another eigenbasis, carried along the flow
        assert (one - other).abs().max() < 1e-12 * plain.abs().max()


def test_leading_dimensions_of_the_closed_form_may_sit_anywhere():
    W0, B0, A0 = draws(7, (3, 4, 4), (3, 4, 1), (3, 1, 4))
    times = [0.5, 1.0, 1.0]  # as many times as systems
    whole = rushka.frobenius_flow(W0, B0, A0, times)
    assert whole.shape == (3, 3, 4, 4) and torch.equal(whole[1], whole[2])
    for k in range(3):
        # the step length follows the largest matrix of the batch: rounding
        assert (rushka.frobenius_flow(W0[k], B0[k], A0[k], times) - whole[:, k]).abs().max() < 1e-12
    for arguments in ((W0[0], B0, A0), (W0, B0[0], A0[0]), (W0[0], B0, A0[0]), (W0, B0[0], A0)):
        mixed = rushka.frobenius_flow(*arguments, times)
        assert mixed.shape == (3, 3, 4, 4)
        one = [x[2] if x.ndim == 3 else x for x in arguments]
        assert (rushka.frobenius_flow(*one, times) - mixed[:, 2]).abs().max() < 1e-12


# The public door

W_, B_, A_ = draws(0, (5, 4), (5, 1), (1, 4))
NAN = torch.full((5, 4), math.nan, dtype=f64)


@pytest.mark.parametrize(
    "call, came",
    [
        (
            lambda: rushka.frobenius_flow(W_, *draws(1, (5, 2), (2, 4)), [1.0]),
            r"B0\^T B0 - A0 A0\^T is not a multiple of the identity",
        ),
        (lambda: rushka.frobenius_flow(NAN, B_, A_, [1.0]), "W0 has entries that are NaN or infinite"),
        (
            lambda: rushka.frobenius_flow(W_.mT, B_, A_, [1.0]),
            r"W0 \(4, 5\) and the update B A \(5, 4\) have different shapes",
        ),
        (lambda: rushka.frobenius_flow(W_, B_, A_.expand(2, 4), [1.0]), "ranks 1 and 2 differ"),
        (
            lambda: rushka.frobenius_flow(W_, B_.expand(5, 5), torch.ones(5, 4, dtype=f64), [1.0]),
            "The rank 5 is above the smaller dimension 4",
        ),
        (lambda: rushka.frobenius_flow(W_.float(), B_, A_, [1.0]), "W0 must be a float64 tensor; got torch.float32"),
        (lambda: rushka.frobenius_flow(W_, B_, A_, [1.0, 0.5]), "times must not decrease"),
        (lambda: rushka.frobenius_flow(W_, B_, A_, [-1.0]), "the smallest is -1"),
        (lambda: rushka.frobenius_flow(W_, B_, A_, []), "at least one"),
        (
            lambda: rushka.frobenius_flow(W_.expand(3, 5, 4), B_.expand(2, 5, 1), A_, [1.0]),
            r"B \(2,\), A \(\), W0 \(3,\)",
        ),
        (lambda: rushka.mode(-1.0, 1.0, [1.0]), "the smallest s0 is -1"),
        (lambda: rushka.mode(math.nan, 1.0, [1.0]), "s0 has entries that are NaN"),
        (lambda: rushka.mode(1.0, math.nan, [1.0]), "x0 has entries that are NaN"),
        (lambda: rushka.mode(1.0, 1.0, [-1.0]), "times must not be negative"),
        (lambda: rushka.mode(torch.ones(3), torch.ones(4), [1.0]), r"s0 \(3,\), x0 \(4,\)"),
        (lambda: rushka.half_time(0.0, 1.0), "never half learned"),
        (lambda: rushka.half_time(1.0, 0.0), "never half learned"),
        (lambda: rushka.half_time(-1.0, 1.0), "the smallest s0 is -1"),
        (lambda: rushka.half_time(1.0, math.nan), "x0 has entries that are NaN"),
        (lambda: rushka.tail_sum(NAN), "W0 has entries that are NaN"),
        (lambda: rushka.tail_sum(torch.ones(3, dtype=f64)), r"W0 must be a matrix .* got shape \(3,\)"),
        (lambda: rushka.spectral_start(W_, torch.ones(5, dtype=f64)), "The rank 5 is above the smaller dimension 4"),
        (lambda: rushka.spectral_start(NAN, torch.ones(2, dtype=f64)), "W0 has entries that are NaN"),
        (lambda: rushka.spectral_start(W_, torch.tensor([1.0, math.nan])), "x0 has entries that are NaN"),
        (lambda: rushka.spectral_start(W_, 1.0), "x0 must be a vector"),
        (
            lambda: rushka.spectral_start(W_, torch.ones(2), [3, 4]),
            r"triplets must be 2 indices from 0 to 3; got \[3, 4\]",
        ),
        (lambda: rushka.spectral_start(W_, torch.ones(2), [-1, 0]), r"got \[-1, 0\]"),
        (
            lambda: rushka.spectral_start(W_, torch.ones(2), [0, 1, 2]),
            r"triplets must be 2 indices from 0 to 3; got \[0, 1, 2\]",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(call, came):
    with pytest.raises(ValueError, match=came) as raised:
        call()
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
