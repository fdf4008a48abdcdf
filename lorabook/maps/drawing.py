"""The figure of a map: cells by how far inside the region they are, the measured border, the predicted one dashed."""

from __future__ import annotations

import math

import numpy
import seaborn
from matplotlib.axes import Axes

from lorabook.maps.chart import Axis, Region
from lorabook.page import figures

DARK = "#111111"  # on cells, which are light or coloured on every page


def draw(region: Region, panel: int, measured: Region | None = None, width: float = 4.0, height: float = 3.1) -> Axes:
    """One panel of a map.

    Args:
        region: the cells.  measured: whose borders are drawn as points; that of the cells by default.
    """
    chart, measured = region.chart, measured or region
    title = chart.panels[panel].label
    ax = figures.panel(chart.x.label, chart.y.label, title, width=width, height=height)
    cells = region.inside()[panel].mT.cpu().numpy()
    colour = seaborn.light_palette(figures.COLOURS[chart.source], as_cmap=True)
    look = dict(cmap=colour, vmin=-1.0, vmax=1.0, cbar=False, rasterized=True)
    seaborn.heatmap(cells, ax=ax, mask=numpy.isnan(cells), **look)
    ax.set(xlabel=chart.x.label, ylabel=chart.y.label)
    ax.invert_yaxis()
    ax.grid(visible=False)
    for axis, values, set_ticks in ((chart.x, region.x, ax.set_xticks), (chart.y, region.y, ax.set_yticks)):
        ticks = _ticks(axis, values)
        set_ticks(_place(axis, values, ticks), [_short(tick) for tick in ticks], rotation=0)
    points = [(x, y) for k, x in enumerate(measured.x) for y in measured.borders(panel, k)]
    if points:
        at = _place(chart.x, region.x, [x for x, _ in points]), _place(chart.y, region.y, [y for _, y in points])
        ax.plot(*at, "o", color="white", markeredgecolor=DARK, markersize=4.5, label="measured border")
    low, high = 0.0, float(len(region.y))
    for line in region.predicted(panel):
        y = numpy.array(_place(chart.y, region.y, line))
        y = numpy.where((y < low) | (y > high), numpy.nan, y)
        ax.plot(_place(chart.x, region.x, region.x), y, "--", color=DARK, linewidth=1.4, label="predicted border")
    return ax


def _place(axis: Axis, values: list[float], wanted: list[float]) -> list[float]:
    """Where numbers stand among the cells; beyond the first and last middle the spacing goes on."""
    turn = (lambda v: math.log(v) if v > 0 else math.nan) if axis.log else float
    known, at = [turn(v) for v in values], [turn(v) for v in wanted]
    slopes = known[1] - known[0], known[-1] - known[-2]
    found = numpy.interp(at, known, numpy.arange(len(known)) + 0.5)
    low, high = numpy.array(at) < known[0], numpy.array(at) > known[-1]
    found[low] = 0.5 + (numpy.array(at)[low] - known[0]) / slopes[0]
    found[high] = len(known) - 0.5 + (numpy.array(at)[high] - known[-1]) / slopes[1]
    return found.tolist()


def _ticks(axis: Axis, values: list[float]) -> list[float]:
    """About five numbers of one digit inside the range."""
    low, high = values[0], values[-1]
    if axis.log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = (1,) if high / low > 1e3 else (1, 3) if high / low > 30 else (1, 2, 5)
        found = [digit * 10.0**k for k in decades for digit in digits if low <= digit * 10.0**k <= high * 1.0001]
        return found[:: max(1, math.ceil(len(found) / 6))]
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if (high - low) / s <= 6)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _short(number: float) -> str:
    return f"{number:g}".replace("e-0", "e-").replace("e+0", "e")
