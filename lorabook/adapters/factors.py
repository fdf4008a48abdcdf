"""The factored problem on one matrix run to its end: ``min L(W + B A) + (lambda / 2) (||B||^2 + ||A||^2)``."""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook import checks


def settle(problem, B: Tensor, A: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Factors after ``steps`` steps of L-BFGS with a strong Wolfe line search: the objective never rises.

    Args:
        problem: with ``loss``, ``gradient`` and ``lam``, as :class:`lorabook.adapters.one_matrix.OneMatrix`.
        B: (m, r), A: (r, n) float64.

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, chapter 7.
    """
    checks.factors(B, A)
    B, A = B.clone().requires_grad_(), A.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([B, A], max_iter=checks.count(steps, "steps", 1), max_eval=3 * steps, history_size=20,
                                  tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def closure():
        X = B @ A
        G = problem.gradient(X)
        B.grad, A.grad = G @ A.mT + problem.lam * B, B.mT @ G + problem.lam * A
        return objective(problem, B, A)

    optimiser.step(closure)
    return B.detach(), A.detach()


def objective(problem, B: Tensor, A: Tensor) -> Tensor:
    """The loss at ``B A`` with the decay's penalty."""
    return problem.loss(B @ A) + problem.lam / 2 * (B.square().sum() + A.square().sum())
