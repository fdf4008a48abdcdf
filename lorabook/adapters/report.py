"""What was found in an adapter: as a table of at most 100 columns, as JSON, and as a figure."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorabook.adapters.certificate import LayerVerdict
from lorabook.adapters.inspect import PREFIX, Adapter, AdapterError, Measured, printable

WIDTH = 100
LEGEND = """\
rank: numerical rank of X = scale B A; r is what the factors allow.
stable: ||X||_F^2 / ||X||_2^2.  90%: singular values with 90 % of ||X||_F^2.  norm: ||X||_F.
imbalance: ||B'B - AA'|| / ||AA'||, 0 where training with decay as a penalty is stationary."""
LEGEND_VERDICT = """\
excess: scale ||dL/dW||_2 / decay.
slope: gradient of the objective over its decay part, 0 where training is stationary."""


def as_text(adapter: Adapter, measured: list[Measured], verdicts: dict[str, LayerVerdict] | None = None) -> str:
    """The table with what was left out and what it means."""
    begin = os.path.commonprefix([one.name for one in measured]).rpartition(".")[0] if len(measured) > 1 else ""
    begin = begin + "." if begin else ""
    header = ["module", "size", "r", "rank", "stable", "90%", "norm", "imbalance"]
    header, rows = header + ["excess", "slope", "verdict"] * bool(verdicts), []
    for one in measured:
        cells = [
            printable(one.name.removeprefix(begin)),
            f"{one.shape[0]}x{one.shape[1]}",
            str(one.allowed),
            str(one.rank),
            f"{one.stable_rank:.1f}",
            str(one.energy_90),
            _short(one.norm),
            _short(one.imbalance),
        ]
        if verdicts:
            said = verdicts[one.name]
            cells += [_short(said.excess), _short(said.slope), said.verdict]
        rows.append(cells)
    widths = [max(len(line[c]) for line in [header, *rows]) for c in range(len(header))]
    widths[0] = max(12, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    words = {0, 10}  # columns of words, aligned to the left
    align = lambda line: "  ".join(
        _elide(cell, width).ljust(width) if c in words else cell.rjust(width)
        for c, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    config = adapter.config
    scale = "alpha / sqrt(r)" if config.get("use_rslora") else "alpha / r"
    base = printable(str(config.get("base_model_name_or_path") or "not named"))
    lines = [
        f"LoRA adapter with {len(measured)} module{'s' if len(measured) > 1 else ''}: r {config['r']}, alpha "
        f"{config['lora_alpha']:g}, scale {scale}",
        f"base model: {_elide(base, WIDTH - 12)}",
    ]
    if begin:
        lines.append(f"names begin with {_elide(printable(begin), WIDTH - 17)}")
    lines += ["", align(header), *map(align, rows), "", LEGEND, *([LEGEND_VERDICT] if verdicts else [])]
    reasons: dict[str, list[str]] = {}
    for key, why in adapter.skipped.items():
        reasons.setdefault(why, []).append(printable(key.removeprefix(PREFIX)))
    if reasons:
        lines.append("")
    for why, keys in reasons.items():
        head = f"left out, {why} ({len(keys)}): "
        lines.append(head + _elide(", ".join(keys), WIDTH - len(head)))
    return "\n".join([*lines, *(f"note: {note}" for note in adapter.notes)])


def as_json(adapter: Adapter, measured: list[Measured], verdicts: dict[str, LayerVerdict] | None = None) -> str:
    """One object; a number that is infinite becomes null, and so does the certificate where there was no data."""
    modules = [asdict(one) | {"certificate": verdicts[one.name]._asdict() if verdicts else None} for one in measured]
    said = "base_model_name_or_path task_type r lora_alpha use_rslora init_lora_weights peft_version".split()
    report = {
        "format": 1,
        "adapter": {key: adapter.config.get(key) for key in said},
        "modules": modules,
        "skipped": [{"key": key, "why": why} for key, why in adapter.skipped.items()],
        "notes": list(adapter.notes),
    }
    return json.dumps(_finite(report), indent=1, allow_nan=False)


def write_plot(path: str | Path, measured: list[Measured], overwrite: bool = False) -> None:
    """Ranks by module as an SVG file, written whole or not at all."""
    from lorabook.page import figures

    path = plot_file(path, overwrite)
    x = list(range(1, len(measured) + 1))
    # linear up to 1, so that an untrained module stands at 0
    scale: dict[str, Any] = dict(yscale="symlog", ylim=(0, None), width=7.0, height=3.6)
    ax = figures.panel("module, in the order of the table", "directions", **scale)
    ranks, leading, stable, allowed = zip(
        *((one.rank, one.energy_90, one.stable_rank, one.allowed) for one in measured)
    )
    figures.curves(ax, x, [ranks, leading, stable], ["numerical rank", "90 % of the energy", "stable rank"], "kim")
    figures.reference(ax, x, allowed, "r, the rank allowed")
    alt = ["Numerical rank, directions with 90 % of the energy and stable rank of every module."]
    drawing = figures.row(ax, caption="Ranks by module", alt=alt).drawings[0]
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(drawing, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise AdapterError(f"{path} cannot be written ({error.strerror}).") from None
    finally:
        aside.unlink(missing_ok=True)


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


def _short(value: float) -> str:
    if 10 <= value < 10000:
        return f"{value:.0f}"
    return "inf" if math.isinf(value) else f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


def _elide(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
