"""Tables of at most 100 columns, lines below them, numbers in a few letters, and JSON."""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Iterable
from typing import Any

from lorabook.adapters.folder import Adapter
from lorabook.adapters.formats import PREFIX
from lorabook.adapters.loading import some
from lorabook.adapters.parts import FAULTY, PLAIN
from lorabook.adapters.peft_config import printable

WIDTH = 100


def table(header: list[str], rows: list[list[str]], words: set[int]) -> Iterable[str]:
    """Lines of at most WIDTH columns; the first cells give way.  ``words`` are the columns aligned to the left."""
    widths = [max(len(line[c]) for line in [header, *rows]) for c in range(len(header))]
    widths[0] = max(12, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    for line in [header, *rows]:
        cells = (
            elide(cell, width).ljust(width) if c in words else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(line, widths))
        )
        yield "  ".join(cells).rstrip()


def common_begin(names: list[str]) -> str:
    """What all names have in common up to a dot."""
    begin = os.path.commonprefix(names).rpartition(".")[0] if len(names) > 1 else ""
    return begin + "." if begin else ""


def module_label(one: Any, begin: str) -> str:
    kind = f" ({one.kind})" if one.kind not in (PLAIN, "expert") and not one.kind.startswith("direction") else ""
    return printable(one.name.removeprefix(begin)) + kind


def spread(number: int, most: int) -> list[int]:
    """At most so many places, evenly from the first to the last."""
    if number <= most:
        return list(range(number))
    return sorted({round(k * (number - 1) / (most - 1)) for k in range(most)})


def span(values: Iterable[float]) -> str:
    values = list(values)
    low, high = brief(min(values)), brief(max(values))
    return low if low == high else f"{low} to {high}"


def or_dash(value) -> str:
    return "-" if value is None else value if isinstance(value, str) else brief(value)


def brief(value: float) -> str:
    """A number in a few letters."""
    if 10 <= value < 10000:
        return f"{value:.0f}"
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf"
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


def elide(text: str, width: int) -> str:
    """A text cut in its middle."""
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def dumped(report: dict) -> str:
    return json.dumps(_finite(report), indent=1, allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def left_out(adapter: Adapter) -> Iterable[str]:
    measured = {key for part in adapter.others.values() for key in (part.key_A, part.key_B)}
    reasons = {name: f"not measured, {fault.reason}" for name, fault in adapter.faults.items()}
    reasons |= {
        key.removeprefix(PREFIX): f"left out, {why}"
        for key, why in adapter.skipped.items()
        if key not in measured and why != FAULTY
    }
    yield from grouped(reasons)


def wrapped(lines: list[str]) -> list[str]:
    """Lines below the table, broken to its width."""
    broken = (
        textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=True)
        for line in lines
    )
    return [""] * bool(lines) + [line for part in broken for line in part]


def grouped(reasons: dict[str, str]) -> Iterable[str]:
    """A line for each reason with how many names it has: whole names, as many as fit, but three at least."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(printable(name))
    for why, names in groups.items():
        head, most = f"{why} ({len(names)}): ", min(len(names), 3)
        while most < len(names) and len(head) + len(some(names, most + 1)) <= WIDTH:
            most += 1
        yield head + some(names, most)
