"""The paper's formulas to the letter, wherever a run must hold the printed form against the right one.

Nothing else in the package uses them.  They overflow where the paper's do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Scalars(NamedTuple):
    """``kappa_1``, ``kappa_2`` of (314)-(315) and the functions of time built on them, each (T,)."""

    residual: torch.Tensor  # (313)
    p: torch.Tensor  # (373)
    q: torch.Tensor  # (374)


def scalars(trace: float, A0: torch.Tensor, times: torch.Tensor) -> Scalars:
    """(313)-(315), (373)-(374) for one start ``A0 (r, n)`` at the times (T,)."""
    c, N = abs(trace), A0.square().sum()
    kappa1 = N**2 + 4 * c**2
    kappa2 = torch.asinh(N / (2 * c)) / kappa1.sqrt()
    s = 2 * N * torch.sinh(kappa1.sqrt() * (times + kappa2)) + 4 * c
    half = kappa1.sqrt() / 2 * times
    residual = math.copysign(1.0, trace) * kappa1 / s
    p = (N * torch.sinh(half) + kappa1.sqrt() * torch.cosh(half)) / (math.sqrt(c) * s.sqrt())
    q = 2 * torch.sinh(half) / (math.sqrt(c) * s.sqrt())
    return Scalars(residual, p, q)


def trace_flow(
    trace: float, B0: torch.Tensor, A0: torch.Tensor, times: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(375)-(376): ``B (T, n, r)`` and ``A (T, r, n)``, stated for a general ``B0``."""
    at = scalars(trace, A0, times)
    start = trace - (B0 * A0.mT).sum()
    p, q = at.p[:, None, None], (at.q * start)[:, None, None]
    return p * B0 + q * A0.mT, p * A0 + q * B0.mT


def limits(trace: float, A0: torch.Tensor, misplaced: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Limits of p and q: (399) and (402) as printed, or with the root where (392) has it."""
    N = A0.square().sum()
    inner = N + (N**2 + 4 * trace**2).sqrt()
    if misplaced:
        return (inner / (2 * N.sqrt())).sqrt(), 2 / (2 * N.sqrt() * inner.sqrt()).sqrt()
    return inner.sqrt() / (2 * N).sqrt(), 2 / ((2 * N).sqrt() * inner.sqrt())


def gradient_bound(scale: torch.Tensor | float, radius: float) -> torch.Tensor | float:
    """(274) and (622): ``sqrt(2) R (||W0|| + R^2)``, with ``scale = ||W0||``."""
    return math.sqrt(2) * radius * (scale + radius**2)


def lipschitz_constant(scale: torch.Tensor | float, radius: float) -> torch.Tensor | float:
    """Lemmas D.1 and J.1: ``2 (scale + 2 R^2)`` with scale ``|Tr W0|`` for the trace and ``||W0||`` for Frobenius."""
    return 2 * (scale + 2 * radius**2)
