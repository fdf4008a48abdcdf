"""What weight decay does: Lemma 1 for stochastic gradients, and AdamW, where the equivalence ends.

Lemma 1: if the updates of SGD with batch b, step mu and decay lambda converge, the limit is within
epsilon (relative) of a matrix of rank at most ``b log(eps/4) / log(1 - mu lambda)``.  Fixed points say
more: one step changes X by matrices whose sum has rank at most 2b beyond a shrunken X.

AdamW's decay is not a penalty: its fixed points satisfy ``g / (|g| + eps) = - lambda w`` entry by
entry, so a point inside the box ``|w| < 1 / lambda`` is stationary for the bare loss.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks, descent
from lorabook.kim.descent import check_starts


def rank_bound(batch: int, step: float, decay: float, eps: float) -> float:
    """Lemma 1's bound on the rank, ``b log(eps/4) / log(1 - mu lambda)``.

    Raises:
        ValueError: a product ``mu lambda`` outside (0, 1), or eps outside (0, 4).
    """
    if not (0 < step * decay < 1 and 0 < eps < 4 and batch >= 1):
        raise ValueError(
            f"Lemma 1 needs 0 < mu lambda < 1, 0 < eps < 4 and a batch >= 1; got {step * decay:g}, {eps:g} and {batch}."
        )
    return batch * math.log(eps / 4) / math.log1p(-step * decay)


def one_step(B, A, G, step: float, decay: float):
    """One step on both factors: ``((1 - mu lambda) B - mu G A^T, (1 - mu lambda) A - mu B^T G)``."""
    return (1 - step * decay) * B - step * G @ A.mT, (1 - step * decay) * A - step * B.mT @ G


class SGD(NamedTuple):
    """End of a run of stochastic gradient descent."""

    B: Tensor  # (S, m, r)
    A: Tensor  # (S, r, n)
    drift: Tensor  # (S,) ||X_k - X_{k-1}|| / ||X_k|| in the last step
    spread: Tensor  # (S,) largest distance of the last updates from their mean, relative


@torch.no_grad()
def stochastic_descent(
    inputs: Tensor,
    targets: Tensor,
    B0: Tensor,
    A0: Tensor,
    batch: int,
    step: float,
    decay: float,
    steps: int,
    source: torch.Generator,
    window: int = 50,
) -> SGD:
    """SGD on the squared loss of a linear layer with decay on both factors, batches drawn without repetition.

    Args:
        inputs: (N, n) one row per sample.  targets: (N, m).
        B0: (S, m, r).  A0: (S, r, n).
        batch: b <= N.  step: mu > 0.  decay: lambda >= 0.

    Returns:
        :class:`SGD`, over the last ``window`` steps.
    """
    checks.factors(B0, A0)
    if not 1 <= batch <= len(inputs):
        raise ValueError(f"The batch {batch} must lie between 1 and the number of samples {len(inputs)}.")
    if not 2 <= window < steps:
        raise ValueError(
            f"The run needs more steps than its window of at least 2; got {steps} steps and a window of {window}."
        )
    B, A, tail = B0.clone(), A0.clone(), []
    for k in range(steps):
        chosen = torch.randperm(len(inputs), generator=source, device="cpu")[:batch].to(inputs.device)
        x, y = inputs[chosen], targets[chosen]
        G = (x @ (B @ A).mT - y).mT @ x / batch
        B, A = one_step(B, A, G, step, decay)
        if k >= steps - window - 1:
            tail.append(B @ A)
    X = torch.stack(tail)
    size = X[-1].flatten(1).norm(dim=1)
    drift = (X[-1] - X[-2]).flatten(1).norm(dim=1) / size
    return SGD(B, A, drift, (X - X.mean(0)).flatten(2).norm(dim=2).amax(0) / size)


@torch.no_grad()
def adam(problem, B0: Tensor, A0: Tensor, learning_rate: float, steps: int, decoupled: bool) -> tuple[Tensor, Tensor]:
    """Adam with the problem's ``lam`` as AdamW's decoupled decay, or as a penalty in the gradient.

    The learning rate falls to 0 along a cosine, so that the iterates settle.

    Args:
        problem: ``lam``, ``gradient``.  B0: (S, m, r).  A0: (S, r, n).

    Returns:
        ``(B, A)`` after the last step.

    Raises:
        ValueError: shapes that do not fit, no steps, or a learning rate that is not positive.

    Source: Kingma & Ba 2015; Loshchilov & Hutter 2019, with beta = (0.9, 0.999) and eps = 1e-8.
    """
    check_starts(problem, B0, A0)
    checks.count(steps, "steps", 1), checks.positive(learning_rate, "The learning rate")
    B, A, rule, memory = B0, A0, descent.adam(), None
    for k in range(1, steps + 1):
        rate = learning_rate * (1 + math.cos(math.pi * k / steps)) / 2
        G, penalty = problem.gradient(B @ A), 0.0 if decoupled else problem.lam
        D_B, D_A, memory = rule(B, A, -(G @ A.mT + penalty * B), -(B.mT @ G + penalty * A), memory)
        B, A = ((1 - rate * problem.lam * decoupled) * X + rate * D for X, D in ((B, D_B), (A, D_A)))
    return B, A
