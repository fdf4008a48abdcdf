"""The updates of a saved adapter, one after the other: of plain modules, embeddings, convolutions and every expert."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lorabook.adapters.folder import Adapter, tensors, unsound
from lorabook.adapters.parts import EXPERT, Part
from lorabook.adapters.peft_config import LARGEST_NUMBER, printable


def stored(adapter: Adapter) -> Iterator[tuple[str, Part, Tensor, Tensor]]:
    """Name, part, B and A as they lie in the file, of every module that can be measured, in their natural order."""
    parts = adapter.parts
    halves = tensors(adapter.files, [(part.key_B, part.key_A) for part in parts.values()])
    for (name, part), (B, A) in zip(parts.items(), halves):
        yield name, part, B, A


def products_of(name: str, part: Part, B: Tensor, A: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Label, B (m, r) and A (r, n) of every expert of a module, of which there is mostly one."""
    for expert, (left, right) in enumerate(part.factors(B, A)):
        yield f"{name}[{expert}]" if part.kind == EXPERT else name, left, right


def trouble(label: str, B: Tensor, A: Tensor) -> str:
    """A sentence if there are entries with which nothing can be computed."""
    if not unsound(B) + unsound(A):
        return ""
    return f"The factors of {printable(label)} have entries that are NaN, infinite or above {LARGEST_NUMBER:g}."
