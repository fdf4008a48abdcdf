"""Maps of validity: borders, distances, tables; what the runs behind them are, against the chapters' own routines."""

import dataclasses
import math

import pytest
import torch

from lorabook import device, maps, rushka
from lorabook.maps import drawing, mallada_runs, rushka_runs, selection_runs
from lorabook.maps.chart import Axis, Chart, Panel, Region
from lorabook.page import lists


def chart(**changed):
    """A map of ``y - 2 x``, which holds above its border ``y = 2 x``."""
    plain = Chart(
        name="demo",
        source="kim",
        says="y is at least 2 x",
        x=Axis("x", 1, 4, 4, 7, log=False),
        y=Axis("y", 0, 10, 6, 11, log=False),
        panels=(Panel("", 0.0),),
        run=lambda panel, x, y, draws: y - 2 * x[:, None],
        level=0.0,
        above=True,
        spread=5.0,
        ratio=False,
        draws=(1, 1),
        predicted=(lambda panel, x: 2 * x,),
        false=(lambda panel, x: 2 * x + 1,),
    )
    return dataclasses.replace(plain, **changed)


def test_a_border_is_where_the_values_cross_the_level():
    region = maps.region(chart())
    assert region.x == [1, 2, 3, 4] and region.values.shape == (1, 4, 6)
    assert [region.borders(0, k) for k in range(4)] == [pytest.approx([2 * x]) for x in region.x]
    assert region.compared() == 4 and region.distance() == pytest.approx(0) and region.distance(false=True) == 1


def test_a_distance_is_a_factor_on_a_logarithmic_axis():
    log = chart(
        x=Axis("x", 1, 8, 4, 4),
        y=Axis("y", 0.1, 100, 13, 13),
        run=lambda panel, x, y, draws: y / x[:, None],
        level=1.0,
        ratio=True,
        predicted=(lambda panel, x: x,),
        false=(lambda panel, x: 2 * x,),
    )
    region = maps.region(log)
    assert region.distance() == pytest.approx(1) and region.distance(false=True) == pytest.approx(2)
    shifted = dataclasses.replace(log, predicted=(lambda panel, x: 3 * x,))
    assert maps.region(shifted).distance() == pytest.approx(3)
    assert maps.region(dataclasses.replace(shifted, anchored=True)).distance() == pytest.approx(1)


def test_a_border_that_is_predicted_inside_and_not_there_is_infinitely_far():
    none = maps.region(chart(run=lambda panel, x, y, draws: 1 + 0 * y - 0 * x[:, None]))
    assert none.compared() == 0 and none.distance() == math.inf
    # and one that is there and not predicted
    more = maps.region(chart(predicted=(lambda panel, x: math.nan,)))
    assert more.compared() == 4 and more.distance() == math.inf


def test_a_run_that_failed_lies_on_its_side_and_a_hole_has_no_border():
    values = torch.tensor([[[-math.inf, -1.0, 1.0, 5.0, math.nan, -5.0]]])
    region = Region(chart(), [1.0], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0], values)
    assert region.borders(0, 0) == [3.0]
    assert region.inside()[0, 0, :4].tolist() == pytest.approx([-1, -0.2, 0.2, 1])


def test_axes_have_numbers_of_four_digits():
    assert Axis("x", 0.05, 50, 4, 4).values(4) == [0.05, 0.5, 5.0, 50.0]
    assert Axis("r", 1, 8, 6, 6, whole=True).values(6) == [1, 2, 3, 5, 8]
    assert Axis("x", 1, 2, 3, 3, log=False).values(4) == [1, 1.333, 1.667, 2]


def test_each_map_has_its_claim_and_shows_the_region_of_others():
    claimed = {claim.id.partition(".")[2] for claim in lists.load("maps").values()}
    shown = {claim.map for source in lists.sources() for claim in lists.load(source).values() if claim.map}
    assert claimed == set(maps.ATLAS) == shown


@pytest.mark.parametrize("name", maps.ATLAS)
def test_a_point_does_not_know_which_others_are_asked_for(name):
    one = maps.ATLAS[name]
    x, y = one.x.values(one.x.coarse), one.y.values(one.y.coarse)
    x, y = [x[0], x[len(x) // 2]], [y[1], y[len(y) // 2]]
    few = dataclasses.replace(one, panels=one.panels[:1])
    both, alone = maps.run(few, x, y, 2), maps.run(few, x[1:], y[1:], 2)
    # 1e-6: integrators choose their steps system by system; a batch changes the order of sums
    assert torch.allclose(both[0, 1, 1], alone[0, 0, 0], rtol=1e-6, atol=1e-9, equal_nan=True)


def test_two_numbers_carry_descent_on_the_trace_loss():
    A0 = device.normal((2, 4), device.generator(0), "cpu")
    N = A0.square().sum()
    B, A = rushka.descend(*rushka.trace_gradients(1.5), torch.zeros_like(A0.mT), A0, 0.05, 20)
    left, before = rushka_runs.descent(torch.tensor(1.5), N, torch.tensor(0.05, dtype=N.dtype), 20)
    assert float(left) == pytest.approx(1.5 - float((B * A.mT).sum()), rel=1e-12)
    assert abs(left) < abs(before)


def test_the_share_of_layer_2_solves_its_equations():
    # by Runge and Kutta from g = 1e-3, where beta = a_q = g^(d/2)
    d, end = 0.6, 2.0
    g = 1e-3
    y = torch.tensor([g ** (d / 2), g ** (d / 2), g ** (1 + d / 2) / (2 + d)], dtype=torch.float64)

    def slope(g, y):
        return torch.stack([d * y[1] / (2 * g) + y[2] / 2, d * y[0] / (2 * g), y[0] / 2])

    count = 4000
    factor = (end / g) ** (1 / count)
    for _ in range(count):
        h = g * (factor - 1)
        k1 = slope(g, y)
        k2 = slope(g + h / 2, y + h / 2 * k1)
        k3 = slope(g + h / 2, y + h / 2 * k2)
        k4 = slope(g + h, y + h * k3)
        g, y = g + h, y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    beta, along, across = y.tolist()
    wanted = 4 ** (d - 1) * beta * (d * along + end * across) / end
    # 1e-5: the start of the steps is right to g^2
    assert mallada_runs.lost_share(d, end) == pytest.approx(wanted, rel=1e-5)


def test_the_line_of_selection_is_where_nine_of_ten_gaussian_starts_choose_the_larger_pull():
    alpha = 1e-3
    ratio = selection_runs.larger_pull_border(None, alpha)
    x = (alpha * device.normal((200_000, 2), device.generator(1), "cpu")).abs()
    share = (-x[:, 1].log() / ratio < -x[:, 0].log()).double().mean()
    # four standard errors of the share
    assert float(share) == pytest.approx(0.9, abs=0.003)


def test_a_map_is_drawn_with_both_borders():
    region = maps.region(chart())
    ax = drawing.draw(region, 0)
    points, dashed = ax.get_lines()
    assert points.get_xdata().tolist() == [0.5, 1.5, 2.5, 3.5]
    # y = 2, 4, 6, 8 on cells 0, 2, ..., 10
    assert points.get_ydata().tolist() == pytest.approx([1.5, 2.5, 3.5, 4.5])
    assert dashed.get_ydata().tolist() == pytest.approx([1.5, 2.5, 3.5, 4.5]) and dashed.get_linestyle() == "--"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3", "4"]
