"""The figure of a map: cells by how far inside the region they are, the measured border, the predicted one dashed."""

from __future__ import annotations

import dataclasses
import math

import numpy
import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from lorabook.maps.chart import Axis, Region
from lorabook.page import figures, plotted

DARK = "#111111"  # on cells, which have one colour on every page


def draw(region: Region, panel: int, fine: Region | None = None, title: str = "") -> Axes:
    """One panel of a map.

    Args:
        region: whose borders are drawn.  fine: the cells, where they are others.
        title: by default the panel's own name.
    """
    chart, cells = region.chart, fine or region
    ax = figures.panel(chart.x.label, chart.y.label, title or chart.panels[panel].label)
    for axis, scale in ((chart.x, ax.set_xscale), (chart.y, ax.set_yscale)):
        scale("log" if axis.log else "linear")
    colours = seaborn.light_palette(figures.COLOURS[chart.source], as_cmap=True)
    strength = cells.inside()[panel].mT.cpu().numpy()
    edges = _edges(chart.x, cells.x), _edges(chart.y, cells.y)
    ax.pcolormesh(*edges, strength, cmap=colours, vmin=-1.0, vmax=1.0, rasterized=True)
    ax.grid(visible=False)
    points = _borders(region, panel)
    ax.plot(*zip(*points) if points else ([], []), "o", color="white", markeredgecolor=DARK, label="measured border")
    for line in cells.predicted(panel):
        ax.plot(cells.x, line, "--", color=DARK, linewidth=1.4, label="predicted border")
    ax.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][0], edges[1][-1]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    if chart.x.whole and not chart.x.log:
        ax.set_xticks(region.x, [f"{value:g}" for value in region.x])
    return ax


def row(panels: list[tuple[Region, int, Axes]], caption: str, alt: tuple[str, ...]) -> figures.Row:
    """Panels as one figure, with the values of their cells and borders as its data."""
    tables = []
    for (region, panel, _), letter in zip(panels, "abcdefghijkl"):
        cells = [(x, y, v) for x, line in zip(region.x, region.values[panel].tolist()) for y, v in zip(region.y, line)]
        lines = [(x, y, math.nan) for line in region.predicted(panel) for x, y in zip(region.x, line)]
        found = [(x, y, math.nan) for x, y in _borders(region, panel)]
        for series, rows in (("value", cells), ("measured border", found), ("predicted border", lines)):
            table = pandas.DataFrame(
                rows, columns=[plotted.plain(axis.label) for axis in (region.chart.x, region.chart.y)] + ["value"]
            )
            tables.append(table.assign(panel=letter, series=series).set_index(["panel", "series"]))
    data = pandas.concat(tables).to_csv(float_format="%.4g", lineterminator="\n")
    return dataclasses.replace(figures.row(*(ax for _, _, ax in panels), caption=caption, alt=alt), data=data)


def _borders(region: Region, panel: int) -> list[tuple[float, float]]:
    return [(x, y) for k, x in enumerate(region.x) for y in region.borders(panel, k)]


def _edges(axis: Axis, values: list[float]) -> list[float]:
    """The edges of cells around these values."""
    at = numpy.log(values) if axis.log else numpy.array(values)
    middle = (at[:-1] + at[1:]) / 2
    edges = numpy.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
    return (numpy.exp(edges) if axis.log else edges).tolist()
