"""Theorems 1, 2, 3, A.1, Corollary 1 and the proof's spine, evaluated at given points.

With a stationary ``X = B A`` of rank at most r, ``d = ||X - X*||``, ``p = ||X - P_{r*}(X)||`` and
``rho = sigma_r(X) / sigma_{r*}(X)``, everything rests on one inequality,
``alpha d^2 <= (beta rho / 2)(d^2 - p^2)``.  The routines return both sides and never decide by
themselves that a run has converged.

Source: arXiv 2502.09376.  Theorem 3 and Theorem A.1 are stated as what their proof gives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks
from lorabook.kim.lemmas import orthogonal_part


class Theorem1(NamedTuple):
    """Theorem 1 at one point."""

    regime: str  # "special" (2 alpha > beta) or "generic"
    left: float  # ||X - X*||^2
    # ||X - P_{r*}(X)||^2 / (1 - 2 alpha sigma_{r*} / (beta sigma_r)); infinite where no spurious point can be
    right: float
    verdict: str  # "global", "spurious, as the theorem allows", "excluded by the theorem"


def theorem_1(
    alpha: float, beta: float, X: Tensor, X_star: Tensor, rank: int, rank_star: int, tolerance: float = 1e-6
) -> Theorem1:
    """Which case of Theorem 1 a second-order stationary point X falls into.

    Args:
        alpha, beta: valid constants of restricted strong convexity (> 0) and smoothness.
        X: (m, n) the point.  X_star: (m, n) the minimiser of the full problem.
        rank: r of the factorisation.  rank_star: rank of X_star, <= r.
        tolerance: relative distance below which X counts as X*; slack granted to the inequality.

    Returns:
        :class:`Theorem1`.  ``right`` is 0 where the theorem is silent (r = r*).

    Raises:
        ValueError: r below r* or above the smaller side, X of rank above r, X_star of rank above r*, constants out of
            order, shapes that differ, entries that are not finite.
    """
    _ranks(X, X_star, rank, rank_star)
    if X.ndim != 2 or X_star.ndim != 2:
        raise ValueError(f"Theorem 1 is evaluated at one matrix X (m, n); got shape {tuple(X.shape)}.")
    if not (0 < alpha <= beta and math.isfinite(beta)):
        raise ValueError(f"The theorem needs 0 < alpha <= beta; got alpha {alpha!r} and beta {beta!r}.")
    s, s_star = torch.linalg.svdvals(X), torch.linalg.svdvals(X_star)
    for name, found, most in (("X", s, rank), ("X_star", s_star, rank_star)):
        seen = int((found > tolerance * found[0]).sum())
        if seen > most:
            raise ValueError(f"{name} has the rank {seen}, above the {most} that was said.")
    left = float((X - X_star).square().sum())
    regime = "special" if 2 * alpha > beta else "generic"
    if math.sqrt(left) <= tolerance * (1 + float(X_star.norm())):
        return Theorem1(regime, left, 0.0, "global")
    right = float(bound(2 * alpha / beta, s, rank, rank_star)) if regime == "generic" else math.inf
    allowed = regime == "generic" and float(s[rank - 1]) > 0 and left * (1 + tolerance) >= right
    return Theorem1(regime, left, right, "spurious, as the theorem allows" if allowed else "excluded by the theorem")


def bound(kappa, s: Tensor, rank: int, rank_star: int) -> Tensor:
    """Least squared distance to X* that the theorem leaves a spurious point with singular values s (..., k).

    ``sum_{i > r*} s_i^2 / (1 - kappa s_{r*} / s_r)``, infinite where ``s_r <= kappa s_{r*}``; for r = r* it is 0.
    """
    if not 1 <= rank_star <= rank <= s.shape[-1]:
        raise ValueError(
            f"The bound needs 1 <= r* <= r <= {s.shape[-1]}, the number of singular values; got r* = {rank_star} "
            f"and r = {rank}."
        )
    tail = s[..., rank_star:].square().sum(-1)
    if rank == rank_star:
        return torch.zeros_like(tail)
    room = 1 - kappa * s[..., rank_star - 1] / s[..., rank - 1].clamp(min=1e-300)
    return torch.where(room > 0, tail / room.clamp(min=1e-300), torch.inf)


def least_norm(kappa, s: Tensor, star_norm, rank: int, rank_star: int) -> Tensor:
    """Corollary 1 (ii): a spurious point has ``||X|| >= sqrt(bound) - ||X*||``, (...); may be negative."""
    return bound(kappa, s, rank, rank_star).sqrt() - star_norm


def sharper_norm(alpha, beta, star_norm, rank: int, rank_star: int) -> float:
    """Least norm of a spurious point from ``d <= (beta/alpha) sqrt(r*) sigma_r``: ``theta ||X*|| / (1 + theta)``.

    With ``theta = sqrt(r / r*) alpha / beta``.  Ours: the excess Z only meets the part of X* off the
    spaces of X, so ``alpha d^2 <= <Z, X*> <= beta sigma_r sqrt(r*) d``, and ``sigma_r <= ||X|| / sqrt(r)``.
    """
    theta = math.sqrt(rank / rank_star) * alpha / beta
    return theta / (1 + theta) * float(star_norm)


class Spine(NamedTuple):
    """Slacks of the proof's inequalities, (...) each, the least over the layers; a negative one violates."""

    balance: Tensor  # - ||B^T B - A A^T|| / (||B||^2 + ||A||^2), an equality
    splitting: Tensor  # - ||G + lambda U V^T off the orthogonal part|| / ||G||, an equality
    excess: Tensor  # beta sigma_r - max(0, ||G||_2 - lambda): the second-order inequality
    eckart_young: Tensor  # (beta rho / 2)(||X - X_low||^2 - p^2) - <Z, X_low>
    convexity: Tensor  # <G - G*, X - X*> - alpha d^2
    monotone: Tensor  # <Z, X*> - <G - G*, X - X*>
    conclusion: Tensor  # (beta rho / 2)((d + delta)^2 - p^2) + beta sigma_r nu - alpha d^2


def spine(
    problem, B: Tensor, A: Tensor, X_star: Tensor, alpha: float, beta, rank_star: int, X_low: Tensor | None = None
) -> Spine:
    """Every inequality of the proofs of Theorems 1, 2, 3 and A.1 at stationary pairs (B, A), as slacks.

    Args:
        problem: ``lam`` > 0 and ``gradient``, for one matrix or L of them.
        B: (..., [L,] m, r), A: (..., [L,] r, n): second-order stationary points.
        X_star: ([L,] m, n) minimiser of the full problem.
        alpha: valid constant of convexity, over all layers together.  beta: of smoothness, a number or (L,).
        rank_star: of X_low, in every layer.  X_low: ([L,] m, n) near X_star (Theorems 3, A.1), default X_star.

    Returns:
        :class:`Spine`.  Convexity, monotonicity and the conclusion are summed over the layers.  The inequality of
        Eckart and Young divides by ``sigma_r`` and is infinite where X has a lower rank; there Z = 0.
    """
    checks.factors(B, A)
    checks.positive(problem.lam, "The decay lambda of the proof's inequalities")
    X, rank = B @ A, B.shape[-1]
    X_low = X_star if X_low is None else X_low
    _ranks(X, X_star, rank, rank_star)
    layered = len(problem.shape) == 3
    least = lambda slack: slack.amin(-1) if layered else slack
    total = lambda term: term.sum(-1) if layered else term
    norm = lambda Y: Y.square().sum((-2, -1)).sqrt()
    inner = lambda Y, W: (Y * W).sum((-2, -1))
    G, G_star = problem.gradient(X), problem.gradient(X_star)
    gap = B.mT @ B - A @ A.mT
    size = B.square().sum((-2, -1)) + A.square().sum((-2, -1))
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    nonzero = s > 1e-7 * s[..., :1].clamp(min=1e-3)
    U, V = U * nonzero.to(X.dtype)[..., None, :], Vh.mT * nonzero.to(X.dtype)[..., None, :]
    S, _ = orthogonal_part(G, U, V, problem.lam)
    left, middle, right = torch.linalg.svd(-S, full_matrices=False)
    Z = (left * (middle - problem.lam).clamp(min=0)[..., None, :]) @ right
    sigma_r = torch.where(nonzero[..., rank - 1], s[..., rank - 1], 0.0)
    slope = beta * sigma_r / s[..., rank_star - 1].clamp(min=1e-300) / 2
    p2 = s[..., rank_star:].square().sum(-1)
    d, delta, nu = norm(X - X_star), norm(X_low - X_star), torch.linalg.matrix_norm(X_low - X_star, "nuc")
    nearest = torch.where(sigma_r > 0, slope * (norm(X - X_low) ** 2 - p2), torch.inf)
    along = total(inner(G - G_star, X - X_star))
    return Spine(
        least(-norm(gap) / size.clamp(min=1e-300)),
        least(-norm(G + problem.lam * U @ V.mT - S) / norm(G).clamp(min=problem.lam)),
        least(beta * sigma_r - (torch.linalg.matrix_norm(G, 2) - problem.lam).clamp(min=0)),
        least(nearest - inner(Z, X_low)),
        along - alpha * total(d**2),
        total(inner(Z, X_star)) - along,
        total(slope * ((d + delta) ** 2 - p2) + beta * sigma_r * nu) - alpha * total(d**2),
    )


def approximate_slack(alpha, beta, X: Tensor, X_star: Tensor, X_low: Tensor, rank: int, rank_star: int) -> Tensor:
    """Theorem 3 as its proof gives it: ``rho ((d + delta)^2 - p^2) + 2 sigma_r nu - kappa d^2`` (...), not negative.

    Args:
        X: (..., m, n) second-order stationary points.  X_star: (m, n) exact minimiser of the full problem.
        X_low: (m, n) of rank r*, at distance ``delta`` from X_star in norm and ``nu`` in nuclear norm.
    """
    _ranks(X, X_low, rank, rank_star)
    kappa, s = 2 * alpha / beta, torch.linalg.svdvals(X)
    delta, nu = float((X_low - X_star).norm()), float(torch.linalg.matrix_norm(X_low - X_star, "nuc"))
    d = (X - X_star).square().sum((-2, -1)).sqrt()
    p2 = s[..., rank_star:].square().sum(-1)
    rho = s[..., rank - 1] / s[..., rank_star - 1]
    return rho * ((d + delta) ** 2 - p2) + 2 * s[..., rank - 1] * nu - kappa * d**2


def several_slack(
    alpha: float, betas: Tensor, X: Tensor, X_star: Tensor, rank: int, ranks_star, X_low: Tensor | None = None
) -> Tensor:
    """Theorems 2 and A.1 with joint convexity: sum over the layers of right minus left side, (...), not negative.

    ``alpha sum_l d_l^2 <= sum_l (beta_l rho_l / 2)((d_l + delta_l)^2 - p_l^2) + beta_l sigma_{r,l} nu_l``.

    Args:
        alpha: ``<grad L(X) - grad L(X*), X - X*> >= alpha ||X - X*||^2`` over all layers together.
        betas: (L,) smoothness of each layer.  X: (..., L, m, n).  X_star: (L, m, n).
        ranks_star: L integers.  X_low: (L, m, n) of ranks r*_l, default X_star.
    """
    checks.matrix(X, "X"), checks.matrix(X_star, "X_star")
    if X.ndim < 3 or X.shape[-3:] != X_star.shape or not len(betas) == len(ranks_star) == len(X_star):
        raise ValueError(
            "Several matrices want X (..., L, m, n), X_star (L, m, n) and L constants and ranks; got "
            f"{tuple(X.shape)}, "
            f"{tuple(X_star.shape)}, {len(betas)} and {len(ranks_star)}."
        )
    _ranks(X, X_star, rank, max(ranks_star))
    s = torch.linalg.svdvals(X)
    off = torch.zeros_like(X_star) if X_low is None else X_low - X_star
    delta, nu = off.square().sum((-2, -1)).sqrt(), torch.linalg.matrix_norm(off, "nuc")
    d2 = (X - X_star).square().sum((-2, -1))
    total = -alpha * d2.sum(-1)
    for layer, star in enumerate(ranks_star):
        sl = s[..., layer, :]
        reach = (d2[..., layer].sqrt() + delta[layer]) ** 2 - sl[..., star:].square().sum(-1)
        sigma_r = sl[..., rank - 1]
        total = total + betas[layer] * (sigma_r / sl[..., star - 1].clamp(min=1e-300) / 2 * reach + sigma_r * nu[layer])
    return total


def _ranks(X, X_star, rank, rank_star):
    checks.matrix(X, "X"), checks.matrix(X_star, "X_star")
    if X.shape[-2:] != X_star.shape[-2:]:
        raise ValueError(f"X {tuple(X.shape)} and X_star {tuple(X_star.shape)} have different shapes.")
    if not 1 <= rank_star <= rank:
        raise ValueError(f"The theorem needs 1 <= r* <= r; the rank {rank} came with r* = {rank_star}.")
    if rank > min(X.shape[-2:]):
        raise ValueError(f"The rank {rank} is above the smaller side {min(X.shape[-2:])} of X {tuple(X.shape)}.")
