"""The factored objective: gradient, Hessian, stationarity.

``F(B, A) = L(B A) + (lambda/2)(||B||^2 + ||A||^2)``.  With ``G = grad L(B A)`` its gradient is
``(G A^T + lambda B, B^T G + lambda A)`` and its second derivative along ``(dB, dA)`` is
``<Z, Hess L Z> + 2 <G, dB dA> + lambda (||dB||^2 + ||dA||^2)`` with ``Z = dB A + B dA``.

Layers, if any, stand before the matrix dimensions: B (..., [L,] m, r), A (..., [L,] r, n).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks
from lorabook.kim.problem import squared_norm


class Stationarity(NamedTuple):
    """What certifies a stationary point, one entry per pair of factors."""

    gradient_norm: Tensor  # (...) norm of the gradient of F
    least_eigenvalue: Tensor  # (...) of the factored Hessian
    excess: Tensor  # (...) ||grad L(X)||_2 / lambda; infinite for lambda = 0
    flat: Tensor  # (...) number of Hessian eigenvalues within rounding of 0
    gauge: Tensor  # (...) of them explained by rotations of the factors: k (2 r - k - 1) / 2 per layer at rank k


def objective(problem, B: Tensor, A: Tensor) -> Tensor:
    """F(B, A), (...)."""
    ndim = len(problem.shape)
    return problem.loss(B @ A) + problem.lam / 2 * (squared_norm(B, ndim) + squared_norm(A, ndim))


def full_objective(problem, X: Tensor) -> Tensor:
    """L(X) + lambda ||X||_*, (...)."""
    nuclear = torch.linalg.svdvals(X).sum(-1)
    return problem.loss(X) + problem.lam * (nuclear if len(problem.shape) == 2 else nuclear.sum(-1))


def factored_gradient(problem, B: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of F: ``(G A^T + lambda B, B^T G + lambda A)``."""
    G = problem.gradient(B @ A)
    return G @ A.mT + problem.lam * B, B.mT @ G + problem.lam * A


def factored_hessian(problem, B: Tensor, A: Tensor) -> Tensor:
    """Hessian of F, (..., q, q) with q = L r (m + n); coordinates are vec(B), then vec(A)."""
    *_, m, r = B.shape
    n, ndim = A.shape[-1], len(problem.shape)
    batch = B.shape[: B.ndim - ndim]
    layers = B.shape[-3] if ndim == 3 else 1
    B, A, X = B.reshape(*batch, layers, m, r), A.reshape(*batch, layers, r, n), B @ A
    G = problem.gradient(X).reshape(*batch, layers, m, n)
    eye = lambda size: torch.eye(size, dtype=B.dtype, device=B.device)
    same = eye(layers)
    # entries of X = (layer, row, column), of B = (layer, row, rank), of A = (layer, rank, column)
    J_B = torch.einsum("kl,ia,...lcj->...kijlac", same, eye(m), A)
    J_A = torch.einsum("kl,jb,...lic->...kijlcb", same, eye(n), B)
    J = torch.cat([J_B.reshape(*batch, layers * m * n, -1), J_A.reshape(*batch, layers * m * n, -1)], -1)
    cross = torch.einsum("kl,cd,...kib->...kicldb", same, eye(r), G).reshape(*batch, layers * m * r, layers * r * n)
    size = layers * m * r
    hessian = J.mT @ problem.hessian(X) @ J
    hessian[..., :size, size:] += cross
    hessian[..., size:, :size] += cross.mT
    return hessian + problem.lam * eye(hessian.shape[-1])


def stationarity(problem, B: Tensor, A: Tensor) -> Stationarity:
    """Gradient norm, least Hessian eigenvalue and spectral excess at (B, A).

    Args:
        problem: with ``lam``, ``gradient(X)``, ``hessian(X)``.
        B: (..., m, r) float64.  A: (..., r, n).

    Returns:
        :class:`Stationarity`.  Eigenvalues below 1e-7 of the largest count as flat.

    Raises:
        ValueError: shapes that do not fit the problem.
    """
    checks.factors(B, A)
    ndim = len(problem.shape)
    if (B @ A).shape[-ndim:] != torch.Size(problem.shape):
        raise ValueError(f"The update B A {tuple((B @ A).shape)} does not fit a problem of shape {problem.shape}.")
    gB, gA = factored_gradient(problem, B, A)
    values = torch.linalg.eigvalsh(factored_hessian(problem, B, A))
    largest = torch.linalg.matrix_norm(problem.gradient(B @ A), 2)
    largest = largest.amax(-1) if ndim == 3 else largest
    excess = largest / problem.lam if problem.lam > 0 else torch.full_like(largest, torch.inf)
    flat = (values.abs() < 1e-7 * values[..., -1:].abs()).sum(-1)
    s, rank = torch.linalg.svdvals(B), B.shape[-1]
    k = (s > 1e-6 * s[..., :1].clamp(min=1e-6)).sum(-1)
    gauge = k * (2 * rank - k - 1) // 2
    gauge = gauge.sum(-1) if ndim == 3 else gauge
    return Stationarity((squared_norm(gB, ndim) + squared_norm(gA, ndim)).sqrt(), values[..., 0], excess, flat, gauge)
