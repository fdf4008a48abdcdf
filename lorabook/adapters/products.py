"""Products of thin factors and their sums, ``X = sum_i w_i B_i A_i`` (m, n) of B_i (m, r_i) and A_i (r_i, n).

No such matrix is formed.  The sum is itself one product: the ``w_i B_i`` side by side, and the A_i below one another.
With the thin ``B = Q_B R_B`` and ``A^T = Q_A R_A`` its singular values are those of the small matrix ``R_B R_A^T``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Svd(NamedTuple):
    """``X = U diag(s) Vh`` with as many columns as the factors allow."""

    U: Tensor  # (m, q), q = min(m, n, r)
    s: Tensor  # (q,), falling
    Vh: Tensor  # (q, n)


def joined(*terms: tuple[float, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """One product for a weighted sum of products: B (m, sum r_i), A (sum r_i, n) in float64."""
    return (
        torch.cat([weight * B.double() for weight, B, _ in terms], 1),
        torch.cat([A.double() for _, _, A in terms], 0),
    )


def singular_values(B: Tensor, A: Tensor) -> Tensor:
    """Singular values (q,) of ``B @ A``, falling.

    Error:
        1e-14 of the largest, given the factors.
    """
    return torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.mT).R.mT)


def norm(B: Tensor, A: Tensor) -> float:
    """``||B A||_F``, also where squares of its entries are no numbers of float64."""
    return length(singular_values(B, A).tolist())


def svd(B: Tensor, A: Tensor) -> Svd:
    """Singular value decomposition of ``B @ A``.

    Error:
        1e-14 of the largest singular value, given the factors.
    """
    (Q_B, R_B), (Q_A, R_A) = torch.linalg.qr(B), torch.linalg.qr(A.mT)
    U, s, Vh = torch.linalg.svd(R_B @ R_A.mT, full_matrices=False)
    return Svd(Q_B @ U, s, Vh @ Q_A.mT)


def energy_rank(s: Tensor, share: float) -> int:
    """How many leading values of ``s`` (q,), falling, carry ``share`` of the sum of their squares; 0 for zeros.

    The rest is summed from its small end, so that a share of 1 leaves out rounding alone.
    """
    if not float(s[0]):
        return 0
    square = (s / s[0]).square()
    rest = square.flip(0).cumsum(0).flip(0)  # rest[k] is what k values leave out
    # (1 - share) is rounded: a tie counts as enough
    return int((rest > (1 - share + 1e-15) * float(rest[0])).sum())


def length(values: list[float]) -> float:
    """Root of the sum of squares, without squares that overflow or vanish."""
    return math.hypot(*values)


def overlap(left: Tensor, right: Tensor) -> float:
    """``||L^T R||_F^2 / min(k, l)`` of orthonormal columns L (m, k) and R (m, l): 1 if one span holds the other.

    Source: Hu et al. 2021, section 7.2.
    """
    return float((left.mT @ right).square().sum()) / min(left.shape[1], right.shape[1])
