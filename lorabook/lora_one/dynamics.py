"""How the factors move: gradient descent, its preconditioned form, and the linear phase.

``B <- B + step_B J A^T``, ``A <- A + step_A B^T J`` with ``J = -grad L(W + B A)``, both from the same
iterate.  The source's eta_1 is ``step_B``, its eta_2 is ``step_A``.

One identity carries what is said about unequal steps: with ``c = (step_B / step_A)^{1/4}``,
descent from ``(B0, A0)`` with ``(step_B, step_A)`` has the products of descent from
``(B0 / c, c A0)`` with both steps equal to ``sqrt(step_B step_A)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lorabook import checks, descent
from lorabook import linear_phase as shared_phase
from lorabook.linalg import largest_sine, operator_norm
from lorabook.lora_one.problem import Regression, check_problem, forces, negative_gradient, reduced


@dataclass(frozen=True)
class Run:
    """Descent of the systems S (any leading shape), observed R times (index 0 is the start).

    B, A: (S, d, r), (S, r, k) last iterates; NaN for a system that did not arrive.
    error: (R, S) ``||B A - Delta||_F``.
    sine_to_gradient, sine_to_shift: (R, S) sine of the largest principal angle between B's leading
        min(r, r*) left directions and those of G and of Delta; NaN where B has fewer directions.
    status: (S) descent.DONE, DIVERGED or SINGULAR.  From a failure on everything is NaN.
    steps: (S) iterations taken.  at: (R,) iterations observed.
    """

    B: Tensor
    A: Tensor
    error: Tensor
    sine_to_gradient: Tensor
    sine_to_shift: Tensor
    status: Tensor
    steps: Tensor
    at: Tensor


def descend(
    problem: Regression,
    B0: Tensor,
    A0: Tensor,
    step_B,
    step_A,
    iterations: int,
    preconditioned: bool = False,
    ridge: float = 0.0,
    masked: bool = True,
    rule: Callable | None = None,
    every: int = 1,
) -> Run:
    """Gradient descent on both factors.

    Args:
        problem: data; its leading shape and that of the starts broadcast to the systems S.
        B0: (S, d, r).  A0: (S, r, k).
        step_B, step_A: numbers or tensors that broadcast with S.
        iterations: number of steps.
        preconditioned: scale the forces by the Gram matrices' inverses (:func:`lorabook.descent.preconditioned`).
        ridge: added to those Gram matrices.
        masked: with ReLU, follow the gradient (True) or the source's GLM form (False).
        rule: another rule of :mod:`lorabook.descent` instead.
        every: observe one iteration in so many.

    Returns:
        :class:`Run`.  Cost: for the linear model without noise, k (and in the population d) is replaced
        by at most r + r*, exactly.

    Raises:
        ValueError: shapes that do not fit, steps that are not positive, a singular Gram matrix without a
            ridge, a ridge without preconditioning.
    """
    check_problem(problem)
    checks.factors(B0, A0, problem.shift, "shift")
    if rule is not None and not callable(rule):
        raise ValueError(f"rule must be a function such as those of lorabook.descent; got {rule!r}.")
    if ridge and not preconditioned:
        raise ValueError("A ridge belongs to the preconditioned step.")
    if preconditioned and rule is not None:
        raise ValueError("Give either preconditioned=True or a rule, not both.")
    exact = problem.activation == "linear" and problem.noise is None and rule is None
    lead = checks.batch(B0=B0.shape[:-2], A0=A0.shape[:-2], problem=problem.lead)
    B0, A0 = B0.expand(*lead, *B0.shape[-2:]), A0.expand(*lead, *A0.shape[-2:])
    small, B0, A0, *bases = reduced(problem, B0, A0) if exact else (problem, B0, A0)
    to_gradient = leading_left(negative_gradient(small, masked=masked), problem.rank)
    to_shift = leading_left(small.shift, problem.rank)

    def observe(B, A):
        leading = leading_left(B, problem.rank)
        return (
            torch.linalg.vector_norm(B @ A - small.shift, dim=(-2, -1)),
            largest_sine(leading, to_gradient),
            largest_sine(leading, to_shift),
        )

    rule = descent.preconditioned(ridge) if preconditioned else rule
    pull = partial(forces, small, masked=masked)
    run = descent.descend(pull, B0, A0, step_B, step_A, iterations, rule=rule, observe=observe, every=every)
    B, A = (bases[0] @ run.B, run.A @ bases[1].mT) if exact else (run.B, run.A)
    error, sine_to_gradient, sine_to_shift = run.observed
    return Run(B, A, error, sine_to_gradient, sine_to_shift, run.status, run.steps, run.at)


def trajectory(problem: Regression, B0: Tensor, A0: Tensor, step, iterations: int) -> tuple[Tensor, Tensor]:
    """Iterates of plain descent, ``B (T + 1, S, d, r)`` and ``A (T + 1, S, r, k)``."""
    pull = partial(forces, problem)
    B, A = descent.descend(pull, B0, A0, step, step, iterations, observe=lambda B, A: (B, A)).observed
    return B, A


def leading_left(M: Tensor, rank: int) -> Tensor:
    """The leading min(rank, columns) left singular vectors of M (..., d, n), NaN where M has fewer."""
    U, s, _ = torch.linalg.svd(M, full_matrices=False)
    count = min(rank, s.shape[-1])
    return torch.where((s[..., count - 1] > 0)[..., None, None], U[..., :count], torch.nan)


def row_leak(A: Tensor, G: Tensor, rank: int) -> Tensor:
    """Theorem 3.1's defect ``||A (I - V V^T)|| / ||A||`` (...), V the leading ``rank`` right singular vectors of G."""
    V = torch.linalg.svd(G, full_matrices=False).Vh[..., :rank, :].mT
    size = torch.linalg.matrix_norm(A)
    return torch.linalg.matrix_norm(A - (A @ V) @ V.mT) / size


def linear_phase(G: Tensor, B0: Tensor, A0: Tensor, step_B: float, step_A: float, iterations) -> tuple[Tensor, Tensor]:
    """Closed form of ``[B; A^T] <- [[I, step_B G], [step_A G^T, I]] [B; A^T]``: the source's ``H^t Z_0``.

    Args:
        G: (..., d, k).  B0: (..., d, r).  A0: (..., r, k).
        step_B, step_A: numbers > 0.
        iterations: a number, or (T,) numbers of steps.

    Returns:
        ``(B, A)``, with a leading T if ``iterations`` is a vector.

    Holds when: ``B A`` is small beside Delta.  Error: relative rounding times the number of steps.

    Raises:
        ValueError: shapes that do not fit, NaN, steps that are not positive, iterations that are
            negative or no numbers, or so many that the factors overflow.
    """
    checks.factors(B0, A0, G, "G")
    for name, value in (("step_B", step_B), ("step_A", step_A)):
        checks.positive(value, name)
    lead = torch.broadcast_shapes(G.shape[:-2], B0.shape[:-2], A0.shape[:-2])
    G, B0, A0 = (x.expand(*lead, *x.shape[-2:]) for x in (G, B0, A0))
    c = (step_B / step_A) ** 0.25
    iterations = checks.number(iterations, "iterations", G)
    B, A = shared_phase.iterate(G, B0 / c, c * A0, (step_B * step_A) ** 0.5, iterations)
    if not checks.is_fake(B) and not bool(B.isfinite().all() & A.isfinite().all()):
        raise ValueError(
            f"After {iterations.max().item():.0f} iterations the factors leave the range of float64: take fewer "
            "or smaller steps."
        )
    return (c * B[0], A[0] / c) if iterations.ndim == 0 else (c * B, A / c)


def linear_residual(
    problem: Regression, B0: Tensor, A0: Tensor, step: float, iterations: int, every: int = 1
) -> tuple[Tensor, Tensor]:
    """Distance between descent and its linear phase: ``||E_t||`` and ``||Z_t^lin||`` in operator norm, (R, S) each.

    R counts the observed iterations 0, every, 2 every, ... and the last.

    Source: the slides' sketch of the alignment's proof, ``E_t = Z_t - Z_t^lin`` with ``Z = [B; A^T]``.
    """
    check_problem(problem)
    checks.factors(B0, A0, problem.shift, "shift")
    G = negative_gradient(problem)

    def observe(B, A):
        return (torch.cat([B, A.mT], -2),)

    run = descent.descend(partial(forces, problem), B0, A0, step, step, iterations, observe=observe, every=every)
    B, A = linear_phase(G, B0, A0, step, step, run.at)
    linear = torch.cat([B, A.mT], -2)
    return operator_norm(run.observed[0] - linear), operator_norm(linear)
