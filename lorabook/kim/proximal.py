"""The full problem ``min L(X) + lambda ||X||_*`` by proximal gradient: the source's appendix C.1.

On a convex loss the answer is the global minimum, certified by the size of the fixed-point residual.
On a loss that is not convex (a network) it is a stationary point and no more.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks
from lorabook.kim.problem import decay, squared_norm, top_curvature


class Proximal(NamedTuple):
    """What became of the solve."""

    X: Tensor  # (..., *shape)
    residual: Tensor  # (...) ||X - prox(X - step grad L(X))|| / step
    converged: Tensor  # (...) bool: residual below the tolerance
    steps: int


def prox_nuclear(X: Tensor, tau) -> Tensor:
    """Singular value soft-thresholding, the proximal map of ``tau ||.||_*``.

    Args:
        X: (..., m, n) float64.  tau: number >= 0, or (...).

    Returns:
        (..., m, n), exactly of lower rank where singular values fall below ``tau``.

    Source: Parikh & Boyd 2014, section 6.7.3.

    Raises:
        ValueError: tau is negative or not finite, X is not a finite float64 matrix.
    """
    checks.matrix(X, "X")
    tau = checks.number(tau, "tau", X)
    if not checks.is_fake(tau) and bool((tau < 0).any()):
        raise ValueError(f"tau must not be negative; got {float(tau.min())!r}.")
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    return (U * (s - tau[..., None]).clamp(min=0)[..., None, :]) @ Vh


@torch.no_grad()
def solve(
    problem, start: Tensor | None = None, steps: int = 20_000, tolerance: float = 1e-10, smoothness: float | None = None
) -> Proximal:
    """Accelerated proximal gradient with a restart whenever the momentum points uphill.

    Args:
        problem: ``lam``, ``gradient``; ``lam`` may be a tensor that broadcasts with the batch.
        start: (..., *shape), default zeros.
        steps: largest number of steps.
        tolerance: on the residual, relative to ``1 + ||X||``.
        smoothness: bound on the Hessian's norm; by default from the quadratic's H.

    Returns:
        :class:`Proximal`; ``converged`` says whether the stopping rule was met.

    Raises:
        ValueError: a start of another shape, no steps, no smoothness for a loss that is not quadratic.

    Source: Beck & Teboulle 2009; O'Donoghue & Candès 2015 (restart).
    """
    checks.count(steps, "steps", 1)
    if start is not None and checks.matrix(start, "start").shape[-problem.M.ndim :] != problem.M.shape:
        raise ValueError(
            f"A start of shape {tuple(problem.M.shape)}, or a batch of them, was wanted; got {tuple(start.shape)}."
        )
    ndim, step = len(problem.shape), 1.0 / top_curvature(problem, smoothness)
    X = torch.zeros_like(problem.M) if start is None else start.clone()
    Y, weight = X, 1.0
    tau = torch.as_tensor(problem.lam, dtype=X.dtype, device=X.device) * step
    for k in range(1, steps + 1):
        new = prox_nuclear(Y - step * problem.gradient(Y), tau)
        if k % 10 == 0 or k == steps:
            again = prox_nuclear(new - step * problem.gradient(new), tau)
            residual = squared_norm(again - new, ndim).sqrt() / step
            converged = residual <= tolerance * (1 + squared_norm(new, ndim).sqrt())
            if bool(converged.all()):
                return Proximal(new, residual, converged, k)
        uphill = float(((Y - new) * (new - X)).sum()) > 0
        following = 1.0 if uphill else (1 + (1 + 4 * weight**2) ** 0.5) / 2
        Y = new if uphill else new + (weight - 1) / following * (new - X)
        X, weight = new, following
    return Proximal(new, residual, converged, steps)


def proximal_gradient(problem, start: Tensor | None = None, **options) -> Tensor:
    """The minimiser X of ``L(X) + lambda ||X||_*`` (..., *shape); see :func:`solve` for the options.

    Raises:
        RuntimeError: the stopping rule was not met; no number is returned silently.
    """
    answer = solve(problem, start, **options)
    if not bool(answer.converged.all()):
        raise RuntimeError(
            f"Proximal gradient has not converged after {answer.steps} steps: residual "
            f"{float(answer.residual.max()):.2g}."
        )
    return answer.X


def numerical_rank(X: Tensor, cut: float = 1e-6) -> Tensor:
    """Number of singular values above ``cut`` times the largest, (...); 0 for the zero matrix."""
    s = torch.linalg.svdvals(checks.matrix(X, "X"))
    return ((s > cut * s[..., :1]) & (s > 1e-12)).sum(-1)


def rank_path(problem, decays, **options) -> tuple[Tensor, Tensor]:
    """Rank of the minimiser for each decay of a grid, each solve warm-started from the one before.

    Args:
        problem: as for :func:`solve`; its own ``lam`` is not used.
        decays: (K,) values of lambda.

    Returns:
        ranks (K,) and minimisers (K, *shape).

    Raises:
        ValueError: no decay, or a negative one.
    """
    if len(decays) == 0:
        raise ValueError("A path of ranks needs at least one decay.")
    X, found = None, []
    for lam in decays:
        X = proximal_gradient(redecayed(problem, float(lam)), X, **options)
        found.append(X)
    X = torch.stack(found)
    return numerical_rank(X), X


def redecayed(problem, lam: float):
    """``problem`` with the weight decay ``lam`` >= 0 and the same loss (the target M stays)."""
    return dataclasses.replace(problem, lam=decay(lam))
