"""The measures of a run: distances that cannot look small by accident, slopes, first passages."""

import math

import numpy as np
import pytest
import torch

from lorabook import device, measure

f64 = torch.float64


def draw(seed, *shape):
    return device.normal(shape, device.generator(seed), "cpu")


def test_the_relative_distance_is_the_largest_entry_over_the_largest_entry():
    wanted = torch.tensor([[1.0, -4.0], [2.0, 0.0]], dtype=f64)
    found = wanted + torch.tensor([[0.0, 0.0], [0.0, -2.0]], dtype=f64)
    assert measure.relative(found, wanted) == 0.5
    assert measure.relative(wanted, wanted) == 0.0
    assert isinstance(measure.relative(found, wanted), float)


@pytest.mark.parametrize("scale", [1e-200, 1e-8, -1.0, 1e200])
def test_the_relative_distance_does_not_see_units(scale):
    found, wanted = draw(0, 4, 3), draw(1, 4, 3)
    # two roundings of the scaled entries
    assert abs(measure.relative(scale * found, scale * wanted) / measure.relative(found, wanted) - 1) < 1e-15


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_distance_to_what_is_not_finite_is_refused(bad):
    wanted = torch.ones(3, dtype=f64)
    spoilt = wanted.clone()
    spoilt[1] = bad
    for pair in ((spoilt, wanted), (wanted, spoilt)):
        with pytest.raises(ValueError, match="^A distance to NaN or infinity means nothing.$"):
            measure.relative(*pair)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"^Shapes \(3, 1\) and \(3,\) differ.$"):
        measure.relative(torch.ones(3, 1, dtype=f64), torch.ones(3, dtype=f64))


@pytest.mark.parametrize("found", [0.0, 1.0])
def test_a_relative_distance_to_zero_is_refused(found):
    with pytest.raises(ValueError, match="^A relative distance to zero means nothing.$"):
        measure.relative(torch.full((3,), found, dtype=f64), torch.zeros(3, dtype=f64))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slopes_agree_with_a_least_squares_fit_line_by_line(seed):
    x, y = draw(seed, 3, 20).cumsum(-1), draw(seed + 5, 3, 20)
    found = measure.slope(x, y)
    for one, a, b in zip(found, x, y):
        # two ways to one number differ by rounding
        assert abs(float(one) - np.polyfit(a.numpy(), b.numpy(), 1)[0]) < 1e-13
    # an intercept changes nothing, units divide out
    assert torch.allclose(measure.slope(10 * x + 3, 5 * y - 2), found / 2, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [-2.0, 0.5, 1.0, 5.0])
def test_the_slope_of_a_power_law_is_its_order(order):
    x = torch.logspace(-5, 0, 12, dtype=f64)
    # rounding of the logarithms over a range of 11
    assert abs(float(measure.log_slope(x, 7.0 * x**order)) - order) < 1e-13


TIMES = torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=f64)


@pytest.mark.parametrize("upwards", [False, True])
def test_a_first_passage_is_found_between_the_samples(upwards):
    falling = torch.tensor([[4.0, 1.0, 5.0, 4.0], [3.0, 4.0, 3.0, 4.0], [1.0, 1.0, 2.5, 4.0], [9, 9, 9, 4]], dtype=f64)
    sign = -1 if upwards else 1
    found = measure.first_passage(TIMES, sign * falling, sign * 2.5, upwards)
    # 3 falls to 1 over two units of time; the second starts below, the third is there at a sample, the last never is
    assert found[:3].tolist() == [1.5, 0.0, 3.0] and found[3].isnan()
    seen = measure.first_passage(TIMES, sign * falling, sign * 2.5, upwards, between=False)
    assert seen[:3].tolist() == [3.0, 0.0, 3.0] and seen[3].isnan()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_passage_of_straight_lines_is_where_they_meet_their_levels(seed):
    start, speed, level = 2 + draw(seed, 4, 3).abs(), 0.1 + draw(seed + 10, 4, 3).abs(), draw(seed + 20, 3)
    times = torch.linspace(0, 200, 77, dtype=f64)
    found = measure.first_passage(times, start - times[:, None, None] * speed, level)
    # rounding of values up to 200 times the slopes, divided by slopes from 0.1 on
    assert torch.allclose(found, (start - level) / speed, rtol=1e-12, atol=0)


@pytest.mark.parametrize("before", [math.nan, math.inf])
def test_from_a_sample_that_is_not_finite_the_passage_is_the_sample_itself(before):
    found = measure.first_passage(TIMES, torch.tensor([5.0, before, 1.0, 0.0], dtype=f64), 2.0)
    assert found == 3.0


def test_what_is_nan_has_reached_nothing():
    assert measure.first_passage(TIMES, torch.full((4,), math.nan, dtype=f64), 2.0).isnan()


def test_iterations_are_counted_in_the_precision_of_the_samples():
    error = torch.tensor([[1.0, 1.0], [0.1, 0.5], [0.01, 0.2]], dtype=f64)
    found = measure.first_passage(torch.tensor([0, 5, 10]), error, torch.tensor([0.1, 0.3]), between=False)
    assert found.dtype == f64 and found.tolist() == [5.0, 10.0]
