"""What a merge makes of a weight under DoRA: ``m * (W0 + X) / ||W0 + X||``, with the stored magnitudes m.

The norms are those of the rows of W0 (out, in); of an embedding (rows, width) they are those of its columns.  PEFT does
so in use and in a merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lorabook.adapters.folder import Adapter, opened
from lorabook.adapters.loading import plain_name, some
from lorabook.adapters.parts import DIRECTION, EMBEDDING, Part, modules

#: What the measures beside a base are of: of the whole change of the weight, or of X where that is not known.
WHOLE_CHANGE, DIRECTION_ALONE = "whole change", "direction part"
VECTOR = ".lora_magnitude_vector"


def magnitudes(adapter: Adapter) -> Callable[[str, Part], Tensor | str | None]:
    """A rule that has for a module its magnitudes (k,) in float64, ``""`` where they are unknown, None without DoRA."""
    own = {plain_name(key).partition(VECTOR)[0]: key for key in adapter.skipped if VECTOR in key}

    def of(name: str, part: Part) -> Tensor | str | None:
        if not adapter.config.get("use_dora"):
            # PEFT drops what it does not expect; other formats have axes of their own
            return "" if part.kind == DIRECTION and not own else None
        if name not in own or part.groups > 1:
            return ""
        found = opened(adapter.files[own[name]]).get_tensor(own[name]).flatten().double()
        return found if bool(found.isfinite().all()) else ""

    return of


def rescaled(W: Tensor, m: Tensor, kind: str) -> tuple[Tensor, int] | None:
    """``W`` (out, in), or (rows, width) of an embedding, at the norms ``m``; None if these are not as many.

    Returns:
        the weight in the dtype of W, and how many rows or columns are 0, which have no direction; they stay 0.
    """
    dim = 0 if kind == EMBEDDING else 1
    norms = torch.linalg.vector_norm(W, dim=dim, keepdim=True)
    if m.numel() != norms.numel():
        return None
    none = norms == 0
    return W * (m.to(W).view(norms.shape) / norms.masked_fill(none, 1.0)), int(none.sum())


def dora_notes(beside: dict[str, Any]) -> Iterable[str]:
    """Sentences on what the measures of :class:`lorabook.adapters.against_base.AgainstBase` are of, by module."""
    count = lambda kind: sum(one.dora == kind for one in beside.values())
    if count(WHOLE_CHANGE):
        yield (
            "DoRA: beside the base X stands for the whole change of a weight in use and in a merge, "
            "m (W0 + X) / ||W0 + X|| - W0, with the stored magnitudes m and the norms of rows, of an embedding those "
            "of columns."
        )
    if count(DIRECTION_ALONE):
        yield (
            f"DoRA: no magnitudes are known that fit {modules(count(DIRECTION_ALONE))}. |X|/|W0| is there that of the "
            "direction part alone, and what a merge loses is left out."
        )
    zero = [name for name, one in beside.items() if one.undefined]
    if zero:
        yield (
            f"DoRA: W0 + X has rows, of an embedding columns, of zeros in {some(zero)}. PEFT divides by their norm: "
            "the model's outputs are NaN, in use and after a merge."
        )
