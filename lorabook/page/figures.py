"""Figures: one function per kind, each takes numbers and an ``ax`` and returns the ``ax``.

Conventions of the whole book: theory thin, black (light on a dark page) and dashed, drawn on top;
measurement coloured, one colour per source; tolerance a grey band; the numeric floor a dotted line.
:func:`row` shows panels as inline SVG that takes its ink from the page, so that it follows the theme.
"""

from __future__ import annotations

import html
import zlib
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, to_rgba_array
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from lorabook.page import plotted, svg

plt.style.use(Path(__file__).with_name("lorabook.mplstyle"))
INK = "#010203"  # replaced by currentColor in the SVG
GREY = "#888888"
COLOURS = {
    "rushka": "#0072B2",
    "mallada": "#D55E00",
    "lora_one": "#009E73",
    "kim": "#CC79A7",
    "one_dynamics": "#8A6FC4",
}
#: Hue and lightness of each, as shares of the circle and of white, in seaborn's HUSL.
HUSL = dict(zip(COLOURS, ((0.682, 0.465), (0.072, 0.547), (0.428, 0.583), (0.934, 0.616), (0.769, 0.532))))
MARKERS = "osD^vP*X"
#: What seaborn's lineplot makes of draws: a median, and a band for an interval of them; or bars.
BAND = dict(estimator="median", errorbar=("pi", 90), err_kws=dict(alpha=0.25, linewidth=0))
BARS = dict(err_style="bars", err_kws=dict(capsize=2, elinewidth=1.0))


def panel(xlabel: str, ylabel: str, title: str = "", width: float = 4.0, height: float = 3.1, **scales) -> Axes:
    """An empty panel with its axes labelled; ``scales`` goes to ``ax.set`` (``xscale="log"``, ``ylim=...``)."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, **scales)
    plt.close(figure)
    return ax


def family(source: str, count: int) -> list:
    """``count`` colours around a source's own, of one lightness so that all read on light and dark pages."""
    hue, lightness = HUSL[source]
    return [COLOURS[source], *seaborn.husl_palette(count, h=hue, s=0.586, l=lightness).as_hex()[1:]]


def curves(ax: Axes, x, measured, labels, source: str, predicted=None, every: int = 1) -> Axes:
    """Measured curves as coloured points, predictions as dashed ink on top.

    Args:
        x: (T,) abscissae, or (K, T).
        measured: (K, T) one curve per label.
        labels: K texts; an empty text keeps a curve out of the legend.
        source: whose colour.
        predicted: (K, T) or None.
        every: show one measured point in so many.
    """
    measured, x = _numpy(measured), np.broadcast_to(_numpy(x), _numpy(measured).shape)
    for k, (colour, label) in enumerate(zip(family(source, len(measured)), labels, strict=True)):
        if predicted is None:
            _curve(ax, x[k], measured[k], colour, MARKERS[k % 8], label)
        else:
            ax.plot(x[k][::every], measured[k][::every], MARKERS[k % 8], color=colour, label=label or None)
            _dashed(ax, x[k], _numpy(predicted)[k], "prediction" if any(labels) and k == len(measured) - 1 else "")
    return _legend(ax)


def _curve(ax: Axes, x, y, colour: str, marker: str, label: str) -> None:
    """A coloured curve with about nine markers."""
    ax.plot(x, y, color=colour, label=label or None, marker=marker, markevery=max(1, len(x) // 9))


def _dashed(ax: Axes, x, y, label: str) -> None:
    ax.plot(x, y, color=INK, linestyle="--", linewidth=1.0, zorder=5, label=label)


def by_source(ax: Axes, x, measured: dict, names: dict) -> Axes:
    """One curve (T,) per source, in its own colour and with its own marker; ``x`` is (T,), or a dictionary too."""
    for source, values in measured.items():
        across, marker = _numpy(x[source] if isinstance(x, dict) else x), MARKERS[list(COLOURS).index(source)]
        _curve(ax, across, _numpy(values), COLOURS[source], marker, names[source])
    return _legend(ax)


def scatter(ax: Axes, x, y, labels, source: str) -> Axes:
    """Point clouds, one colour and one marker per label; x and y are sequences of K vectors."""
    for k, (colour, label) in enumerate(zip(family(source, len(labels)), labels, strict=True)):
        ax.plot(_numpy(x[k]), _numpy(y[k]), MARKERS[k % 8], color=colour, label=label or None, alpha=0.75)
    return _legend(ax)


def reference(ax: Axes, x, y, label: str) -> Axes:
    """A prediction: dashed ink, drawn on top."""
    _dashed(ax, _numpy(x), _numpy(y), label)
    return _legend(ax)


def bands(ax: Axes, x, samples, labels, source: str, **look) -> Axes:
    """Median and the band from the 5th to the 95th percentile, for K labels and ``samples`` (K, X, D) of D draws.

    ``look`` goes to ``seaborn.lineplot``.
    """
    for k, (colour, label, draws) in enumerate(zip(family(source, len(labels)), labels, _numpy(samples), strict=True)):
        marker = MARKERS[k % 8] if "err_style" in look else ""
        style = dict(color=colour, label=label or None, marker=marker, markeredgecolor=colour) | BAND | look
        seaborn.lineplot(_tidy(x, draws), x="x", y="y", ax=ax, **style)
    return _legend(ax)


def spread(ax: Axes, x, samples, source: str, label: str) -> Axes:
    """The median of ``samples`` (X, D) as points, with bars from the 5th to the 95th percentile.

    Of fewer than 20 draws a percentile says little: each one is a faint point instead.
    """
    few = _numpy(samples).shape[1] < 20
    if few:
        look = dict(color=COLOURS[source], alpha=0.5, s=9, linewidth=0, label="_draws")
        seaborn.scatterplot(_tidy(x, samples), x="x", y="y", ax=ax, **look)
    return bands(ax, x, [samples], [label], source, linestyle="none", **BARS | ({"errorbar": None} if few else {}))


def rates(ax: Axes, x, rate, low, high, labels, source: str) -> Axes:
    """Shares ``rate`` (K, X) with intervals from ``low`` to ``high`` as bars, one curve per label."""
    ends = np.stack([_numpy(low), _numpy(rate), _numpy(high)], -1)
    return bands(ax, x, ends, labels, source, errorbar=("pi", 100), **BARS)


def bars(ax: Axes, labels, values, source: str, floor_at: float | None = None) -> Axes:
    """Horizontal bars with names on the left, first on top; ``floor_at`` is the shortest length on a log axis."""
    shown = np.maximum(_numpy(values), floor_at or -np.inf)
    seaborn.barplot(x=shown, y=list(labels), color=COLOURS[source], alpha=0.75, saturation=1, errorbar=None, ax=ax)
    ax.grid(axis="y", visible=False)
    return ax


def intervals(ax: Axes, labels, values, half_widths, source: str, marked=()) -> Axes:
    """A forest plot: one line per label, a point with its interval; the rows in ``marked`` are filled squares."""
    rows = np.arange(len(labels))
    for mark, chosen in (("o", ~np.isin(rows, marked)), ("s", np.isin(rows, marked))):
        if not chosen.any():
            continue
        colour, widths = GREY if mark == "o" else COLOURS[source], _numpy(half_widths)[chosen]
        look = dict(xerr=widths, fmt=mark, color=colour, capsize=2, linewidth=1.2)
        ax.errorbar(_numpy(values)[chosen], rows[chosen], **look)[0].set_label(f"_{ax.get_title(loc='left') or 'mean'}")
    ax.set_yticks(rows, labels, fontsize="small")
    ax.invert_yaxis()
    return ax


def heat(ax: Axes, rows, columns, values, texts, source: str, between: tuple[float, float]) -> Axes:
    """A map of ``values`` (R, C) as cells with texts; the colour is strong at the upper end of a range, in decades."""
    shades = ListedColormap(to_rgba_array([COLOURS[source]] * 256, np.linspace(0.08, 0.58, 256)))
    look = dict(annot=np.array(texts), fmt="", annot_kws=dict(color=INK, fontsize="small"), cbar=False)
    table = pandas.DataFrame(_numpy(values), rows, columns)
    seaborn.heatmap(table, cmap=shades, norm=LogNorm(*between, clip=True), ax=ax, **look)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    return ax


def stream(ax: Axes, x, y, u, v, level=None) -> Axes:
    """A phase portrait: thin grey streamlines of the field (u, v) on the grid, contours of ``level`` where given."""
    x, y = _numpy(x), _numpy(y)
    if level is not None:
        ax.contour(x, y, _numpy(level), levels=9, colors=GREY, linewidths=0.5, alpha=0.6, linestyles="solid")
    ax.streamplot(x, y, _numpy(u), _numpy(v), color=GREY, linewidth=0.6, arrowsize=0.7, density=0.9)
    return ax


def table(header, rows) -> Table:
    """A small table for a page: texts and numbers, numbers at three digits."""

    short = lambda number: f"{float(number):.3g}".replace("e-0", "e-").replace("e+0", "e")
    text = lambda value: str(value) if isinstance(value, (str, int)) else short(value)
    return Table(tuple(map(text, header)), tuple(tuple(map(text, row)) for row in rows))


@dataclass(frozen=True)
class Table:
    """What :func:`table` shows: Markdown on a page, aligned columns elsewhere."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        lines = [self.header, *self.rows]
        widths = [max(len(line[c]) for line in lines) for c in range(len(self.header))]
        plain = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
        mark = lambda line: "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        marked = [mark(self.header), "|" + "---|" * len(self.header), *map(mark, self.rows)]
        return {"text/plain": plain, "text/markdown": "\n".join(marked)}


def contours(ax: Axes, x, y, height, points, source: str, levels: int = 14) -> Axes:
    """Level lines of a landscape over a plane, evenly spaced in their square root, so that valleys show.

    Args:
        x: (X,) and y: (Y,) coordinates.
        height: (Y, X) values, least value 0.
        points: texts and places, ``{"truth": ([x, ...], [y, ...])}``, drawn as markers.
        source: whose colour.
    """
    x, y, height = (_numpy(values) for values in (x, y, height))
    steps = np.linspace(0, np.sqrt(height.max()), levels + 1)[1:] ** 2
    ax.contour(x, y, height, levels=steps, colors=COLOURS[source], linewidths=0.8, alpha=0.8)
    for k, (label, (across, up)) in enumerate(points.items()):
        ax.plot(across, up, MARKERS[k % 8], color=INK, label=label, markersize=6)
    return _legend(ax)


def strip(ax: Axes, low: float, high: float, label: str = "") -> Axes:
    """A range of the abscissa, as a grey strip from bottom to top."""
    ax.axvspan(low, high, color=GREY, alpha=0.2, linewidth=0, label=label or "_strip")
    return _legend(ax)


def phases(ax: Axes, edges, names) -> Axes:
    """A bar of named phases under the time axis; ``edges`` has one entry more than ``names``."""
    # the bar hangs at a fixed distance in points below the axis, so the layout knows where it ends
    down = ScaledTranslation(0, -52 / 72, ax.figure.dpi_scale_trans)
    where = blended_transform_factory(ax.transData, ax.transAxes + down)
    for k, (name, low, high) in enumerate(zip(names, edges[:-1], edges[1:], strict=True)):
        look = dict(color=GREY, alpha=(0.45, 0.2)[k % 2], linewidth=0, clip_on=False)
        ax.fill_betweenx([0, 0.09], low, high, transform=where, label=f"_{name}", **look)
        middle = (low * high) ** 0.5 if ax.get_xscale() == "log" else (low + high) / 2
        ax.text(middle, 0.045, name, transform=where, ha="center", va="center", fontsize="small")
    return ax


def floor(ax: Axes, level: float, label: str = "rounding") -> Axes:
    """The numeric floor: a dotted line with its name at the right edge."""
    ax.axhline(level, color=GREY, linestyle=":", linewidth=1.2, label=f"_{label}")
    ax.annotate(label, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize="small")
    return ax


def row(*panels: Axes, caption: str, alt: list[str] | tuple[str, ...]) -> Row:
    """Show panels side by side, or below each other on a narrow page.

    Args:
        panels: axes from :func:`panel`, already drawn.
        caption: the question and its answer, plain text.
        alt: one description per panel for readers who do not see it.
    """
    if len(alt) != len(panels):
        raise ValueError(f"{len(panels)} panels need {len(panels)} descriptions; got {len(alt)}.")
    return Row(caption, tuple(alt), tuple(svg.drawing(ax, INK) for ax in panels), plotted.csv(panels))


@dataclass(frozen=True)
class Row:
    """Panels as one HTML figure; what a notebook cell shows."""

    caption: str
    alt: tuple[str, ...]
    drawings: tuple[str, ...]
    data: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        parts = []
        for number, (text, drawing) in enumerate(zip(self.alt, self.drawings, strict=True)):
            prefix = f"f{zlib.crc32(self.caption.encode()) % 16**6:x}-{number}-"
            parts.append(f'<div class="lb-panel">{svg.named(drawing, text, prefix)}</div>')
        told = html.escape(self.caption) + (f" {plotted.link(self.data)}" if self.data else "")
        page = f'<figure class="lb-row">{"".join(parts)}<figcaption>{told}</figcaption></figure>'
        return {"text/plain": f"Figure: {self.caption}", "text/html": svg.share_letters(page)}


def _legend(ax: Axes) -> Axes:
    if ax.get_legend_handles_labels()[0]:
        ax.legend()
    return ax


def _tidy(x, draws) -> pandas.DataFrame:
    """A row for each draw; ``draws`` (X, D) at ``x`` (X,)."""
    draws = _numpy(draws)
    return pandas.DataFrame({"x": np.repeat(_numpy(x), draws.shape[1]), "y": draws.ravel()})


def _numpy(values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, (list, tuple)):  # of tensors, perhaps, on any device
        values = [_numpy(value) if isinstance(value, (torch.Tensor, list, tuple)) else value for value in values]
    return np.asarray(values, dtype=float)
