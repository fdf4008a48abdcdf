"""Figures: one function per kind, each takes numbers and an ``ax`` and returns the ``ax``.

Conventions of the whole book: theory thin, black (light on a dark page) and dashed, drawn on top;
measurement coloured, one colour per source; tolerance a grey band; the numeric floor a dotted line.
:func:`row` shows panels as inline SVG that takes its ink from the page, so that it follows the theme.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

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
#: Hue, from 0 to 360, and lightness of the families, up to 100, in seaborn's HUSL.
HUSL = dict(zip(COLOURS, ((244.9, 46.0), (25.9, 54.2), (153.6, 57.7), (335.3, 61.0), (276.1, 52.7))))
MARKERS = "osD^vP*X"


def panel(xlabel: str, ylabel: str, title: str = "", width: float = 4.0, height: float = 3.1, **scales) -> Axes:
    """An empty panel with its axes labelled; ``scales`` goes to ``ax.set`` (``xscale="log"``, ``ylim=...``)."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, **scales)
    plt.close(figure)
    return ax


def family(source: str, count: int) -> list:
    """``count`` colours around a source's own, of one lightness so that all read on light and dark pages."""
    hue, lightness = HUSL[source]
    # seaborn counts hues up to 359 and the rest up to 99
    turned = lambda by: seaborn.husl_palette(1, (hue + by) % 360 / 359, 58 / 99, lightness / 99).as_hex()[0]
    return [COLOURS[source], *(turned(300 * k / count) for k in range(1, count))]


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
            _dashed(ax, x[k], _numpy(predicted)[k], "prediction" if k == len(measured) - 1 else "")
    return _legend(ax, labels)


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
    return _legend(ax, names.values())


def scatter(ax: Axes, x, y, labels, source: str) -> Axes:
    """Point clouds, one colour and one marker per label; x and y are sequences of K vectors."""
    for k, (colour, label) in enumerate(zip(family(source, len(labels)), labels, strict=True)):
        ax.plot(_numpy(x[k]), _numpy(y[k]), MARKERS[k % 8], color=colour, label=label or None, alpha=0.75)
    return _legend(ax, labels)


def reference(ax: Axes, x, y, label: str) -> Axes:
    """A prediction: dashed ink, drawn on top."""
    _dashed(ax, _numpy(x), _numpy(y), label)
    return _legend(ax, [label])


def spread(ax: Axes, x, samples, source: str, label: str) -> Axes:
    """:func:`bands` for one label and ``samples`` (X, D), its median as points."""
    return bands(ax, x, [samples], [label], source, "o")


def bars(ax: Axes, labels, values, source: str, floor_at: float | None = None) -> Axes:
    """Horizontal bars with names on the left, first on top; ``floor_at`` is the shortest length on a log axis."""
    values = _numpy(values)
    shown = np.maximum(values, floor_at) if floor_at else values
    ax.barh(range(len(labels)), shown, color=COLOURS[source], alpha=0.75)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return ax


def intervals(ax: Axes, labels, values, half_widths, source: str, marked=()) -> Axes:
    """A forest plot: one line per label, a point with its interval; the rows in ``marked`` are filled squares."""
    values, half_widths = _numpy(values), _numpy(half_widths)
    for row in range(len(labels)):
        strong = row in marked
        look = (
            dict(fmt="s", color=COLOURS[source], markersize=5.5)
            if strong
            else dict(fmt="o", color=GREY, markersize=4.5)
        )
        ax.errorbar(values[row], row, xerr=half_widths[row], **look, capsize=2, linewidth=1.2)
    ax.set_yticks(range(len(labels)), labels, fontsize="small")
    ax.invert_yaxis()
    return ax


def heat(ax: Axes, rows, columns, values, texts, source: str) -> Axes:
    """A table as coloured cells, each with its text; ``values`` (R, C) in [0, 1] set the strength of the colour."""
    strength = 0.08 + 0.5 * np.clip(np.nan_to_num(_numpy(values)), 0, 1)
    ax.imshow(
        to_rgba_array([COLOURS[source]] * strength.size, strength.ravel()).reshape(*strength.shape, 4), aspect="auto"
    )
    for r, line in enumerate(texts):
        for c, text in enumerate(line):
            ax.text(c, r, text, ha="center", va="center", fontsize="small", color=INK)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
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


def rates(ax: Axes, x, rate, low, high, labels, source: str) -> Axes:
    """Shares with their binomial intervals as bars, one curve per label.

    Args:
        x: (T,) abscissae.
        rate, low, high: (K, T) shares and the ends of their intervals.
        labels: K texts; an empty text keeps a curve out of the legend.
        source: whose colour.
    """
    x, rate, low, high = (_numpy(values) for values in (x, rate, low, high))
    for k, (colour, label) in enumerate(zip(family(source, len(labels)), labels, strict=True)):
        bars = np.maximum(np.stack([rate[k] - low[k], high[k] - rate[k]]), 0)
        look = dict(color=colour, marker=MARKERS[k % 8], capsize=2, elinewidth=1.0)
        ax.errorbar(x, rate[k], bars, label=label or None, **look)
    return _legend(ax, labels)


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
    return _legend(ax, list(points))


def bands(ax: Axes, x, samples, labels, source: str, style: str = "-") -> Axes:
    """Median and the band from the 5th to the 95th percentile, for K labels and ``samples`` (K, X, D) of D draws."""
    for colour, label, draws in zip(family(source, len(labels)), labels, _numpy(samples), strict=True):
        low, middle, high = np.nanquantile(draws, [0.05, 0.5, 0.95], axis=-1)
        ax.fill_between(_numpy(x), low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(_numpy(x), middle, style, color=colour, label=label or None)
    return _legend(ax, labels)


def strip(ax: Axes, low: float, high: float, label: str = "") -> Axes:
    """A range of the abscissa, as a grey strip from bottom to top."""
    ax.axvspan(low, high, color=GREY, alpha=0.2, linewidth=0, label=label or None)
    return _legend(ax, [label])


def phases(ax: Axes, edges, names) -> Axes:
    """A bar of named phases under the time axis; ``edges`` has one entry more than ``names``."""
    # the bar hangs at a fixed distance in points below the axis, so the layout knows where it ends
    down = ScaledTranslation(0, -52 / 72, ax.figure.dpi_scale_trans)
    where = blended_transform_factory(ax.transData, ax.transAxes + down)
    for k, (name, low, high) in enumerate(zip(names, edges[:-1], edges[1:], strict=True)):
        look = dict(color=GREY, alpha=(0.45, 0.2)[k % 2], linewidth=0, clip_on=False)
        ax.fill_betweenx([0, 0.09], low, high, transform=where, **look)
        middle = (low * high) ** 0.5 if ax.get_xscale() == "log" else (low + high) / 2
        ax.text(middle, 0.045, name, transform=where, ha="center", va="center", fontsize="small")
    return ax


def tolerance(ax: Axes, low: float, high: float, label: str = "") -> Axes:
    """The band in which a claim holds, as a grey strip across the panel."""
    ax.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0, label=label or None)
    return _legend(ax, [label])


def floor(ax: Axes, level: float, label: str = "rounding") -> Axes:
    """The numeric floor: a dotted line with its name at the right edge."""
    ax.axhline(level, color=GREY, linestyle=":", linewidth=1.2)
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
    return Row(caption, tuple(alt), tuple(_svg(ax) for ax in panels))


@dataclass(frozen=True)
class Row:
    """Panels as one HTML figure; what a notebook cell shows."""

    caption: str
    alt: tuple[str, ...]
    drawings: tuple[str, ...]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        parts = []
        for number, (text, drawing) in enumerate(zip(self.alt, self.drawings, strict=True)):
            prefix = f"f{zlib.crc32(self.caption.encode())}-{number}-"
            drawing = re.sub(r'\bid="', f'id="{prefix}', drawing)
            drawing = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}", drawing)
            named = f'<svg role="img" aria-label="{html.escape(text, quote=True)}" '
            parts.append(f'<div class="lb-panel">{drawing.replace("<svg", named, 1)}</div>')
        page = f'<figure class="lb-row">{"".join(parts)}<figcaption>{html.escape(self.caption)}</figcaption></figure>'
        return {"text/plain": f"Figure: {self.caption}", "text/html": page}


def _svg(ax: Axes) -> str:
    """The panel's SVG without prologue, date or size, with the page's ink."""
    buffer = io.StringIO()
    ax.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    for size in ("width", "height"):
        drawing = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", drawing)
    return re.sub(r"\n\s*", "\n", drawing.replace(INK, "currentColor"))


def _legend(ax: Axes, labels) -> Axes:
    if any(labels):
        ax.legend()
    return ax


def _numpy(values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, (list, tuple)):  # of tensors, perhaps, on any device
        values = [_numpy(value) if isinstance(value, (torch.Tensor, list, tuple)) else value for value in values]
    return np.asarray(values, dtype=float)
