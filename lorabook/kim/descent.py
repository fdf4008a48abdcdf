"""Descent on the factors, many starts in one batch, each with a status.

Every start takes gradient steps of its own length, below the inverse of a local bound on the
curvature, so that it follows the gradient flow; a start whose gradient has become small is finished
by Newton steps on the Hessian with its eigenvalues made positive, which never climb.  A start that is
stationary is DONE or SADDLE, by the sign of the least Hessian eigenvalue; any other is UNCONVERGED
and no statement about minima may rest on it.

The bound is a worst case: far out its steps are very short.  :func:`line_search` finds longer ones by trial.

Not here: stochastic gradients and AdamW (both in ``decay.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks
from lorabook.device import normal
from lorabook.kim.landscape import factored_gradient, factored_hessian, objective
from lorabook.kim.problem import squared_norm, top_curvature

DONE, SADDLE, UNCONVERGED = 0, 1, 2


class Descended(NamedTuple):
    """What became of S starts."""

    B: Tensor  # (S, [L,] m, r)
    A: Tensor  # (S, [L,] r, n)
    objective: Tensor  # (S,)
    status: Tensor  # (S,) DONE, SADDLE or UNCONVERGED
    gradient_norm: Tensor  # (S,)
    least_eigenvalue: Tensor  # (S,) of the factored Hessian
    steps: Tensor  # (S,) gradient steps taken

    @property
    def X(self) -> Tensor:
        """The updates B A."""
        return self.B @ self.A

    @property
    def done(self) -> Tensor:
        """(S,) bool: which starts ended at a second-order stationary point."""
        return self.status == DONE


def starts(problem, rank: int, count: int, scale: float, source: torch.Generator, kind: str = "gaussian", device=None):
    """``count`` random starts (B, A): "gaussian" draws both factors with standard deviation ``scale``, "zero" only A.

    "near" adds the draw to the factors of a known spurious point (``problem.spurious_factors``).

    Raises:
        ValueError: an unknown kind, no starts, a scale not above 0, a rank that does not fit, no known spurious point.
    """
    checks.count(count, "count", 1)
    *layers, m, n = problem.shape
    if kind not in ("gaussian", "zero", "near"):
        raise ValueError(f"kind must be gaussian, zero or near; got {kind!r}.")
    if not 1 <= rank <= min(m, n):
        raise ValueError(f"The rank {rank} must lie between 1 and {min(m, n)}.")
    checks.positive(scale, "The scale of a start")
    if kind == "near" and not hasattr(problem, "spurious_factors"):
        raise ValueError(
            f"The kind near needs a problem with a known spurious point; a {type(problem).__name__} has none."
        )
    A = scale * normal((count, *layers, rank, n), source, device)
    B = scale * normal((count, *layers, m, rank), source, device)
    if kind == "near":
        at_B, at_A = problem.spurious_factors()
        if at_B.shape[-1] != rank:
            raise ValueError(f"The known spurious point has factors of rank {at_B.shape[-1]}; got rank {rank}.")
        return at_B + B, at_A + A
    return (torch.zeros_like(B) if kind == "zero" else B), A


@torch.no_grad()
def train(
    problem,
    B0: Tensor,
    A0: Tensor,
    steps: int = 4000,
    tolerance: float = 1e-9,
    smoothness: float | None = None,
    safety: float = 1.0,
    newton: int = 100,
) -> Descended:
    """Descend on F from every start of a batch.

    Args:
        problem: ``lam``, ``loss``, ``gradient``, ``hessian``.
        B0: (S, [L,] m, r) float64.  A0: (S, [L,] r, n).
        steps: gradient steps granted to each start.
        tolerance: norm of the gradient below which a point counts as stationary, relative to ``1 + ||B|| + ||A||``.
        smoothness: bound on ``||Hess L||_2``; by default that of a quadratic, from its H.
        safety: fraction of the local bound's step.
        newton: largest number of finishing steps; 0 shows a bare budget of gradient steps.  A start that used up
            its gradient steps (``steps`` in the answer) is finished from there, and may cross into another basin.

    Returns:
        :class:`Descended`.  A start with a non-finite state is UNCONVERGED with NaN.

    Raises:
        ValueError: shapes that do not fit, an empty batch, negative counts of steps, a tolerance, smoothness or safety
            that is not positive, or no smoothness for a loss that is not quadratic.
    """
    check_starts(problem, B0, A0)
    checks.count(steps, "steps", 0), checks.count(newton, "newton", 0)
    checks.positive(tolerance, "The tolerance"), checks.positive(safety, "The safety")
    ndim, smoothness = len(problem.shape), top_curvature(problem, smoothness)
    B, A = B0.clone(), A0.clone()
    taken = torch.zeros(len(B), dtype=torch.int64, device=B.device)
    live = torch.arange(len(B), device=B.device)
    near = max(1e-5, tolerance) if newton else tolerance
    b, a, shape = B.clone(), A.clone(), (-1, *[1] * ndim)
    for step in range(steps):
        G = problem.gradient(b @ a)
        gB, gA = G @ a.mT + problem.lam * b, b.mT @ G + problem.lam * a
        size = squared_norm(b, ndim) + squared_norm(a, ndim)
        slope = (squared_norm(gB, ndim) + squared_norm(gA, ndim)).sqrt()
        if step % 20 == 0:
            gone = ~(slope > near * (1 + size.sqrt()))  # also NaN
            if bool(gone.any()):
                B[live[gone]], A[live[gone]], taken[live[gone]] = b[gone], a[gone], step
                live, b, a, gB, gA, size, slope, G = (x[~gone] for x in (live, b, a, gB, gA, size, slope, G))
            if len(live) == 0:
                break
        # ||J||^2 <= ||B||^2 + ||A||^2, the cross term has norm ||G||
        rate = safety / (smoothness * size + squared_norm(G, ndim).sqrt() + problem.lam + 1e-12)
        b, a = b - rate.view(shape) * gB, a - rate.view(shape) * gA
    B[live], A[live] = b, a
    taken[live] = steps
    return _finish(problem, B, A, taken, tolerance, newton)


@torch.no_grad()
def line_search(problem, B0: Tensor, A0: Tensor, evaluations: int) -> tuple[Tensor, Tensor]:
    """Gradient descent on F with Armijo's rule, a rate for each start of a batch; no Newton step.

    A step is taken if the objective falls by half of what its slope foretells, and the next one is a tenth
    longer; else it is halved.  So the objective never rises, and steps are as long as the landscape allows.

    Args:
        problem: ``lam``, ``loss``, ``gradient``.
        B0: (S, [L,] m, r) float64.  A0: (S, [L,] r, n).
        evaluations: of the objective, >= 1.

    Returns:
        ``(B, A)`` after the last one.

    Raises:
        ValueError: shapes that do not fit, an empty batch, or no evaluations.

    Source: Nocedal & Wright 2006, section 3.1.
    """
    check_starts(problem, B0, A0)
    checks.count(evaluations, "evaluations", 1)
    ndim, B, A = len(problem.shape), B0.clone(), A0.clone()
    column = (-1, *[1] * ndim)
    value, (gB, gA) = objective(problem, B, A), factored_gradient(problem, B, A)
    rate = torch.full_like(value, 1e-3)
    for _ in range(evaluations):
        b, a = B - rate.view(column) * gB, A - rate.view(column) * gA
        fresh = objective(problem, b, a)
        taken = fresh <= value - rate / 2 * (squared_norm(gB, ndim) + squared_norm(gA, ndim))
        B, A = (torch.where(taken.view(column), new, old) for new, old in ((b, B), (a, A)))
        value, rate = torch.where(taken, fresh, value), rate * torch.where(taken, 1.1, 0.5)
        gB, gA = factored_gradient(problem, B, A)
    return B, A


def check_starts(problem, B0: Tensor, A0: Tensor) -> None:
    """Raise ValueError unless B0, A0 are a batch of at least one start for the problem."""
    checks.factors(B0, A0)
    fits = B0.ndim == len(problem.shape) + 1 and (B0 @ A0).shape[1:] == torch.Size(problem.shape)
    if not (fits and len(B0) == len(A0) > 0):
        raise ValueError(
            f"A batch of starts (S, ...) of shape {problem.shape}, S >= 1, was wanted; got B {tuple(B0.shape)} "
            f"and A {tuple(A0.shape)}."
        )


def _finish(problem, B, A, taken, tolerance, newton) -> Descended:
    """Newton with positive eigenvalues and damping until stationary; a step that raises the objective is not taken."""
    ndim, size = len(problem.shape), B[0].numel()
    value = objective(problem, B, A)
    damping = torch.full_like(value, 1e-2)
    for _ in range(newton):
        gB, gA = factored_gradient(problem, B, A)
        g = torch.cat([gB.flatten(1), gA.flatten(1)], -1)
        scale = 1 + torch.cat([B.flatten(1), A.flatten(1)], -1).norm(dim=-1)
        # a tenth of the tolerance: the last step is quadratic, so it costs at most one more
        going = ((g.norm(dim=-1) > tolerance / 10 * scale) & (damping < 1e12)).nonzero().squeeze(1)
        if len(going) == 0:
            break
        values, vectors = torch.linalg.eigh(factored_hessian(problem, B[going], A[going]))
        top = values.abs().amax(-1, keepdim=True)
        # flat directions carry no gradient; the floor keeps rounding out of them
        stiffness = values.abs().clamp(min=1e-9 * top) + damping[going, None] * top
        d = -(vectors @ ((vectors.mT @ g[going, :, None]) / stiffness[..., None])).squeeze(-1)
        trial_B = B[going] + d[:, :size].reshape(-1, *B.shape[1:])
        trial_A = A[going] + d[:, size:].reshape(-1, *A.shape[1:])
        fresh = objective(problem, trial_B, trial_A)
        better = fresh <= value[going] + 1e-14 * (1 + value[going].abs())
        index = going[better]
        B[index], A[index], value[index] = trial_B[better], trial_A[better], fresh[better]
        damping[going] = torch.where(better, damping[going] / 8, damping[going].clamp(min=1e-8) * 8)
    gB, gA = factored_gradient(problem, B, A)
    gradient_norm = (squared_norm(gB, ndim) + squared_norm(gA, ndim)).sqrt()
    finite = gradient_norm.isfinite()
    least, most = torch.full_like(gradient_norm, torch.nan), torch.full_like(gradient_norm, torch.nan)
    if bool(finite.any()):
        spectrum = torch.linalg.eigvalsh(factored_hessian(problem, B[finite], A[finite]))
        least[finite], most[finite] = spectrum[:, 0], spectrum.abs().amax(-1)
    scale = 1 + (squared_norm(B, ndim) + squared_norm(A, ndim)).sqrt()
    status = torch.full_like(taken, UNCONVERGED)
    stationary = finite & (gradient_norm <= tolerance * scale)
    status[stationary] = DONE
    # 1e-7 of the largest eigenvalue: rounding of a flat direction is 1e-15, a saddle's slope well above
    status[stationary & (least < -1e-7 * most)] = SADDLE
    return Descended(B, A, value, status, gradient_norm, least, taken)
