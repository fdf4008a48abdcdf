"""The paper's formulas to the letter: right where the paper is right, and wrong exactly where it is wrong."""

import math

import pytest
import torch

from lorabook import device, rushka
from lorabook.rushka import printed

f64 = torch.float64
SEEDS = (0, 1, 2)
TIMES = torch.tensor([0.0, 0.2, 1.0, 3.0], dtype=f64)


def starts(seed, n=5, r=2):
    source = device.generator(seed)
    return device.normal((n, r), source, "cpu"), device.normal((r, n), source, "cpu")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [2.0, -2.0, 0.3])
def test_from_b0_equal_zero_the_printed_flow_is_the_flow(seed, c):
    B0, A0 = starts(seed)
    B, A = printed.trace_flow(c, B0 * 0, A0, TIMES)
    right = rushka.trace_flow(c, B0 * 0, A0, TIMES)
    # hyperbolic sines of arguments up to 60: their rounding as a factor
    assert (B - right.B).abs().max() < 1e-12 and (A - right.A).abs().max() < 1e-12
    assert (printed.scalars(c, A0, TIMES).residual / right.residual - 1).abs().max() < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_from_any_other_start_it_is_not_even_at_first_order(seed):
    B0, A0 = starts(seed)
    right, found = rushka.trace_flow(2.0, B0, A0, TIMES), printed.trace_flow(2.0, B0, A0, TIMES)
    # at time zero they agree, to rounding
    assert (found[0][0] - B0).abs().max() < 1e-14
    # later by no means
    assert (found[0][2] - right.B[2]).abs().max() > 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [2.0, -2.0])
def test_the_printed_functions_tend_to_the_corrected_limits_and_not_to_the_printed_ones(seed, c):
    _, A0 = starts(seed)
    N = A0.square().sum()
    late = printed.scalars(c, A0, torch.tensor([40.0], dtype=f64) / torch.hypot(N, torch.tensor(2 * c, dtype=f64)))
    for found, right, wrong in zip((late.p, late.q), printed.limits(c, A0, misplaced=False), printed.limits(c, A0)):
        # rounding of hyperbolic sines of 40
        assert abs(float(found / right) - 1) < 1e-12
        assert abs(float(found / wrong) - 1) > 0.01
    # p q |c| is the limit's weight on A0^T A0, (32)
    p, q = printed.limits(c, A0, misplaced=False)
    assert abs(float(p * q * N) - 1) < 1e-14


def test_the_printed_form_loses_its_product_where_the_closed_form_does_not():
    _, A0 = starts(0)
    rho = float(torch.hypot(A0.square().sum(), torch.tensor(4.0, dtype=f64)))
    B, A = printed.trace_flow(2.0, torch.zeros(5, 2, dtype=f64), A0, torch.tensor([720.0, 1500.0], dtype=f64) / rho)
    assert (B[0] @ A[0]).abs().max() < 1e-10 and not B[1].isfinite().all()
    at = rushka.trace_flow(2.0, torch.zeros(5, 2, dtype=f64), A0, [720.0 / rho, 1500.0 / rho])
    # rounding
    assert abs(float((at.B[1] @ at.A[1]).trace()) / 2 - 1) < 1e-14


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bounds_hold_on_their_ball_but_for_the_lost_factor_n(seed):
    source, n, R = device.generator(seed), 6, 1.0
    W0 = device.normal((n, n), source, "cpu")
    B, A = device.normal((500, n, 2), source, "cpu"), device.normal((500, 2, n), source, "cpu")
    size = (B.square().sum((1, 2)) + A.square().sum((1, 2))).sqrt()[:, None, None] / R
    gradients = [g(B / size, A / size).square().sum((1, 2)) for g in rushka.frobenius_gradients(W0)]
    assert (sum(gradients).sqrt() <= printed.gradient_bound(W0.norm(), R)).all()
    # the trace loss at W0 = 10 I breaks (274), and keeps it with the factor sqrt(n)
    one = torch.zeros(n, 1, dtype=f64)
    one[0] = 1.0
    A1 = one.mT.roll(1)
    squared = sum(float(g(one, A1).square().sum()) for g in rushka.trace_gradients(10.0 * n))
    bound = printed.gradient_bound(10 * math.sqrt(n), 1.0)
    assert math.sqrt(squared) > bound and math.sqrt(squared / n) <= bound


def test_the_lipschitz_constant_is_the_printed_one():
    assert printed.lipschitz_constant(3.0, 2.0) == 22.0 and printed.gradient_bound(3.0, 2.0) == pytest.approx(
        14 * math.sqrt(2), rel=1e-15
    )
