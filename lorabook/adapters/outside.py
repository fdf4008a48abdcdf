"""What two adapters hold beside their factors: heads saved whole, magnitudes of DoRA, trained tokens, biases.

A tensor is read at a time, and compared in pieces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from lorabook.adapters.folder import Adapter, tensors
from lorabook.adapters.loading import plain_name, some
from lorabook.adapters.parts import FAULTY, REPLACED

PIECE = 2**22  # entries


@dataclass(frozen=True)
class Outside:
    """The tensors of two adapters that are no factors, by their names."""

    # ||a - b||_F over the longer of the two; None where the shapes differ, NaN where an entry is no finite number
    differ: dict[str, float | None] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)  # in every entry
    only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))  # in the first, in the second alone


def compare_outside(first: Adapter, second: Adapter) -> Outside:
    """The tensors that are no factors, and are in force: those of both, entry by entry, and those of one alone."""
    one, other = _names(first), _names(second)
    known = {_name(key) for adapter in (first, second) for key, why in adapter.skipped.items() if why == FAULTY}
    both = [name for name in one if name in other]
    differ: dict[str, float | None] = {}
    same = []
    left, right = ([(keys[name],) for name in both] for keys in (one, other))
    for name, (a,), (b,) in zip(both, tensors(first.files, left), tensors(second.files, right)):
        distance = relative(a, b) if a.shape == b.shape else None
        if distance == 0:
            same.append(name)
        else:
            differ[name] = distance
    alone = lambda mine, others: [name for name in mine if name not in others and name not in known]
    return Outside(differ, same, (alone(one, other), alone(other, one)))


def relative(a: Tensor, b: Tensor) -> float:
    """``||a - b||_F`` over the longer of two tensors of one shape, 0 only where every entry is the same.

    NaN where entries are infinite or NaN, unless both have the same there and agree in all others.
    """
    sizes: list[tuple[float, float, float]] = []
    for x, y in zip(a.flatten().split(PIECE), b.flatten().split(PIECE)):
        x, y = x.double(), y.double()
        apart = (x - y).masked_fill((x == y) | (x.isnan() & y.isnan()), 0)
        sizes.append((_norm(apart), _norm(x), _norm(y)))
    distance, *lengths = (math.hypot(*column) for column in zip(*sizes))
    longer = math.nan if any(map(math.isnan, lengths)) else max(lengths)
    return distance / longer if distance else 0.0


def _norm(x: Tensor) -> float:
    """``||x||_F`` whose squares do not overflow."""
    top = float(x.abs().max()) if x.numel() else 0.0
    return top * float((x / top).norm()) if top and math.isfinite(top) else top


def sentences(found: Outside, first: str, second: str) -> Iterator[str]:
    """What differs, with the first names; ``first`` and ``second`` name the adapters."""
    if found.differ:
        how = (f"{name} ({_far(distance)})" for name, distance in found.differ.items())
        yield f"{_tensors(len(found.differ))} outside the factors differ{'s' * (len(found.differ) == 1)}: {some(how)}."
    for names, here, there in ((found.only[0], first, second), (found.only[1], second, first)):
        if names:
            are = "is" if len(names) == 1 else "are"
            yield f"{_tensors(len(names))} outside the factors {are} in {here} and not in {there}: {some(names)}."


def _far(distance: float | None) -> str:
    if distance is None:
        return "another shape"
    return f"relative distance {distance:.2g}" if math.isfinite(distance) else "entries that are no numbers"


def _tensors(number: int) -> str:
    return f"{number} tensor{'s' * (number != 1)}"


def _names(adapter: Adapter) -> dict[str, str]:
    """Name and key of what is no factor."""
    factors = {key for part in adapter.parts.values() for key in (part.key_A, part.key_B)}
    return {
        _name(key): key for key, why in adapter.skipped.items() if key not in factors and why not in (FAULTY, REPLACED)
    }


def _name(key: str) -> str:
    """A key without what PEFT's versions put into it."""
    name = re.sub(r"\.modules_to_save(\.default)?(?=\.)", "", plain_name(key))
    return re.sub(r"(\.lora_magnitude_vector)\..+", r"\1", name)
