"""The longer runs of the pages on Rushka & Klabjan: what they count, fit and compare."""

import math

import pytest

from lorabook import device, measure, rushka
from lorabook.rushka import runs


@pytest.fixture
def small():
    """A Frobenius loss and two starts: gradients, B (2, 4, 2), A (2, 2, 3)."""
    draws = device.generator(3)
    W0 = device.normal((4, 3), draws) / 2
    return rushka.frobenius_gradients(W0), 0.3 * device.normal((2, 4, 2), draws), 0.3 * device.normal((2, 2, 3), draws)


def test_the_largest_error_up_to_a_time_is_of_first_order_for_every_variant(small):
    steps = device.tensor([1 / 256, 1 / 512])
    found = runs.largest_errors(*small, 1.0, (256, 512), [(1, 1.0), (2, 0.25), (4, 0.0)])
    assert found.shape == (3, 2, 2)
    # the second-order term at these steps shifts a slope of 1 by a hundredth
    assert all(abs(float(measure.log_slope(steps, found[k, :, j])) - 1) < 0.02 for k in range(3) for j in range(2))


def test_the_largest_error_is_at_least_that_at_the_end_and_the_flow_is_followed(small):
    gradients, B, A = small
    end_B, end_A = (factor[-1] for factor in runs.follow(gradients, B, A, [1.0]))
    at_B, at_A = rushka.descend(*gradients, B, A, 1 / 64, 64)
    at_end = ((at_B - end_B).square().sum((1, 2)) + (at_A - end_A).square().sum((1, 2))).sqrt()
    found = runs.largest_errors(gradients, B, A, 1.0, (64,), [(1, 1.0)])[0, 0]
    assert bool((found >= at_end - 1e-9).all())


def test_near_the_saddle_descent_leaves_the_flow_whatever_the_step():
    # the ends are the minimiser (1, 1) or (-1, -1) and the saddle, a distance of sqrt 2 apart
    assert [round(runs.saddle_error(step, 80), 1) for step in (1e-2, 1e-3)] == [1.4, 1.4]
    assert runs.saddle_error(1e-3, 1.0) < 0.01


def test_the_local_error_is_of_second_order(small):
    gradients, B, A = small
    first, second = (runs.local_errors(gradients, B[0], A[0], 0.5, count) for count in (16, 32))
    assert math.log2(first / second) == pytest.approx(2, abs=0.1)


def test_the_interpolants_need_the_remainder(small):
    gradients, B, A = small
    assert runs.interpolant_misfit(gradients, B[0], A[0], 0.1, folded=True) < 1e-14
    assert runs.interpolant_misfit(gradients, B[0], A[0], 0.1, folded=False) > 1e-3


@pytest.mark.parametrize("ratio", [2, 4, 12])
def test_no_random_step_beyond_the_cap_converges_and_nearly_every_one_below_does(ratio):
    shares, arrived = runs.converging_steps(3.0 * ratio, 3.0, 2000, 2000, 1)
    assert not bool(arrived[shares > 1].any())
    assert float(arrived[shares < 1].double().mean()) > 0.99
    assert float(shares[arrived].max()) > 0.99


def test_two_numbers_carry_descent_from_a_zero_start():
    A = 0.5 * device.normal((2, 5), device.generator(0))
    size = float(A.square().sum())
    top = min(8 / (size + math.hypot(size, 4.0)), 1.0)
    shares, arrived = runs.converging_steps(size, 1.0, 8, 300, 2)
    for share, there in zip(shares, arrived):
        B, end = rushka.descend(*rushka.trace_gradients(1.0), 0 * A.mT, A, float(share) * top, 300)
        assert bool((1 - (B * end.mT).sum()).abs() < 1e-6) == bool(there)
