"""Subspaces and truncations: sines of principal angles, projectors, sign-safe alignment.

Nothing here knows a source.  Matrices stand last, so leading dimensions are a batch.
"""

from __future__ import annotations

import torch

from lorabook.checks import count, matrix
from lorabook.device import normal


def orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis (..., n, k) of the span of ``columns`` (..., n, k), k <= n, full column rank."""
    n, k = matrix(columns, "columns").shape[-2:]
    if k > n:
        raise ValueError(f"{k} columns of length {n} are linearly dependent; at most {n} fit.")
    return torch.linalg.qr(columns).Q


def random_orthonormal(rows: int, columns: int, source: torch.Generator, device=None) -> torch.Tensor:
    """Matrix (rows, columns) with orthonormal columns, Haar distributed, the same on every device.

    Source: Mezzadri 2007 (signs of R's diagonal make QR unique, hence the measure invariant).

    Raises:
        ValueError: more columns than rows.
    """
    if columns > rows:
        raise ValueError(f"{columns} columns of length {rows} cannot be orthonormal; at most {rows} fit.")
    Q, R = torch.linalg.qr(normal((rows, columns), source, device))
    return Q * torch.sgn(R.diagonal(dim1=-2, dim2=-1))


def projector(columns: torch.Tensor) -> torch.Tensor:
    """Orthogonal projector (..., n, n) onto the span of ``columns`` (..., n, k)."""
    Q = orthonormal(columns)
    return Q @ Q.mT


def principal_sines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sines of the principal angles between two subspaces, largest first.

    Args:
        left: (..., n, k), full column rank.
        right: (..., n, l) with l >= k, full column rank.

    Returns:
        (..., k) sines of the angles of ``left``'s directions to ``right``'s span.  Error: absolute
        rounding near 1e-16, also for tiny angles, because the sine is measured and not 1 - cos^2
        (Björck & Golub 1973).
    """
    U, V = orthonormal(left), orthonormal(right)
    if U.shape[-2] != V.shape[-2]:
        raise ValueError(f"left {tuple(left.shape)} and right {tuple(right.shape)} live in different spaces.")
    if U.shape[-1] > V.shape[-1]:
        raise ValueError(f"left has {U.shape[-1]} directions, right only {V.shape[-1]}: swap them.")
    return torch.linalg.svdvals(U - V @ (V.mT @ U)).clamp(max=1.0)


def truncate(W: torch.Tensor, rank: int) -> torch.Tensor:
    """Best approximation (..., m, n) of ``W`` of rank at most ``rank``, in every unitarily invariant norm.

    Source: Eckart & Young 1936; Mirsky 1960.

    Raises:
        ValueError: ``rank`` is no whole number, negative, or above the smaller dimension.
    """
    smaller = min(matrix(W, "W").shape[-2:])
    if count(rank, "rank", 0) > smaller:
        raise ValueError(f"The rank {rank} is above the smaller dimension {smaller}.")
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[..., :rank] * s[..., None, :rank]) @ Vh[..., :rank, :]


def align_signs(vectors: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """``vectors`` (..., n, k) with each column's sign turned so that it agrees with ``reference`` (..., n, k)."""
    if vectors.shape[-2:] != reference.shape[-2:]:
        raise ValueError(f"vectors {tuple(vectors.shape)} and reference {tuple(reference.shape)} have different shapes.")
    overlap = (vectors * reference).sum(-2, keepdim=True)
    return torch.where(overlap < 0, -vectors, vectors)


def balance(B: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """B^T B - A A^T (..., r, r): conserved by the gradient flow of every loss of the product B A."""
    if B.shape[-1] != A.shape[-2]:
        raise ValueError(f"B {tuple(B.shape)} and A {tuple(A.shape)} do not multiply: their ranks differ.")
    return B.mT @ B - A @ A.mT
