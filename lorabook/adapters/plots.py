"""What was found in adapters as figures: one SVG file each, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lorabook.adapters.against_base import AgainstBase
from lorabook.adapters.compare import Comparison
from lorabook.adapters.inspect import Measured
from lorabook.adapters.movement import Series
from lorabook.adapters.peft_config import AdapterError
from lorabook.adapters.products import length
from lorabook.adapters.truncate import Truncated


def draw_ranks(path: str | Path, measured: list[Measured], overwrite: bool = False) -> None:
    """Ranks by module."""
    figures = _figures()
    x = list(range(1, len(measured) + 1))
    # linear up to 1, so that an untrained module stands at 0
    ax = figures.panel("module, in the order of the table", "directions", yscale="symlog", width=7.0, height=3.6)
    ranks, leading, stable, allowed = zip(
        *((one.rank, one.energy_90, one.stable_rank, one.allowed) for one in measured)
    )
    figures.curves(ax, x, [ranks, leading, stable], ["numerical rank", "90 % of the energy", "stable rank"], "kim")
    figures.reference(ax, x, allowed, "r, the rank allowed")
    alt = "Numerical rank, directions with 90 % of the energy and stable rank of every module."
    _write(path, _from_zero(ax), "Ranks by module", alt, overwrite)


def draw_base(path: str | Path, base: dict[str, AgainstBase | str], overwrite: bool = False) -> None:
    """Sizes beside the base and what a merge loses, by module."""
    figures = _figures()
    beside = [one for one in base.values() if isinstance(one, AgainstBase)]
    x, nan = list(range(1, len(beside) + 1)), float("nan")
    rows = {
        "||X|| / ||W0||, Frobenius": [one.ratio or nan for one in beside],
        "||X|| / ||W0||, spectral": [one.spectral_ratio or nan for one in beside],
        "lost in a merge": [one.lost or nan for one in beside],
    }
    rows = {label: values for label, values in rows.items() if any(value == value for value in values)}
    ax = figures.panel("module, in the order of the table", "ratio", yscale="log", width=7.0, height=3.6)
    figures.curves(ax, x, list(rows.values()), list(rows), "kim")
    ax.locator_params(axis="x", integer=True)
    alt = "Size of every module's update beside its base weight, and the share that a merge loses to rounding."
    _write(path, ax, "Updates beside the base", alt, overwrite)


def draw_series(path: str | Path, series: Series, overwrite: bool = False) -> None:
    """The norm of every module from folder to folder: its median, and the band of 90 %, a curve for each run."""
    figures = _figures()
    nan, x = float("nan"), list(range(1, len(series.adapters) + 1))
    named = [series.labels(run) for run in series.runs]
    norms = [
        [[nan if k not in run or one.norms[k] is None else one.norms[k] for one in series.moved] for k in range(len(x))]
        for run in series.runs
    ]
    what = "median, and 5 to 95 % of the modules"
    ax = figures.panel("adapter", "||X|| of a module", width=7.0, height=3.6)
    figures.bands(
        ax, x, norms, [f"{title}: {what}" if len(named) > 1 else what for title, _ in named], "kim", marker="o"
    )
    ticks = {k: label for run, (_, short) in zip(series.runs, named) for k, label in zip(run, short)}
    ax.set_xticks(x, [ticks[k] for k in range(len(x))], rotation=20 if len(x) > 4 else 0)
    _write(path, ax, "Norms from adapter to adapter", "Median and band of the modules' norms by adapter.", overwrite)


def draw_error(path: str | Path, found: Sequence[Truncated], overwrite: bool = False) -> None:
    """What every rank would leave out, of all modules together and of the worst one."""
    figures = _figures()
    ranks = range(1, max(one.allowed for one in found) + 1)
    every = [[one.left_out(rank) for one in found] for rank in ranks]
    whole = length([one.norm for one in found]) or 1.0
    worst = [max(left / (one.norm or 1.0) for left, one in zip(row, found)) for row in every]
    ax = figures.panel("rank", "relative error of the update", width=7.0, height=3.6)
    figures.curves(
        ax, list(ranks), [[length(row) / whole for row in every], worst], ["all modules", "worst one"], "kim"
    )
    figures.reference(ax, [1, ranks[-1]], [length([one.error for one in found]) / whole] * 2, "written")
    alt = "Relative error of the best update of each rank, in all modules and in the worst one."
    _write(path, _from_zero(ax), "Error by rank", alt, overwrite)


def draw_pairs(path: str | Path, pairs: Sequence[Comparison], overwrite: bool = False) -> None:
    """Distance and overlaps: by module for two adapters, by pair for several."""
    figures = _figures()
    found = pairs[0].modules if len(pairs) == 1 else [pair.total for pair in pairs]
    if not found:
        raise AdapterError("The adapters have no module in common, so there is nothing to draw.")
    label = "module, in the order of the table" if len(pairs) == 1 else "pair, in the order of the table"
    x = list(range(1, len(found) + 1))
    ax = figures.panel(label, "distance, overlap", width=7.0, height=3.6)
    measured = [[getattr(one, name) for one in found] for name in ("relative", "left", "right")]
    figures.curves(ax, x, measured, ["distance", "overlap left", "overlap right"], "kim")
    figures.reference(ax, x, [one.chance[0] for one in found], "overlap left by chance")
    alt = "Relative distance of two updates and overlaps of their leading singular directions."
    _write(path, _from_zero(ax), "Adapters side by side", alt, overwrite)


def plot_file(path: str | Path, overwrite: bool = False) -> Path:
    """``path`` if an SVG file can be written there, and none would be lost unasked."""
    path = Path(path)
    if path.suffix != ".svg" or path.is_dir():
        raise AdapterError(f"The figure is an SVG file; give a name that ends in .svg, not {path}.")
    if not path.parent.is_dir():
        raise AdapterError(f"There is no folder {path.parent} for the figure.")
    if path.exists() and not overwrite:
        raise AdapterError(f"{path} exists; give another name, or --overwrite to replace it.")
    return path


def _figures():
    try:
        from lorabook.page import figures
    except ImportError as error:
        raise AdapterError(f"The figure needs matplotlib and seaborn ({error}).") from None
    return figures


def _from_zero(ax):
    """The ordinate begins at 0, set after what is drawn has set its end; the abscissa counts."""
    ax.set_ylim(bottom=0)
    if type(ax.xaxis.get_major_locator()).__name__ == "AutoLocator":
        ax.locator_params(axis="x", integer=True)
    return ax


def _write(path: str | Path, ax, caption: str, alt: str, overwrite: bool) -> None:
    path = plot_file(path, overwrite)
    drawing = _figures().row(ax, caption=caption, alt=[alt]).drawings[0]
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(drawing, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be written ({error.strerror}).") from None
    finally:
        aside.unlink(missing_ok=True)
