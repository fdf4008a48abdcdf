"""Restricted strong convexity and smoothness: exact on the family, estimated as the source does, and hunted.

- RSC about X*: ``<grad L(X) - grad L(X*), X - X*> / ||X - X*||^2 >= alpha`` for rank X <= r, ``||X - X*|| <= D``.
- RSM: ``<Z, Hess L(X) Z> <= beta ||Z||^2`` for ``Z = U X + X V`` with rank-one U, V.

A sample of X can only overestimate the least quotient and underestimate the largest one, so a
Monte-Carlo estimate errs on the favourable side of Theorem 1 in both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorabook import checks
from lorabook.device import normal
from lorabook.kim.problem import DecoyFamily, squared_norm


def exact_constants(family: DecoyFamily) -> tuple[float, float]:
    """RSC and RSM constants of the family for its rank r, exact, for every D >= the distance of the worst X.

    alpha is the least eigenvalue of ``[[a, c sqrt(r)], [c sqrt(r), b]]``: the quotient of ``t diag(0, 1_r, 0)``
    with the right t, and no X of rank r has a smaller one.  beta is h: the quotient of ``E_0i + E_i0``.

    Raises:
        ValueError: no member of the family, or parameters that do not make these the extremes (:func:`hunt` bounds).
    """
    if not isinstance(family, DecoyFamily):
        raise ValueError(f"Exact constants are known for the decoy family only; got a {type(family).__name__}.")
    a, b, c, r = family.a, family.b, family.c, family.rank
    alpha = (a + b) / 2 - math.sqrt((a - b) ** 2 / 4 + r * c**2)
    others = min(1.0, family.h, family.h2, b)
    if alpha > others * (1 + 1e-12) or (family.decoys > r and not family.h2 >= b <= 1):
        raise ValueError(
            "alpha is known exactly only if the decoy block holds the least quotient: decoys = rank, or b <= 1 "
            "and b <= h2."
        )
    largest = float(torch.linalg.eigvalsh(family.H)[-1])
    if family.h < largest * (1 - 1e-12):
        raise ValueError(
            f"beta is known exactly only if h = {family.h:g} is the largest eigenvalue of H, which is {largest:.4g}."
        )
    return alpha, family.h


def convexity_quotient(problem, X: Tensor, X_star: Tensor) -> Tensor:
    """``<grad L(X) - grad L(X*), X - X*> / ||X - X*||^2``, (...)."""
    ndim, D = len(problem.shape), X - X_star
    return ((problem.gradient(X) - problem.gradient(X_star)) * D).flatten(X.ndim - ndim).sum(-1) / squared_norm(D, ndim)


def smoothness_quotient(problem, X: Tensor, Z: Tensor) -> Tensor:
    """``<Z, Hess L(X) Z> / ||Z||^2``, (...)."""
    return problem.curvature(X, Z) / squared_norm(Z, len(problem.shape))


def sample(
    problem, X_star: Tensor, rank: int, radius: float, count: int, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random X (count, m, n) of rank <= r within ``radius`` of X*, and random directions ``Z = U X + X V``.

    X is a product of Gaussian factors, scaled to a norm uniform in (0, radius - ||X*||): the source does not
    say how it draws, and this draw keeps both of its conditions.
    """
    checks.count(count, "count", 1)
    m, n = problem.shape
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"The rank {rank} must lie between 1 and {min(m, n)}.")
    device = X_star.device
    reach = radius - float(X_star.norm())
    if reach <= 0:
        raise ValueError(
            f"The radius {radius:g} must exceed ||X*|| = {float(X_star.norm()):.3g}, so that matrices around 0 "
            "are within it."
        )
    X = normal((count, m, rank), source, device) @ normal((count, rank, n), source, device)
    lengths = torch.rand(count, generator=source, dtype=torch.float64, device="cpu").to(device)
    X = X * (reach * lengths / X.flatten(1).norm(dim=1))[:, None, None]
    vectors = [normal((count, k), source, device) for k in (m, m, n, n)]
    return X, _sandwich(X, *(v / v.norm(dim=-1, keepdim=True) for v in vectors))


def _sandwich(X: Tensor, p: Tensor, q: Tensor, w: Tensor, z: Tensor) -> Tensor:
    """``Z = U X + X V`` with ``U = p q^T`` and ``V = w z^T``, (S, m, n)."""
    return p[:, :, None] * (q[:, None, :] @ X) + (X @ w[:, :, None]) * z[:, None, :]


def monte_carlo(
    problem, X_star: Tensor, rank: int, radius: float, count: int, source: torch.Generator
) -> tuple[float, float]:
    """The source's estimates: least sampled convexity quotient and largest sampled smoothness quotient."""
    X, Z = sample(problem, X_star, rank, radius, count, source)
    parts = [
        (convexity_quotient(problem, x, X_star).min(), smoothness_quotient(problem, x, z).max())
        for x, z in zip(X.split(100), Z.split(100), strict=True)
    ]
    return float(min(part[0] for part in parts)), float(max(part[1] for part in parts))


def hunt(
    problem, X_star: Tensor, rank: int, radius: float, count: int, source: torch.Generator, steps: int = 200
) -> tuple[float, float]:
    """Adversarial search from ``count`` sampled points: gradient steps that lower or raise the quotients.

    Returns upper bound on alpha and lower bound on beta; no better than the best local optimum found.
    """
    X, Z = sample(problem, X_star, rank, radius, count, source)
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    root = s[:, :rank].sqrt()
    B, A = U[:, :, :rank] * root[:, None, :], root[:, :, None] * Vh[:, :rank]

    reach = radius - float(X_star.norm())

    def clipped(B, A):
        # the same ball as the sample's; scaling both factors keeps the rank
        shrink = (reach / squared_norm(B @ A).sqrt().clamp(min=1e-12)).clamp(max=1.0).sqrt()[:, None, None]
        return B * shrink, A * shrink

    alpha = _climb(lambda B, A: -convexity_quotient(problem, B @ A, X_star), (B, A), steps, clipped)
    # rank-one U, V act on a full-rank X as any p (X^T q)^T + (X w) z^T: X and four vectors are free
    m, n = problem.shape
    vectors = [normal((count, k), source, X.device) for k in (m, m, n, n)]
    curvature = lambda B, A, *vectors: smoothness_quotient(problem, B @ A, _sandwich(B @ A, *vectors))
    beta = _climb(curvature, (B, A, *vectors), steps, lambda B, A, *rest: (*clipped(B, A), *rest))
    return -alpha, beta


def _climb(score, state, steps, project) -> float:
    """Largest value met by normalised gradient ascent with a step that shrinks, over a batch."""
    best, state = -math.inf, tuple(x.clone() for x in state)
    for step in range(steps):
        state = tuple(x.detach().requires_grad_() for x in project(*state))
        value = score(*state)
        best = max(best, float(value.detach().max()))
        grads = torch.autograd.grad(value.sum(), state)
        rate = 0.3 * (1 - step / steps)
        size = lambda x: x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
        with torch.no_grad():
            state = tuple(x + rate * size(x) * g / size(g).clamp(min=1e-30) for x, g in zip(state, grads, strict=True))
    return best
