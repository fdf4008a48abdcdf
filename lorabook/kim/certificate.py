"""A certificate for factors found by someone's training run, and the way out of a trap.

A checkpoint ``X = gamma B A`` trained with decay lambda on both factors solves the problem of this
chapter with ``lambda_e = lambda / gamma``.  One backward pass gives ``G = dL/dW`` at ``W0 + X``; with it
the factors' own balance and gradient say whether the theorem speaks, and ``E = ||G||_2 / lambda_e`` says
what it would say.

Beyond the source.  Holds when: the decay is a penalty (SGD, Adam with L2), not AdamW's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks
from lorabook.kim.descent import Descended, train
from lorabook.kim.landscape import full_objective
from lorabook.linalg import balance

SILENT = "not stationary: the theorem is silent"
OPTIMAL = "optimality condition of the full problem met"
SATURATED = "rank-saturated: one more rank lowers the loss"


class Certificate(NamedTuple):
    """What one backward pass says about a checkpoint."""

    imbalance: float  # ||B^T B - A A^T|| / ||A A^T||
    slope: float  # ||(G A^T + lambda_e B, B^T G + lambda_e A)|| / (lambda_e ||(B, A)||)
    excess: float  # E = ||G||_2 / lambda_e
    gain: float  # (||G||_2 - lambda_e) per unit of eps^2 that an appended pair removes, 0 if none
    verdict: str


def certify(B: Tensor, A: Tensor, G: Tensor, lam: float, scale: float = 1.0, tolerance: float = 1e-2) -> Certificate:
    """Is this checkpoint stationary, and if so, does one more rank help?

    Args:
        B: (m, r), A: (r, n) float64.  G: (m, n) gradient of the loss at ``W0 + scale * B A``.
        lam: decay on B and A, > 0.  scale: gamma > 0 (LoRA's alpha / r).
        tolerance: on imbalance, slope, and on E - 1.

    Returns:
        :class:`Certificate`.

    Raises:
        ValueError: lambda or scale not positive, shapes that do not fit.
    """
    checks.factors(B, A, G)
    if not (lam > 0 and scale > 0):
        raise ValueError(f"The certificate needs a positive decay and scale; got {lam!r} and {scale!r}.")
    effective = lam / scale
    size = math.sqrt(float(B.square().sum() + A.square().sum()))
    imbalance = float(balance(B, A).norm() / (A @ A.mT).norm().clamp(min=1e-300)) if size else 0.0
    pull = torch.cat([(G @ A.mT + effective * B).flatten(), (B.mT @ G + effective * A).flatten()])
    slope = float(pull.norm()) / max(effective * size, 1e-300)
    top = float(torch.linalg.matrix_norm(G, 2))
    excess = top / effective
    if imbalance > tolerance or slope > tolerance:
        verdict = SILENT
    else:
        verdict = OPTIMAL if excess <= 1 + tolerance else SATURATED
    return Certificate(imbalance, slope, excess, max(0.0, top - effective), verdict)


def gap_bound(loss: float, B: Tensor, A: Tensor, G: Tensor, lam: float, scale: float = 1.0) -> float:
    """What no adapter of any rank can lower the objective by more than, at any point:

        (1 - 1/e) L + (lambda/2)(||B||^2 + ||A||^2) + <G, X>/e,  X = scale B A, e = max(E, 1), E = scale ||G||_2/lambda.

    Where the point is stationary and E >= 1 this is ``(1 - 1/E) F`` with the objective F.

    Proof: ``L(Z) >= L(X) + <G, Z - X>`` by convexity and ``L(Z) >= 0``, weighed 1/e and 1 - 1/e, give ``L(Z) + mu
    ||Z||_* >= (L(X) - <G, X>)/e + <G/e, Z> + mu ||Z||_*`` with mu = lambda/scale, and ``||G/e||_2 <= mu``.

    Holds when: L is convex in X and not negative.

    Args:
        loss: L at ``W0 + scale * B @ A``.  B: (m, r), A: (r, n) float64.  G: (m, n), the gradient of L there.
        lam: decay on B and A, > 0.  scale: > 0.

    Raises:
        ValueError: a loss that is negative, lambda or scale not positive, shapes that do not fit.
    """
    checks.factors(B, A, G), checks.positive(lam, "The decay"), checks.positive(scale, "The scale")
    if not 0 <= loss < math.inf:
        raise ValueError(f"The bound needs a loss that is not negative; got {loss!r}.")
    excess = max(1.0, scale * float(torch.linalg.matrix_norm(G, 2)) / lam)
    penalty = lam / 2 * float(B.square().sum() + A.square().sum())
    return (1 - 1 / excess) * loss + penalty + scale * float(((B.mT @ G) * A).sum()) / excess


def same_size_bound(B: Tensor, A: Tensor, G: Tensor, scale: float = 1.0) -> float:
    """``<G, X> + ||G||_2 ||X||_*``: what no Z with ``||Z||_* <= ||X||_*`` lowers a loss by more, at any point.

    It needs no decay: Frank and Wolfe's gap on the ball of the nuclear norm that X lies on.

    Holds when: L is convex in X.

    Args:
        B: (m, r), A: (r, n) float64, X = scale B A.  G: (m, n) gradient of L at X.

    Raises:
        ValueError: a scale that is not positive, shapes that do not fit.
    """
    checks.factors(B, A, G), checks.positive(scale, "The scale")
    nuclear = scale * float(torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.mT).R.mT).sum())
    return scale * float(((B.mT @ G) * A).sum()) + float(torch.linalg.matrix_norm(G, 2)) * nuclear


def append_pair(B: Tensor, A: Tensor, G: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Factors (..., m, r + 1), (..., r + 1, n) with ``size * (u, -v)`` from G's top singular pair appended.

    To second order the objective changes by ``- size^2 (||G||_2 - lambda)``.

    Raises:
        ValueError: shapes that do not fit, a size that is not positive, or factors that already have the full rank.
    """
    checks.factors(B, A, G), checks.positive(size, "The size of a pair")
    if B.shape[-1] == min(G.shape[-2:]):
        raise ValueError(f"Factors of rank {B.shape[-1]} already have every rank of a matrix {tuple(G.shape[-2:])}.")
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return torch.cat([B, size * U[..., :1]], -1), torch.cat([A, -size * Vh[..., :1, :]], -2)


def restart_with_rank(problem, B: Tensor, A: Tensor, size: float = 1e-2, **options) -> Descended:
    """Append the top pair and train on: the way out of a rank-saturated point, for a batch (S, ...)."""
    B, A = append_pair(B, A, problem.gradient(B @ A), size)
    return train(problem, B, A, **options)


def two_sides(problem, B: Tensor, A: Tensor, beta: float) -> tuple[float, float]:
    """Sides of ``(||G|| - lam)^2/(2 beta) <= F - F* <= (1 - 1/E) F`` at a stationary point with ``E >= 1``.

    Holds when: the loss is convex, not negative and ``beta``-smooth.  Proof: :func:`lorabook.kim.proofs.two_sided`.
    """
    G = float(torch.linalg.matrix_norm(problem.gradient(B @ A), 2))
    return (G - problem.lam) ** 2 / (2 * beta), (1 - problem.lam / G) * float(full_objective(problem, B @ A))
