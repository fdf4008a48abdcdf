"""What an update does to the weight that it is added to: its size, new directions, alignment, and what a merge keeps.

For every module ``W0`` (m, n) is read from the base model's safetensors, one at a time; nothing is run.

- size: ``||X||_F / ||W0||_F`` and ``||X||_2 / ||W0||_2``;
- intruder dimensions (Shuttleworth et al. 2024, arXiv 2410.21228): of the leading ``top`` left singular vectors of
  ``W0 + X``, those whose cosine with every left singular vector of W0 is below ``threshold``;
- alignment: the share of ``||X||_F^2`` in the span of W0's leading ``top`` left, and right, singular vectors; by chance
  ``top / m`` and ``top / n``;
- merge: the error of ``W0 + X``, rounded to the dtype of W0, over ``||X||_F``; 1 means that nothing of X is kept.

Under DoRA the weight that a merge makes is another one, :mod:`lorabook.adapters.dora`; there X stands for the whole
change of the weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from lorabook.adapters.base_weights import QUANTISED_HERE, BaseWeights, Weight
from lorabook.adapters.dora import DIRECTION_ALONE, WHOLE_CHANGE, magnitudes, rescaled
from lorabook.adapters.folder import Adapter
from lorabook.adapters.parts import EXPERT, Part
from lorabook.adapters.peft_config import AdapterError, printable
from lorabook.adapters.products import singular_values
from lorabook.adapters.replicated import original
from lorabook.adapters.updates import together, trouble
from lorabook.device import default_device

TOP, THRESHOLD = 10, 0.5  # the paper's, and those of PEFT's reduce_intruder_dimension
DENSE, STEPS = 512, 16  # up to this size all singular vectors come from one decomposition; most Lanczos steps


@dataclass(frozen=True)
class AgainstBase:
    """One module's X beside its W0; None where ``top`` is 0, X is 0, or it is not known what a merge makes."""

    ratio: float  # ||X||_F / ||W0||_F
    spectral_ratio: float | None  # ||X||_2 / ||W0||_2
    intruders: int | None  # of the leading ``examined`` left singular vectors of W0 + X
    examined: int
    left: float | None  # share of ||X||_F^2 in W0's leading left singular vectors
    right: float | None
    lost: float | None  # ||round(W0 + X) - (W0 + X)||_F / ||X||_F
    overflows: int  # entries of the merged weight that the dtype of W0 cannot hold; lost is infinite then
    unchanged: float | None  # share of entries that a merge leaves as they are
    dtype: str  # of the base
    key: str  # of W0 in the base's files
    tied: bool  # W0 is that of the embedding, too
    dora: str = ""  # under DoRA what X stands for: "whole change", or without magnitudes "direction part"
    undefined: int = 0  # under DoRA rows, of an embedding columns, of W0 + X that are 0 and have no direction
    copies: int = 1  # layers, or adapted modules, that share W0: with more than one a merge makes no W0 + X of it


def against_base(
    adapters: Sequence[Adapter],
    model_folder,
    *,
    top: int = TOP,
    threshold: float = THRESHOLD,
    only: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, AgainstBase | str]]:
    """For each adapter its modules beside their base weights; where a module has none, the reason.

    Args:
        adapters: from :func:`lorabook.adapters.inspect.inspect_folder`, of one base.
        model_folder: the base model's safetensors, in one file or several.
        top: how many singular vectors are looked at; 0 leaves out all decompositions, which take the time.
        threshold: on the largest cosine of an intruder, between 0 and 1.
        only: ends of names, such as ``q_proj``, as PEFT's target_modules take them, or patterns with ``*``; all modules
            where empty.

    Raises:
        AdapterError: the base cannot be read, or fits no module; no module has such a name.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"The threshold on the cosine must lie in (0, 1]; got {threshold:g}.")
    base = BaseWeights(model_folder)
    adapters = [_chosen(one, only) for one in adapters]
    if not any(one.parts for one in adapters):
        raise AdapterError(f"No module has a name that fits {' or '.join(map(printable, only))}.")
    found: list[dict[str, AgainstBase | str]] = [{} for _ in adapters]
    stored = [magnitudes(one) for one in adapters]
    for name, row in together(adapters, progress, "against the base: "):
        updates: dict[str, list[tuple[int, Part, Tensor, Tensor]]] = {}
        for k, here in enumerate(row):
            for label, B, A in here[1] if here else ():
                if here and not trouble(label, B, A):
                    updates.setdefault(label, []).append((k, here[0], B, A))
        for label, given in updates.items():
            frames: dict[tuple[int, int], _Frame | str] = {}
            for k, part, B, A in given:
                shape = len(B), A.shape[1]
                if shape not in frames:
                    expert = int(label.rpartition("[")[2][:-1]) if part.kind == EXPERT else None
                    own, copies = original(name, adapters[k].config)
                    weight = base.weight(own, shape, expert, bool(adapters[k].config.get("fan_in_fan_out")))
                    frames[shape] = weight if isinstance(weight, str) else _Frame(weight, top, copies)
                frame = frames[shape]
                found[k][label] = (
                    frame if isinstance(frame, str) else frame.beside(B, A, part, threshold, stored[k](name, part))
                )
    found = [_shared(own) for own in found]
    if not any(isinstance(one, AgainstBase) for own in found for one in own.values()):
        raise AdapterError(_nothing(found[0]))
    return found


def _shared(found: dict[str, AgainstBase | str]) -> dict[str, AgainstBase | str]:
    """The same without what a merge loses, where the updates of several modules go into one weight."""
    # the experts of one parameter have a slice each
    keys = Counter(one.key for name, one in found.items() if isinstance(one, AgainstBase) and "[" not in name)
    left: dict[str, Any] = {"lost": None, "overflows": 0, "unchanged": None}
    return {
        name: replace(one, **left, copies=keys[one.key])
        if isinstance(one, AgainstBase) and one.copies == 1 and keys[one.key] > 1 and "[" not in name
        else one
        for name, one in found.items()
    }


def _nothing(found: dict[str, AgainstBase | str]) -> str:
    """Why no module stands beside its weight."""
    label, why = next(iter(found.items()), ("none", "no sound factors"))
    for name, reason in found.items():
        if QUANTISED_HERE in str(reason):
            return (
                f"The base model has modules of the adapter, but they are quantised, so that nothing can be measured "
                f"beside them ({printable(name)}: {reason})."
            )
    return f"The base model fits no module of the adapter ({printable(label)}: {why})."


def _chosen(adapter: Adapter, only: Sequence[str]) -> Adapter:
    """The adapter with those modules alone whose names fit."""
    if not only:
        return adapter
    fits = lambda name: any(fnmatchcase(name, one) or fnmatchcase(name, f"*.{one}") for one in only)
    pairs = {name: pair for name, pair in adapter.pairs.items() if fits(name)}
    others = {name: part for name, part in adapter.others.items() if fits(name)}
    return replace(adapter, pairs=pairs, others=others, faults={})


class _Frame:
    """One W0 (m, n) with what is needed of its singular vectors."""

    def __init__(self, weight: Weight, top: int, copies: int = 1):
        self.stored, self.key, self.tied = weight
        self.copies = copies
        self.home = default_device()
        self.W0 = self.stored.to(self.home, torch.float64)
        self.size = float(self.W0.norm())
        self.top = min(top, *self.stored.shape)
        if self.top and self.size:
            self.U, self.s, self.V = left_singular(self.W0, self.top)

    def beside(self, B: Tensor, A: Tensor, part: Part, threshold: float, m: Tensor | str | None) -> AgainstBase:
        """The measures of the update ``scale * B @ A``, with the magnitudes ``m`` of DoRA, if any."""
        B, A = part.scale * B.to(self.home, torch.float64), A.to(self.home, torch.float64)
        X = B @ A
        W, dora, undefined = self.W0 + X, "", 0
        if m is not None:
            made = rescaled(W, m, part.kind) if isinstance(m, Tensor) else None
            dora = WHOLE_CHANGE if made else DIRECTION_ALONE
            if made:
                W, undefined = made
                X = W - self.W0
        norm = float(X.norm())
        lost, overflows, unchanged = None, 0, None
        if dora != DIRECTION_ALONE and not undefined and self.copies == 1:
            merged = W.to(self.stored.dtype)
            lost = float((merged.double() - W).norm()) / norm if norm else None
            overflows = int((W.isfinite() & ~merged.double().isfinite()).sum())
            unchanged = float((merged == self.stored.to(self.home)).double().mean())
        said: list[Any] = [None, None, None, None]
        if self.top and self.size:
            leading = self.U[:, : self.top]
            said[0] = (_largest(X) if dora == WHOLE_CHANGE else float(singular_values(B, A)[0])) / float(self.s[0])
            said[1] = intruders(self.U, leading_left(W, self.top, torch.cat([leading, B], 1)), threshold)
            if norm:
                said[2] = (float((leading.mT @ X).norm()) / norm) ** 2
                said[3] = (float((X @ self.V).norm()) / norm) ** 2
        ratio = norm / self.size if self.size else math.inf
        dtype = str(self.stored.dtype).removeprefix("torch.")
        where = dtype, self.key, self.tied, dora, undefined, self.copies
        return AgainstBase(ratio, said[0], said[1], self.top, said[2], said[3], lost, overflows, unchanged, *where)


def _largest(X: Tensor) -> float:
    """``||X||_2``; above DENSE from the smaller Gram matrix, to 1e-8."""
    if min(X.shape) <= DENSE:
        return float(torch.linalg.matrix_norm(X, 2))
    return float(torch.linalg.eigvalsh(X.mT @ X if X.shape[0] > X.shape[1] else X @ X.mT)[-1].clamp(min=0).sqrt())


def intruders(known: Tensor, leading: Tensor, threshold: float) -> int:
    """How many columns of ``leading`` (m, k) have a cosine below ``threshold`` with each of ``known`` (m, p)."""
    return int(((leading.mT @ known).abs().amax(1) < threshold).sum())


def left_singular(W: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """All left singular vectors (m, p) of W (m, n), p = min(m, n), singular values (p,), and V (n, top).

    Above DENSE from the eigenvectors of the smaller Gram matrix, which is faster.

    Error:
        Singular values below 1e-8 of the largest, and the vectors that belong to them, are not resolved there.
    """
    if min(W.shape) <= DENSE:
        U, s, Vh = torch.linalg.svd(W, full_matrices=False)
        return U, s, Vh[:top].mT
    tall = W.shape[0] > W.shape[1]
    square, vectors = torch.linalg.eigh(W.mT @ W if tall else W @ W.mT)
    s, vectors = square.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
    floor = s.clamp(min=1e-300)
    if tall:
        return W @ (vectors / floor), s, vectors[:, :top]
    return vectors, s, W.mT @ (vectors[:, :top] / floor[:top])


def leading_left(W: Tensor, top: int, start: Tensor) -> Tensor:
    """The leading ``top`` left singular vectors (m, top) of W (m, n).

    Up to DENSE from a full decomposition.  Above, by block Lanczos steps on ``W W^T`` from the columns of ``start``
    (m, q), until every residual is below 1e-6 times the last singular value's square; after STEPS from a full one.
    """
    if min(W.shape) <= DENSE:
        return torch.linalg.svd(W, full_matrices=False).U[:, :top]
    basis = torch.linalg.qr(start).Q
    image = W.mT @ basis
    for _ in range(STEPS):
        square, Y = torch.linalg.eigh(image.mT @ image)
        square, Y = square[-top:].flip(0), Y[:, -top:].flip(1)
        found = basis @ Y
        rest = W @ (image @ Y) - found * square
        if float(rest.norm(dim=0).max()) <= 1e-6 * float(square[-1]):
            return found
        for _ in range(2):  # twice, so that the basis stays orthonormal to rounding
            rest = torch.linalg.qr(rest - basis @ (basis.mT @ rest)).Q
        if basis.shape[1] + top > min(W.shape):
            break
        basis, image = torch.cat([basis, rest], 1), torch.cat([image, W.mT @ rest], 1)
    return left_singular(W, top)[0][:, :top]
