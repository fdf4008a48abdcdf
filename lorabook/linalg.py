"""Subspaces and truncations: the largest principal angle, projectors.

Nothing here knows a source.  Matrices stand last, so leading dimensions are a batch.
"""

from __future__ import annotations

import torch

from lorabook.checks import count, matrix
from lorabook.device import generator, normal


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


def largest_sine(leading: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sine (...) of the largest principal angle of one subspace to another.

    Args:
        leading: (..., n, q) orthonormal columns.
        target: (..., n, k) orthonormal columns.

    Returns:
        the largest sine, 1 where q > k.  Error: absolute 1e-15, also for tiny angles, because the sine is
        measured and not 1 - cos^2 (Björck & Golub 1973).

    Raises:
        ValueError: subspaces of different spaces.
    """
    if leading.shape[-2] != target.shape[-2]:
        raise ValueError(f"leading {tuple(leading.shape)} and target {tuple(target.shape)} live in different spaces.")
    return operator_norm(leading - target @ (target.mT @ leading)).clamp(max=1.0)


def operator_norm(M: torch.Tensor) -> torch.Tensor:
    """Largest singular value (...) of tall M (..., n, q), through its q x q Gram matrix; NaN where M is not finite.

    Error: relative 1e-15, as the largest eigenvalue of a Gram matrix has no cancellation.
    """
    gram = M.mT @ M
    known = gram.isfinite().all(-1).all(-1)
    top = torch.linalg.eigvalsh(torch.where(known[..., None, None], gram, 0.0))[..., -1].clamp(min=0.0).sqrt()
    return torch.where(known, top, torch.nan)


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


def thin_svd(W: torch.Tensor, tolerance: float = 1e-10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular value decomposition ``U (..., m, q), s (..., q), Vh (..., q, n)`` without the vanishing part.

    ``q`` is the largest rank in the batch, counting singular values above ``tolerance`` times the largest.
    The cost is that of q, not of min(m, n): the range is found with a few random directions, and their
    number is doubled until the rest is rounding.

    Source: Halko, Martinsson & Tropp 2011, section 4.4.
    Error: 1e-13 of the largest singular value.
    """
    m, n = matrix(W, "W").shape[-2:]
    size = torch.linalg.matrix_norm(W)
    width = 16
    while 4 * width < min(m, n):
        Q = torch.linalg.qr(W @ normal((n, width), generator(width), W.device)).Q
        small = Q.mT @ W
        if bool((torch.linalg.matrix_norm(W - Q @ small) <= 1e-13 * size).all()):
            break
        width *= 2
    else:
        Q, small = None, W
    U, s, Vh = torch.linalg.svd(small, full_matrices=False)
    q = max(1, int((s > tolerance * s[..., :1]).sum(-1).max()))
    U = U[..., :q] if Q is None else Q @ U[..., :q]
    return U, s[..., :q], Vh[..., :q, :]


def balance(B: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """B^T B - A A^T (..., r, r): conserved by the gradient flow of every loss of the product B A."""
    if B.shape[-1] != A.shape[-2]:
        raise ValueError(f"B {tuple(B.shape)} and A {tuple(A.shape)} do not multiply: their ranks differ.")
    return B.mT @ B - A @ A.mT
