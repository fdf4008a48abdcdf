"""The updates of a saved adapter, one after the other: of plain modules, embeddings, convolutions and every expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from lorabook.adapters.folder import Adapter, tensors, unsound
from lorabook.adapters.parts import EXPERT, Part, natural
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


Row = list[tuple[Part, list[tuple[str, Tensor, Tensor]]] | None]


def together(
    adapters: Sequence[Adapter], progress: Callable[[str], None] | None = None, doing: str = ""
) -> Iterator[tuple[str, Row]]:
    """Every module that one of the adapters has, measurable or not, in natural order, with what each has there.

    Returns:
        the module's name, and for each adapter its part and the products of it; None where none can be measured.
    """
    parts, streams = [one.parts for one in adapters], [stored(one) for one in adapters]
    names = sorted({name for one in adapters for name in (*one.parts, *one.faults)}, key=natural)
    if progress:
        progress(f"{doing}0 of {len(names)} modules")
    for place, name in enumerate(names, 1):
        heads = [next(stream) if name in own else None for own, stream in zip(parts, streams)]
        yield name, [(head[1], list(products_of(*head))) if head else None for head in heads]
        if progress:
            progress(f"{doing}{place} of {len(names)} modules")


def trouble(label: str, B: Tensor, A: Tensor) -> str:
    """A sentence if there are entries with which nothing can be computed."""
    if not unsound(B) + unsound(A):
        return ""
    return f"The factors of {printable(label)} have entries that are NaN, infinite or above {LARGEST_NUMBER:g}."
