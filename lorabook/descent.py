"""Batched gradient steps on two factors: plain, imbalanced, preconditioned, and with a memory.

One iteration moves both factors from the same iterate,
``B <- B + step_B D_B``, ``A <- A + step_A D_A``, where a rule turns the forces
``F_B = -df/dB``, ``F_A = -df/dA`` into directions ``D_B``, ``D_A``.  A last map, such as the proximal
step of weight decay, may follow.  Every system of the batch has its own steps and its own fate.

Not here: which loss (the source modules), and continuous time (flow.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook import checks

DONE = 0  # took all its steps
DIVERGED = 1  # left the ball that `ceiling` describes, or stopped being finite
SINGULAR = 2  # under way, the rule had no direction to give

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Descent:
    """What became of the systems S (any leading shape).

    B, A: (S, m, r), (S, r, n) last iterates; NaN for a system that did not arrive.
    status: (S) int64, DONE, DIVERGED or SINGULAR.
    steps: (S) int64, iterations taken before the end or the failure.
    at: (R,) int64, iterations at which was observed; 0 is the start.
    observed: tuple of tensors (R, S, ...), NaN from the failure on; empty without an observer.
    """

    B: Tensor
    A: Tensor
    status: Tensor
    steps: Tensor
    at: Tensor
    observed: tuple[Tensor, ...]


@torch.no_grad()
def descend(
    forces: Callable[[Tensor, Tensor], Pair],
    B0: Tensor,
    A0: Tensor,
    step_B,
    step_A,
    iterations: int,
    rule: Callable | None = None,
    after: Callable | None = None,
    observe: Callable | None = None,
    every: int = 1,
    ceiling: float = 1e6,
) -> Descent:
    """Take ``iterations`` simultaneous steps.

    Args:
        forces: (B, A) -> (-df/dB, -df/dA), for the whole batch.
        B0: (S, m, r) float64.  A0: (S, r, n).  S stands for any leading shape, also none.
        step_B, step_A: numbers or tensors that broadcast with S; > 0.
        iterations: >= 0.
        rule: (B, A, F_B, F_A, memory) -> (D_B, D_A, memory); memory is None at first.  Default :func:`plain`.
        after: (B, A, step_B, step_A) -> (B, A), applied after each step, e.g. a proximal map.
        observe: (B, A) -> tuple of tensors (S, ...), called at 0, every, 2 every, ... and at the end.
        ceiling: a system has diverged when an entry exceeds ``ceiling`` times the largest of 1 and the
            start's entries.

    Returns:
        :class:`Descent`.  A system that diverges stops there; its neighbours do not notice.

    Raises:
        ValueError: shapes that do not fit, steps that are not positive, iterations below 0.
    """
    # a rank above the update's smaller dimension is allowed: reduced coordinates may have one
    if checks.matrix(B0, "B0").shape[-1] != checks.matrix(A0, "A0").shape[-2]:
        raise ValueError(f"B0 {tuple(B0.shape)} and A0 {tuple(A0.shape)} do not multiply.")
    lead = checks.batch(B0=B0.shape[:-2], A0=A0.shape[:-2])
    step_B, step_A = (_step(value, name, lead, B0) for value, name in ((step_B, "step_B"), (step_A, "step_A")))
    checks.count(iterations, "iterations", 0), checks.count(every, "every", 1)
    B, A = B0.expand(*lead, *B0.shape[-2:]).clone(), A0.expand(*lead, *A0.shape[-2:]).clone()
    limit = ceiling * torch.maximum(B.abs().amax((-2, -1)), A.abs().amax((-2, -1))).clamp(min=1.0)
    alive = torch.ones(lead, dtype=torch.bool, device=B.device)
    status = torch.full(lead, DONE, device=B.device)
    steps = torch.zeros(lead, dtype=torch.int64, device=B.device)
    rule, memory = plain if rule is None else rule, None
    at = [] if observe is None else sorted({*range(0, iterations, every), iterations})
    seen = [tuple(_blank(value, alive) for value in observe(B, A))] if at else []
    for iteration in range(1, iterations + 1):
        F_B, F_A = forces(B, A)
        D_B, D_A, memory = rule(B, A, F_B, F_A, memory)
        lost = alive & _finite(F_B, F_A) & ~_finite(D_B, D_A)
        B_next, A_next = B + step_B * D_B, A + step_A * D_A
        if after is not None:
            B_next, A_next = after(B_next, A_next, step_B, step_A)
        size = torch.maximum(B_next.abs().amax((-2, -1)), A_next.abs().amax((-2, -1)))
        # a comparison with NaN is false, so that a system that is no longer finite is caught too
        stays = alive & (size <= limit)
        status = torch.where(alive & ~stays, torch.where(lost, SINGULAR, DIVERGED), status)
        alive = stays
        keep = alive[..., None, None]
        B, A = torch.where(keep, B_next, B), torch.where(keep, A_next, A)
        steps += alive
        if at and iteration == at[len(seen)]:
            seen.append(tuple(_blank(value, alive) for value in observe(B, A)))
        if not bool(alive.any()):
            missing = seen[:1] * (len(at) - len(seen))
            seen += [tuple(torch.full_like(value, torch.nan) for value in first) for first in missing]
            break
    observed = tuple(torch.stack(column) for column in zip(*seen, strict=True))
    return Descent(_blank(B, alive), _blank(A, alive), status, steps, torch.tensor(at, device=B.device), observed)


def plain(B, A, F_B, F_A, memory):
    """Gradient descent: the forces themselves."""
    return F_B, F_A, None


def preconditioned(ridge: float = 0.0) -> Callable:
    """``F_B (A A^T + ridge I)^{-1}`` and ``(B^T B + ridge I)^{-1} F_A``: scaled gradient descent.

    Source: Tong, Ma & Chi 2021; Zhang & Pilanci 2024.
    Raises (in the first step): ValueError where a Gram matrix is singular; later that system stops as SINGULAR.
    """
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge must be a finite number >= 0; got {ridge!r}.")

    def rule(B, A, F_B, F_A, memory):
        first = memory is None
        root_A, root_B = _cholesky(A @ A.mT, ridge, "A A^T", first), _cholesky(B.mT @ B, ridge, "B^T B", first)
        return torch.cholesky_solve(F_B.mT, root_A).mT, torch.cholesky_solve(F_A, root_B), ()

    return rule


def momentum(weight: float) -> Callable:
    """Heavy ball: ``D <- weight D + F``."""

    def rule(B, A, F_B, F_A, memory):
        if memory is not None:
            F_B, F_A = F_B + weight * memory[0], F_A + weight * memory[1]
        return F_B, F_A, (F_B, F_A)

    return rule


def decayed(weight: float) -> Callable:
    """Weight decay on both factors: ``D = F - weight * factor``."""
    return lambda B, A, F_B, F_A, memory: (F_B - weight * B, F_A - weight * A, None)


def signed(B, A, F_B, F_A, memory):
    """Sign steps: every entry moves by one step."""
    return F_B.sign(), F_A.sign(), None


def adam(first: float = 0.9, second: float = 0.999, epsilon: float = 1e-8, decay: float = 0.0) -> Callable:
    """Adam with bias correction (Kingma & Ba 2015), and with AdamW's decoupled ``decay`` (Loshchilov & Hutter 2019)."""

    def rule(B, A, F_B, F_A, memory):
        count, means, squares = memory or (0, (0.0, 0.0), (0.0, 0.0))
        forces, count = (F_B, F_A), count + 1
        means = tuple(first * m + (1 - first) * F for m, F in zip(means, forces))
        squares = tuple(second * v + (1 - second) * F**2 for v, F in zip(squares, forces))
        D_B, D_A = (
            m / (1 - first**count) / ((v / (1 - second**count)).sqrt() + epsilon) for m, v in zip(means, squares)
        )
        return D_B - decay * B, D_A - decay * A, (count, means, squares)

    return rule


def _cholesky(gram: Tensor, ridge: float, name: str, strict: bool) -> Tensor:
    """Lower root of ``gram + ridge I``, NaN where that is singular to working precision; with ``strict``, a
    sentence."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    root, info = torch.linalg.cholesky_ex(gram + ridge * eye)
    pivots = root.diagonal(dim1=-2, dim2=-1)
    # the squared pivots bound the condition number from below; a ridge bounds it by itself
    singular = (info != 0) | ~(pivots.amin(-1) > (1e-7 if ridge == 0 else 0.0) * pivots.amax(-1))
    if strict and bool(singular.any()):
        cure = "give a ridge > 0" if ridge == 0 else "give a larger ridge"
        raise ValueError(
            f"The Gram matrix {name} is singular, so the preconditioned step is not defined: {cure}, or lower the rank."
        )
    return torch.where(singular[..., None, None], torch.nan, root)


def _finite(first: Tensor, second: Tensor) -> Tensor:
    """(S) True where both matrices are finite."""
    return (first.isfinite().all(-1).all(-1)) & (second.isfinite().all(-1).all(-1))


def _step(value, name: str, lead, like: Tensor) -> Tensor:
    """The step as a tensor (S, 1, 1)."""
    value = checks.number(value, name, like, positive=True)
    try:
        return value.expand(lead)[..., None, None]
    except RuntimeError:
        raise ValueError(f"{name} {tuple(value.shape)} does not broadcast with the systems {tuple(lead)}.") from None


def _blank(value: Tensor, alive: Tensor) -> Tensor:
    """``value`` (S, ...) with NaN for the systems that are no longer alive."""
    return torch.where(alive.reshape(tuple(alive.shape) + (1,) * (value.ndim - alive.ndim)), value, torch.nan)
