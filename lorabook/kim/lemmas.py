"""The two matrix lemmas of appendix B.

- Lemma B.1: balanced factors, ``B^T B = A A^T``, are ``B = U s^{1/2} Q``, ``A = Q^T s^{1/2} V^T`` with one
  orthogonal Q, where ``U s V^T`` is the singular value decomposition of ``B A``.
- Lemma B.2: ``U^T G = -lambda V^T`` and ``G V = -lambda U`` leave ``G = -lambda U V^T + S`` with S orthogonal to both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook import checks


def shared_rotation(B: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """The Q of Lemma B.1 and how far the factors are from its form, relative.

    Q is built without the uniqueness of singular vectors, so repeated singular values do no harm: take
    ``B = U s^{1/2} Q`` as the decomposition of B; then ``V = A^T Q^T s^{-1/2}`` is orthonormal because the
    factors are balanced.

    Args:
        B: (..., m, r), A: (..., r, n) of full rank r.

    Returns:
        Q (..., r, r) and the residual (...): the largest of ``||Q^T s^{1/2} V^T - A||``, with V replaced by its
        nearest orthonormal matrix, and of V's own distance to it.
    """
    checks.factors(B, A)
    _, root, Q = torch.linalg.svd(B, full_matrices=False)
    V = A.mT @ Q.mT / root[..., None, :]
    left, _, right = torch.linalg.svd(V, full_matrices=False)
    nearest = left @ right
    rebuilt = Q.mT @ (root[..., :, None] * nearest.mT)
    norm = lambda X: torch.linalg.vector_norm(X, dim=(-2, -1))
    return Q, torch.maximum(norm(rebuilt - A) / norm(A), norm(V - nearest) / Q.shape[-1] ** 0.5)


def aligned_gap(s: Tensor, Q: Tensor, R: Tensor, blocks: bool) -> float:
    """How far two decompositions are from agreeing, after the freedom that one grants them.

    Decompositions of the two factors of Lemma B.1, taken apart, are ``B = U s^{1/2} Q`` and ``A = R^T s^{1/2} V^T``;
    where singular values repeat, Q and R agree up to more than order and signs.

    Args:
        s: (r,) singular values.  Q, R: (r, r) orthogonal.
        blocks: False grants order and signs only; True grants any rotation inside a repeated singular value.

    Returns:
        Norm of what remains, divided by sqrt(r).
    """
    overlap = Q @ R.mT
    if blocks:
        same = (s[:, None] - s[None, :]).abs() < 1e-8 * s[0]
        left, _, right = torch.linalg.svd(torch.where(same, overlap, 0.0))
        return float((overlap - left @ right).norm()) / len(s) ** 0.5
    # the nearest signed permutation, greedily: exact where the two agree up to order and signs
    signed, free = torch.zeros_like(overlap), overlap.abs().clone()
    for _ in range(len(s)):
        row, column = divmod(int(free.argmax()), len(s))
        signed[row, column] = overlap[row, column].sign()
        free[row], free[:, column] = -1, -1
    return float((overlap - signed).norm()) / len(s) ** 0.5


def orthogonal_part(G: Tensor, U: Tensor, V: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """S of Lemma B.2 and the residual of ``G = -lambda U V^T + S``, relative.

    Args:
        G: (..., m, n).  U: (..., m, k), V: (..., n, k) with orthonormal columns.

    Returns:
        S (..., m, n) with ``U^T S = 0``, ``S V = 0``, and the residual (...).
    """
    eye_m, eye_n = (torch.eye(k, dtype=G.dtype, device=G.device) for k in G.shape[-2:])
    S = (eye_m - U @ U.mT) @ G @ (eye_n - V @ V.mT)
    norm = lambda X: torch.linalg.vector_norm(X, dim=(-2, -1))
    return S, norm(G + lam * U @ V.mT - S) / norm(G)
