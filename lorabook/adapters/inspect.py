"""A saved adapter, measured without running anything: what its update is, module by module.

The update ``X = scale * B @ A`` (m, n) of rank at most r is never formed: with the thin ``B = Q_B R_B`` and
``A^T = Q_A R_A`` its singular values are those of the r x r matrix ``scale * R_B R_A^T``.  One module is held at a
time.  :mod:`lorabook.adapters.folder` reads the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lorabook.adapters.folder import Adapter, none_of, read, survey, tensors, unsound
from lorabook.adapters.formats import PREFIX
from lorabook.adapters.parts import EXPERT, FAULTY, REPLACED, WHOLE, Fault
from lorabook.adapters.peft_config import CONFIG, LARGEST_NUMBER, MOVES_BASE, AdapterError, printable
from lorabook.adapters.weight_files import WEIGHTS
from lorabook.linalg import balance

__all__ = [
    "CONFIG",
    "MOVES_BASE",
    "PREFIX",
    "REPLACED",
    "WEIGHTS",
    "WHOLE",
    "Adapter",
    "AdapterError",
    "Measured",
    "inspect_folder",
    "measure",
    "printable",
    "read",
]


@dataclass(frozen=True)
class Measured:
    """One module's update ``X = scale * B @ A`` (m, n)."""

    name: str
    shape: tuple[int, int]  # (m, n)
    allowed: int  # r, the rank that the factors allow
    scale: float
    rank: int  # singular values above 2 eps of the stored dtype times the largest
    stable_rank: float  # ||X||_F^2 / ||X||_2^2, 0 for X = 0
    energy_90: int  # how many leading singular values carry 90 % of ||X||_F^2
    norm: float  # ||X||_F
    largest: float  # ||X||_2
    imbalance: float  # ||B^T B - A A^T||_F / ||A A^T||_F, infinite for A = 0
    singular_values: tuple[float, ...]
    step: float  # c^2 (||B||_2^2 + ||A||_2^2): SGD at rate eta on the factors moves X by at most eta step ||dL/dW||_2
    kind: str = ""  # an embedding, a convolution, an expert, the direction part of DoRA; plain where empty


def inspect_folder(path: str | Path, progress: Callable[[str], None] | None = None) -> tuple[Adapter, list[Measured]]:
    """What is in an adapter's folder, and the measures of every module that has any; the others are in its ``faults``.

    Raises:
        AdapterError: the folder or a file is missing, broken or of another kind, or nothing in it can be measured.
    """
    adapter, found = survey(path), []
    parts, faults = adapter.parts, dict(adapter.faults)
    stored = tensors(adapter.files, [(part.key_B, part.key_A) for part in parts.values()])
    for place, ((name, part), (B, A)) in enumerate(zip(parts.items(), stored), 1):
        for expert, (left, right) in enumerate(part.factors(B, A)):
            label = f"{name}[{expert}]" if part.kind == EXPERT else name
            bad = unsound(left) + unsound(right)
            if bad:
                faults[label] = _unsound(label, bad, left.numel() + right.numel())
            else:
                found.append(measure(label, left, right, part.scale, part.kind))
        if progress:
            progress(f"{place} of {len(parts)} modules")
    if not found:
        raise AdapterError(none_of(faults))
    known = {key for part in parts.values() for key in (part.key_A, part.key_B)}
    rest = [(key,) for key, why in adapter.skipped.items() if key not in known and why != FAULTY]
    for (key,), (value,) in zip(rest, tensors(adapter.files, rest)):
        bad = value.numel() - int(value.isfinite().sum()) if value.dtype.itemsize > 1 else 0
        if bad:
            name = key.removeprefix(PREFIX)
            sentence = f"{printable(name)} has entries that are NaN or infinite ({bad} of {value.numel()})."
            faults[name] = Fault("NaN or infinite", sentence, False)
    return replace(adapter, faults=faults), found


def _unsound(label: str, bad: int, entries: int) -> Fault:
    return Fault(
        "NaN or infinite",
        f"The factors of {printable(label)} have entries that are NaN, infinite or above {LARGEST_NUMBER:g} ({bad} of "
        f"{entries}).",
    )


def measure(name: str, B: Tensor, A: Tensor, scale: float, kind: str = "") -> Measured:
    """The measures of one module, from B (m, r) and A (r, n) in the dtype in which they are stored.

    Error:
        Singular values to 1e-14 of the largest, given the stored factors.
    """
    eps, B, A = max(torch.finfo(factor.dtype).eps for factor in (B, A)), B.double(), A.double()
    R_B, R_A = torch.linalg.qr(B).R, torch.linalg.qr(A.mT).R
    s = torch.linalg.svdvals(R_B @ R_A.mT) * abs(scale)
    top = float(s[0])
    square = (s / top).square() if top else s  # squares of small numbers must not become 0
    total, size = float(square.sum()), float(torch.linalg.matrix_norm(A @ A.mT))
    return Measured(
        name,
        (B.shape[0], A.shape[1]),
        A.shape[0],
        scale,
        rank=int((s > 2 * eps * top).sum()),
        stable_rank=total,
        energy_90=int((square.cumsum(0) < 0.9 * total * (1 - 1e-12)).sum()) + 1 if top else 0,
        norm=top * math.sqrt(total),
        largest=top,
        imbalance=float(torch.linalg.matrix_norm(balance(B, A))) / size if size else math.inf,
        singular_values=tuple(s.tolist()),
        step=scale**2 * sum(float(torch.linalg.matrix_norm(R, 2)) ** 2 for R in (R_B, R_A)),
        kind=kind,
    )
