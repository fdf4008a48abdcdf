"""What a figure shows as a table: whatever drew it, the points come back under the names a reader sees."""

import io
import re
from urllib.parse import unquote

import numpy as np
import pandas
import pytest
import torch

from lorabook.page import figures, plotted

X = torch.linspace(0.1, 1, 20, dtype=torch.float64)
DRAWS = torch.rand(2, 20, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
#: The table has five digits, so each number is off by half of the fifth at most.
NEAR = dict(rtol=5.1e-5, atol=1e-12)


def a_panel(xlabel="time t", ylabel="loss", **scales):
    return figures.panel(xlabel, ylabel, "A title", **scales)


def told(*panels):
    return pandas.read_csv(io.StringIO(plotted.csv(panels)))


def series(table, name, *columns):
    return table[table["series"] == name][list(columns or ("time t", "loss"))].to_numpy().T


def shown(ax, draw):
    """Every line that ``draw`` adds to a panel, as points."""
    count = len(ax.lines)
    draw(ax)
    return [line.get_xydata() for line in ax.lines[count:]]


KINDS = {
    "curves": lambda ax: figures.curves(ax, X, [X, X**2], ["a", "b"], "rushka", [X, X**3]),
    "curves on a log axis": lambda ax: figures.curves(ax, 10 ** (9 * X), [1e-9 * X], ["a"], "rushka"),
    "by source": lambda ax: figures.by_source(ax, X, {"kim": X, "rushka": X**2}, {"kim": "a", "rushka": "b"}),
    "scatter": lambda ax: figures.scatter(ax, [X, X], [X, X**2], ["a", "b"], "kim"),
    "reference": lambda ax: figures.reference(ax, X, X.exp(), "a"),
    "bands": lambda ax: figures.bands(ax, X, DRAWS, ["a", "b"], "kim"),
    "spread": lambda ax: figures.spread(ax, X, DRAWS[0], "kim", "a"),
    "rates": lambda ax: figures.rates(
        ax, X, [X, X**2], [X - 0.1, X**2 - 0.1], [X + 0.1, X**2 + 0.2], ["a", "b"], "kim"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_drawn_from_the_table_has_the_points_of_the_figure(kind):
    scale = {"xscale": "log", "yscale": "log"} if "log" in kind else {}
    ax = KINDS[kind](a_panel(**scale))
    table = told(ax)
    for line in ax.lines:
        name = line.get_label()
        if not name.startswith("_"):
            name = f"prediction, {table['series'].iloc[-1].rpartition(', ')[2]}" if name == "prediction" else name
            points = series(table, name)
            drawn = shown(a_panel(**scale), lambda ax: figures.curves(ax, points[0], points[1:], ["again"], "kim"))
            np.testing.assert_allclose(drawn[0], line.get_xydata(), **NEAR)
    assert set(table["panel"]) == {"a"} and len(set(table["series"])) >= 1


def test_a_band_is_the_quantiles_of_the_draws():
    table = told(figures.bands(a_panel(), X, DRAWS, ["a", "b"], "kim"))
    for name, draws in zip("ab", DRAWS):
        low, middle, high = torch.quantile(draws, torch.tensor([0.05, 0.5, 0.95], dtype=draws.dtype), dim=-1)
        found = series(table, name, "time t", "loss, low", "loss", "loss, high")
        np.testing.assert_allclose(found, torch.stack([X, low, middle, high]), **NEAR)


def test_a_spread_has_an_interval_or_where_the_draws_are_few_each_of_them():
    table = told(figures.spread(a_panel(), X, DRAWS[0], "kim", "runs"))
    assert set(table["series"]) == {"runs"} and series(table, "runs", "loss, high").shape == (1, 20)
    few = told(figures.spread(a_panel(), X, DRAWS[0, :, :5], "kim", "runs"))
    assert set(few["series"]) == {"draws", "runs"} and "loss, high" not in few
    np.testing.assert_allclose(np.sort(series(few, "draws")[1]), np.sort(DRAWS[0, :, :5].ravel()), **NEAR)


def test_an_interval_has_its_ends():
    table = told(figures.rates(a_panel(), X, [X], [X - 0.1], [X + 0.2], ["share"], "kim"))
    np.testing.assert_allclose(
        series(table, "share", "loss, low", "loss", "loss, high"), torch.stack([X - 0.1, X, X + 0.2]), **NEAR
    )
    ax = figures.intervals(a_panel("per cent", ""), ["LoRA", "full", "One"], [1, 2, 3], [0.1, 0.2, 0.3], "kim", [2])
    table = told(ax).set_index("row").loc[["LoRA", "full", "One"]]
    np.testing.assert_allclose(table["per cent"], [1, 2, 3])
    np.testing.assert_allclose(table["per cent, high"] - table["per cent, low"], [0.2, 0.4, 0.6])


def test_bars_cells_and_level_lines_come_back_under_their_names():
    table = told(figures.bars(a_panel("share", ""), ["one", "two"], [0.5, 1e-20], "kim", floor_at=1e-17))
    assert table[["row", "share"]].to_dict("list") == {"row": ["one", "two"], "share": [0.5, 1e-17]}
    cells = figures.heat(
        a_panel("", ""), ["m", "n"], ["u", "v"], [[1, 0.1], [0.01, 1e-9]], [["", ""]] * 2, "kim", (1e-8, 1)
    )
    assert told(cells)[["row", "column", "value"]].to_numpy().tolist() == [
        ["m", "u", 1.0],
        ["m", "v", 0.1],
        ["n", "u", 0.01],
        ["n", "v", 1e-9],
    ]
    table = told(figures.contours(a_panel("x", "y"), X, X, X[:, None] ** 2 + X**2, {"best": ([0.1], [0.1])}, "kim"))
    lines = table[table["series"] == "level"]
    # linear interpolation on a grid of 0.047: off by less than an eighth of its square, times the second derivative
    np.testing.assert_allclose(lines["x"] ** 2 + lines["y"] ** 2, lines["level"], atol=0.001)
    assert (
        lines["level"].nunique() == 12
    )  # of 14, the lowest lies below the grid's least value, the highest in a corner


def test_marks_have_their_place_and_what_lies_along_the_panel_has_no_other():
    ax = figures.strip(figures.floor(figures.curves(a_panel(), X, [X], ["a"], "kim"), 0.25), 0.2, 0.4, "strip")
    table = told(figures.phases(ax, [0, 0.3, 1], ["grow", "rest"]))
    at = lambda name: series(table, name).T.tolist()
    assert np.isnan(at("rounding")[0][0]) and at("rounding")[0][1] == 0.25 and len(at("rounding")) == 1
    assert [row[0] for row in at("strip")] == [0.2, 0.4] and np.isnan(at("strip")).sum() == 2
    assert [row[0] for name in ("grow", "rest") for row in at(name)] == [0, 0.3, 0.3, 1]


def test_names_in_the_first_panel_hold_for_panels_without_any_but_not_for_a_single_curve():
    first = figures.curves(a_panel(), X, [X, X**2], ["a", "b"], "kim")
    silent = figures.floor(figures.curves(a_panel(), X, [X**2, X], ["", ""], "kim"), 0.1)
    alone = figures.curves(a_panel(ylabel="norm"), X, [X], [""], "kim")
    half = figures.curves(a_panel(), X, [X, X**2], ["c", ""], "kim")
    table = told(first, silent, alone, half)
    names = {letter: list(dict.fromkeys(rows["series"])) for letter, rows in table.groupby("panel")}
    assert names == {"a": ["a", "b"], "b": ["a", "b", "rounding"], "c": ["norm"], "d": ["c", "loss"]}


def test_a_series_without_a_name_has_that_of_its_twin_and_a_prediction_that_of_its_curve():
    first = figures.curves(a_panel(), X, [X, X**2], ["a", "b"], "kim")
    second = figures.curves(a_panel(ylabel="norm"), X, [X, X**2], ["", ""], "kim", predicted=[X, X])
    third = figures.curves(a_panel(ylabel="rank"), X, [X, X**2], ["", "_hidden"], "mallada")
    for name in ("border", "", ""):
        figures.reference(third, X, X, name)
    table = told(first, second, third)
    names = {letter: list(dict.fromkeys(rows["series"])) for letter, rows in table.groupby("panel")}
    assert names["a"] == ["a", "b"] and names["c"] == ["rank", "hidden", "border", "border, 4", "border, 5"]
    assert names["b"] == ["norm", "prediction, norm", "norm, 3", "prediction, norm, 3"]
    assert [text.get_text() for text in third.get_legend().get_texts()] == ["border"]


def test_a_gap_stays_and_a_band_of_no_curve_and_a_panel_without_anything_do_no_harm():
    gap = figures.curves(a_panel(), [1, 2, 3, 3], [[1, np.nan, 2, 2]], ["a"], "kim")
    assert series(told(gap), "a")[0].tolist() == [1, 2, 3, 3]
    ax = figures.curves(a_panel(), X, [X], ["a"], "kim")
    ax.fill_between(X + 0.5, X, X + 1, label="_range")
    table = told(ax, a_panel("", ""))
    np.testing.assert_allclose(
        series(table, "range", "time t", "loss, low", "loss, high"), torch.stack([X + 0.5, X, X + 1]), **NEAR
    )
    assert series(table, "a").shape == (2, 20) and set(table["panel"]) == {"a"}


def test_columns_are_named_by_the_axes_and_a_panel_leaves_the_others_empty():
    table = told(figures.reference(a_panel(r"$2 \omega c\,(t - T)$", "y"), X, X, r"M = $\Sigma$"))
    assert list(table) == ["panel", "series", "2 omega c(t - T)", "y"] and set(table["series"]) == {"M = Sigma"}
    table = told(
        figures.reference(a_panel("t", "t"), X, X, "a"), figures.reference(a_panel("", "sine\nto G"), X, X, "b")
    )
    assert list(table) == ["panel", "series", "t", "t, up", "column", "sine to G"]
    assert table[table["panel"] == "b"][["t", "t, up"]].isna().all(axis=None)


def test_the_link_holds_the_table_and_no_markup():
    text = 'panel,series\na,"κ < 2 & ""x"" 100 %, #1"\n'
    found = re.fullmatch(
        r'<a class="lb-data" download="figure.csv" href="data:text/csv;charset=utf-8,([^"<&#]*)">data \(CSV\)</a>',
        plotted.link(text),
    )
    assert found and "\n" not in found[1] and unquote(found[1]) == text


def test_a_row_carries_its_data():
    row = figures.row(figures.curves(a_panel(), X, [X], ["a"], "kim"), caption="c", alt=["d"])
    assert (
        pandas.read_csv(io.StringIO(row.data)).shape == (20, 4)
        and plotted.link(row.data) in row._repr_mimebundle_()["text/html"]
    )
    assert "lb-data" not in figures.Row("c", ("d",), ("<svg></svg>",))._repr_mimebundle_()["text/html"]


def test_a_band_without_a_place_and_levels_that_no_line_reaches_do_no_harm():
    ax = a_panel()
    figures.curves(ax, X, X[None], ["a"], "kim")
    ax.fill_between(np.array([]), np.array([]), np.array([]))
    ax.contour(np.zeros((3, 3)), levels=[1.0])
    assert set(told(ax)["series"]) == {"a"}
