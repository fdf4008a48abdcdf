"""Maps of validity: borders, distances, tables; what the runs behind them are, against the chapters' own routines."""

import dataclasses
import math

import pytest
import torch

from lorabook import device, maps, rushka
from lorabook.lora_one import alignment
from lorabook.maps import drawing, mallada_runs, network_runs, rushka_runs, selection_runs, tables
from lorabook.maps.chart import Axis, Chart, Panel, Region
from lorabook.page import lists
from tools import maps as writer


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
    *_, before, left = rushka_runs.residuals(torch.tensor(1.5), N, torch.tensor(0.05, dtype=N.dtype), 20)
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


UNITS = (None, lambda x: x / 4, lambda x: x * x)


def test_a_distance_is_told_in_the_unit_of_the_chart_at_its_place():
    off = lambda panel, x: 2 * x - x / 4
    plain, even, far = (chart(predicted=(off,), unit=unit and (".", unit)) for unit in UNITS)
    assert maps.region(plain).distance() == pytest.approx(1.0)  # at x = 4
    assert maps.region(even).distance() == pytest.approx(1.0)
    assert maps.region(far).distance() == pytest.approx(0.25)  # at x = 1
    # the one chart that has a unit: an e-fold of growth of a candidate, beside its wait ln(1/alpha)
    assert {one.name for one in maps.ATLAS.values() if one.unit} == {"larger-pull"}
    assert maps.ATLAS["larger-pull"].unit[1](math.exp(-5)) == pytest.approx(0.2)


def test_a_map_is_drawn_with_both_borders():
    region = maps.region(chart())
    ax = drawing.draw(region, 0)
    points, dashed = ax.get_lines()
    assert list(points.get_xdata()) == [1, 2, 3, 4] and list(points.get_ydata()) == pytest.approx([2, 4, 6, 8])
    assert list(dashed.get_ydata()) == pytest.approx([2, 4, 6, 8]) and dashed.get_linestyle() == "--"
    assert ax.get_xlim() == (0.5, 4.5) and ax.get_ylim() == (-1, 11)
    data = drawing.row([(region, 0, ax)], "c", ("d",)).data.splitlines()
    assert data[0] == "panel,series,x,y,value" and "a,value,3,10,4" in data and "a,measured border,3,6," in data


def test_the_clock_of_the_network_is_the_gradient_of_its_second_layer():
    _, _, (first, second) = network_runs.pretrained()
    assert second > first
    wait = [network_runs.clock(Panel("", 0.01), alpha) for alpha in (1e-3, 1e-4)]
    # ten times smaller: ln 10 over the growth of a step
    assert wait[1] - wait[0] == pytest.approx(math.log(10) / math.log1p(0.01 * second))
    # the singular value by the power method on the gradient of the loss, with automatic differentiation over logits
    frozen, turned, _ = network_runs.pretrained()
    active = (turned.train @ frozen.W1.mT + frozen.b1).relu()
    logits = active @ frozen.W2.mT + frozen.b2
    slope = (logits.softmax(-1) - torch.nn.functional.one_hot(turned.train_labels, 10)) / len(active)
    assert float(torch.linalg.matrix_norm(slope.mT @ active, 2)) == pytest.approx(second, rel=1e-9)


def test_a_table_says_what_made_it_and_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "maps")
    small = dataclasses.replace(maps.ATLAS["price-of-rank"], x=Axis("n", 4, 8, 2, 2, whole=True), draws=(2, 3))
    assert tables.read(small) is None
    writer.write(small)
    again, region = tables.read(small), maps.region(small, fine=True)
    assert again.x == region.x == [4, 8] and again.y == region.y
    # six digits are kept; a rank above n has no value
    assert torch.allclose(again.values, region.values, rtol=1e-5, equal_nan=True)
    assert tables.made(small)["map"].endswith("3 draws") and len(tables.made(small)) == 6


KEPT = [name for name in maps.ATLAS if tables.place(maps.ATLAS[name]).is_file()]


def test_every_map_is_kept_with_what_made_it():
    assert KEPT == list(maps.ATLAS)
    for name in KEPT:
        said = tables.made(maps.ATLAS[name])
        assert said["command"] == f"python -m tools.maps {name}" and said["sha256 of the code"]
        lines = tables.place(maps.ATLAS[name]).read_text().splitlines(keepends=True)
        body = "".join(line for line in lines if not line.startswith("#"))
        assert tables.digest(body) == said["sha256 of the rows"]


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_three_points_of_a_kept_map_are_as_a_run_makes_them(name):
    one = maps.ATLAS[name]
    kept, source = tables.read(one), device.generator(len(name))
    for _ in range(3):
        p, i, j = (int(torch.randint(n, (), generator=source)) for n in kept.values.shape)
        few = dataclasses.replace(one, panels=one.panels[p : p + 1])
        again = maps.run(few, kept.x[i : i + 1], kept.y[j : j + 1], one.draws[1])[0, 0, 0]
        # six digits are kept; integrators and long training leave a few more units in the last of them
        assert torch.allclose(again, kept.values[p, i, j], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_the_constant_of_the_printed_start_is_in_the_range_that_its_claim_names():
    one = maps.ATLAS["printed-start"]
    kept = tables.read(one)
    found, starts = [], []
    for panel in range(len(one.panels)):
        d = one.panels[panel].value
        for column, kappa in enumerate(kept.x):
            for epsilon in kept.borders(panel, column):
                # border(d, kappa, K) = epsilon, solved for K
                found.append((epsilon / alignment.border(d, kappa, 1.0)) ** ((2 * kappa - 1) / (2 * kappa + 1)))
                starts.append(alignment.printed_size(epsilon, d, kappa))
    assert f"K is from {min(found):.2f} to {max(found):.2f}" in lists.find("maps.printed-start").hypotheses
    assert 5e-7 < min(starts) and max(starts) < 4e-4


def test_every_border_of_selection_lies_above_its_line_and_for_minima_by_nearly_an_e_fold():
    kept = tables.read(one := maps.ATLAS["larger-pull"])
    beyond = [
        [(y - line) / one.unit[1](x) for c, (x, line) in enumerate(zip(kept.x, said)) for y in kept.borders(panel, c)]
        for panel, said in enumerate(kept.predicted(panel)[0] for panel in range(len(one.panels)))
    ]
    assert [len(each) for each in beyond] == [9, 9, 9] and min(map(min, beyond)) > 0
    assert one.panels[2].kind == "minima" and min(beyond[2]) > 0.8 and max(map(max, beyond)) < 1


def test_the_kept_maps_agree_with_their_claims():
    for name in KEPT:
        kept, claim = tables.read(maps.ATLAS[name]), lists.find(f"maps.{name}")
        assert not claim.contains(kept.distance(false=True)), name
        assert claim.contains(kept.distance()), name
