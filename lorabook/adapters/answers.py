"""What ``truncate`` and ``compare`` found: as tables of at most 100 columns, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorabook.adapters import products
from lorabook.adapters.compare import Compared, Comparison
from lorabook.adapters.folder import Adapter
from lorabook.adapters.formats import PREFIX
from lorabook.adapters.merges import Checked, Merge
from lorabook.adapters.outside import sentences
from lorabook.adapters.parts import BIAS, EXPERT, TOKENS, modules
from lorabook.adapters.peft_config import printable
from lorabook.adapters.tables import (
    WIDTH,
    brief,
    common_begin,
    dumped,
    elide,
    grouped,
    left_out,
    module_label,
    table,
    wrapped,
)
from lorabook.adapters.truncate import Truncated

TRUNCATED = """\
r: rank that the factors allowed, and allow now.  norm: ||X||_F of the update X = scale B A.
error: ||X - X'||_F / ||X||_F for the update X' that was written."""
COMPARED = """\
norm: ||X||_F of the first.  ratio: ||Y||_F / ||X||_F.  distance: ||X - Y||_F over the longer one.
cosine: <X, Y> / (||X||_F ||Y||_F).  dirs: singular directions with {share} of ||X||_F^2, ||Y||_F^2.
left, right: overlap of their spans, 1 if one holds the other; in brackets what chance gives."""
MERGED = """\
error: ||M - S||_F / ||S||_F of the merged update M against the weighted sum S, at the scale 1.
largest: of a single module."""


# ---------------------------------------------------------------- truncate


def truncated_text(adapter: Adapter, found: Sequence[Truncated], out: str | Path | None) -> str:
    """The table of ``truncate``."""
    begin, total = common_begin([one.name for one in found]), _truncated_total(found)
    rows = [
        [
            module_label(one, begin),
            f"{one.shape[0]}x{one.shape[1]}",
            str(one.allowed),
            str(one.kept),
            brief(one.norm),
            brief(one.relative),
        ]
        for one in found
    ]
    rows.append(["all", "", "", "", brief(total["norm"]), brief(total["relative"])])
    size, left = total["parameters"]
    lines = [
        f"Written to {elide(printable(str(out)), WIDTH - 11)}" if out else "Nothing was written (no --out).",
        f"{modules(len(found))}, {left} of {size} numbers in the factors",
        *_names(begin),
        "",
        *table(["module", "size", "r", "now", "norm", "error"], rows, {0}),
        "",
        TRUNCATED,
    ]
    carried = grouped(
        {key.removeprefix(PREFIX): f"carried along as it is, {adapter.skipped[key]}" for key in _rest(adapter)}
    )
    return "\n".join([*lines, *wrapped([*carried, *(f"note: {note}" for note in _truncated_notes(adapter, found))])])


def _truncated_notes(adapter: Adapter, found: Sequence[Truncated]) -> list[str]:
    """The adapter's, and a warning of PEFT's (read in 0.21.2) that is wrong: it looks for modules alone."""
    notes = list(adapter.notes)
    if any(one.kind == EXPERT for one in found) and len({one.kept for one in found}) > 1:
        notes.append(
            "PEFT may warn on loading that the experts' keys in rank_pattern and alpha_pattern were ignored; it uses "
            "them all the same."
        )
    return notes


def truncated_json(adapter: Adapter, found: Sequence[Truncated], out: str | Path | None) -> str:
    """The same for programs."""
    return dumped(
        {
            "format": 1,
            "out": out and str(out),
            "total": _both_errors(_truncated_total(found)),
            "modules": [_both_errors(asdict(one) | {"relative": one.relative}) for one in found],
            "carried": _rest(adapter),
            "notes": _truncated_notes(adapter, found),
        }
    )


def _both_errors(said: dict[str, Any]) -> dict[str, Any]:
    """``||X - X'||_F`` and the same over ``||X||_F``, which the table shows, under names that tell them apart."""
    names = {"error": "absolute_error", "relative": "relative_error"}
    return {names.get(key, key): value for key, value in said.items()}


def _truncated_total(found: Sequence[Truncated]) -> dict[str, Any]:
    norm, error = (products.length([getattr(one, name) for one in found]) for name in ("norm", "error"))
    count = lambda rank: sum(getattr(one, rank) * sum(one.shape) for one in found)
    return {
        "norm": norm,
        "error": error,
        "relative": error / norm if norm else 0.0,
        "parameters": (count("allowed"), count("kept")),
    }


# ---------------------------------------------------------------- compare


def compared_text(adapters: Sequence[Adapter], pairs: Sequence[Comparison], energy: float) -> str:
    """The table of ``compare``: the modules of two adapters, or one line for every two of several."""
    lines = [f"{place}: {elide(_title(one), WIDTH - 4)}" for place, one in enumerate(adapters, 1)]
    header = ["norm", "ratio", "distance", "cosine", "dirs", "left", "right"]
    if len(pairs) == 1:
        found, total = pairs[0].modules, pairs[0].total
        begin = common_begin([one.name for one in found])
        rows = [
            [printable(one.name.removeprefix(begin)), f"{one.shape[0]}x{one.shape[1]}", *_cells(one)] for one in found
        ]
        lines += [*_names(begin), "", *table(["module", "size", *header], [*rows, ["all", "", *_cells(total)]], {0})]
    else:
        rows = [[f"{pair.first + 1} and {pair.second + 1}", *_cells(pair.total)] for pair in pairs]
        lines += ["", *table(["adapters", *header], rows, {0})]
    below = []
    for pair in pairs:
        first, second = pair.first + 1, pair.second + 1
        reasons = {name: f"in {first} and not in {second}" for name in pair.only[0]}
        reasons |= {name: f"in {second} and not in {first}" for name in pair.only[1]}
        below += grouped(reasons)
        of = f"{first} and {second}: " * (len(pairs) > 1)
        below += [of + sentence for sentence in sentences(pair.outside, str(first), str(second))]
        if not pair.modules and not pair.faults:
            below.append(
                f"{first} and {second} have no module in common: they belong to different models, or to one whose "
                "modules were named anew."
            )
    faults = {name: why for pair in pairs for name, why in pair.faults.items()}
    below += [f"not compared, {printable(name)}: {why}" for name, why in list(faults.items())[:4]]
    below += [f"nor are {len(faults) - 4} more"] * (len(faults) > 4)
    for place, one in enumerate(adapters, 1):
        below += [f"{place}, {line}" for line in (*left_out(one), *(f"note: {note}" for note in one.notes))]
    return "\n".join([*lines, "", COMPARED.format(share=f"{energy:.3g}"), *wrapped(below)])


def merged_text(
    adapters: Sequence[Adapter], weights: Sequence[float], merges: Sequence[Merge], checked: Checked | None
) -> str:
    """What PEFT's merges give, and what a stored one is."""
    said = ", ".join(f"{one:g}" for one in weights)
    rows = [
        [
            one.kind,
            str(one.rank),
            "-" if math.isnan(one.error_at_one) else brief(one.error_at_one),
            "-" if math.isnan(one.worst_error) else brief(one.worst_error),
            elide(printable(one.worst), 50) if one.worst_error > 1e-12 else "",
        ]
        for one in merges
    ]
    lines = [
        f"PEFT's add_weighted_adapter with the weights {said}, against the weighted sum of the updates:",
        "",
        *table(["kind", "rank R", "error", "largest", "in"], rows, {0, 4}),
        "",
        MERGED,
    ]
    below = [f"{one.kind}: {one.trouble}." for one in merges if one.trouble]
    if any(one.factor != 1 for one in merges):
        wrong = ", ".join(f"{one.kind} {brief(one.error)}" for one in merges if not math.isnan(one.error))
        below.append(
            "The first adapter uses rsLoRA: PEFT up to 0.21.2 lets the merged one inherit it, with the scale sqrt(R) "
            f"instead of 1 (errors then: {wrong}). Give it the weights divided by sqrt(R)."
        )
    for place, one in enumerate(adapters, 1):
        if BIAS in one.skipped.values():
            below.append(f"{place} has biases in its adapter: PEFT leaves them out, and so does this table.")
        if TOKENS in one.skipped.values():
            below.append(f"{place} has trained tokens: PEFT leaves them out, and so does this table.")
    if checked:
        below.append(
            f"The merged adapter {_verdict(checked)}. Its distance from the sum is {brief(checked.distance)} times the "
            f"sum, its norm {brief(_ratio(checked))} times that of the sum."
        )
    return "\n".join([*lines, *wrapped(below)])


def compared_json(
    adapters: Sequence[Adapter],
    pairs: Sequence[Comparison],
    energy: float,
    weights: Sequence[float] | None = None,
    merges: Sequence[Merge] = (),
    checked: Checked | None = None,
) -> str:
    """The same for programs, with the modules of every pair."""
    full = lambda one: asdict(one) | {"relative": one.relative, "ratio": one.ratio}
    return dumped(
        {
            "format": 1,
            "energy": energy,
            "adapters": [
                {"folder": str(one.folder), "base": one.config.get("base_model_name_or_path"), "notes": list(one.notes)}
                for one in adapters
            ],
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "total": full(pair.total),
                    "only": pair.only,
                    "faults": pair.faults,
                    "outside": asdict(pair.outside),
                    "modules": [full(one) for one in pair.modules],
                }
                for pair in pairs
            ],
            "weights": weights,
            "merges": [asdict(one) for one in merges],
            "merged": None if checked is None else asdict(checked) | {"verdict": _verdict(checked)},
        }
    )


def _verdict(checked: Checked) -> str:
    what = {
        "sum": "the weighted sum",
        "linear": "what PEFT's linear gives, which is not the weighted sum",
        "svd": "the best approximation of the weighted sum at its rank",
        "": f"neither the weighted sum nor what PEFT's linear or svd gives (to {checked.tolerance:.2g})",
    }[checked.same]
    if checked.factor in ("", "1"):
        return f"is {what}"
    return f"is sqrt(R) times too large: {what}, with the scale of rsLoRA (PEFT's issue 3449)"


def _ratio(checked: Checked) -> float:
    size, merged = checked.norms
    return merged / size if size else math.inf


def _cells(one: Compared) -> list[str]:
    number = lambda value: "-" if math.isnan(value) else brief(value)
    over = lambda value, chance: "-" if math.isnan(value) else f"{value:.2f} ({chance:.2f})"
    return [
        number(one.norms[0]),
        number(one.ratio),
        number(one.relative),
        "-" if math.isnan(one.cosine) else f"{one.cosine:.2f}",
        f"{one.directions[0]}, {one.directions[1]}",
        over(one.left, one.chance[0]),
        over(one.right, one.chance[1]),
    ]


def _title(adapter: Adapter) -> str:
    base = adapter.config.get("base_model_name_or_path")
    return printable(f"{adapter.folder} (base model: {base or 'not named'})")


# ---------------------------------------------------------------- both


def _names(begin: str) -> list[str]:
    return [f"names begin with {elide(printable(begin), WIDTH - 17)}"] if begin else []


def _rest(adapter: Adapter) -> list[str]:
    """Keys of what is no factor of a module that was measured."""
    measured = {key for part in adapter.parts.values() for key in (part.key_A, part.key_B)}
    return [key for key in adapter.skipped if key not in measured]
