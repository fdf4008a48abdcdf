"""Peers under equal conditions: one problem, one grid of rates, one number of steps.

Each method is a start and a ratio of steps; with and without the preconditioner.  What is held fixed:
every method's rate is tuned on the same grid, for LoRA+ with ``step_A = ratio * step_B``.

Not here: any claim about large models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook import descent
from lorabook.device import generator
from lorabook.lora_one.dynamics import descend
from lorabook.lora_one.problem import Regression, negative_gradient, offset
from lorabook.lora_one.starts import FORMS, algorithm_start, lora_ga_init, lora_init, pissa_init, spectral_init

METHODS = ("LoRA", "LoRA+", "LoRA-GA", "PiSSA", "spectral", *(f"LoRA-One, {form}" for form in FORMS))


@dataclass(frozen=True)
class Tuned:
    """What one method reached at its best rate.

    error: median over problems of ``||W_T - W~|| / ||Delta||``.
    rate: the best ``step_B``.  at_edge: whether that is the first or last of the grid.
    curve: (K,) the median at every rate of the grid; infinite where a problem diverged.
    """

    error: float
    rate: float
    at_edge: bool
    curve: Tensor


def start(problem: Regression, method: str, rank: int, init_scale: float, gamma: float, source: torch.Generator):
    """``(problem, B0, A0, ratio)`` of a method: the problem with its offset taken, and step_A / step_B.

    ``gamma`` is the scale of LoRA-GA and of LoRA-One's published forms; the spectral start has 1 for the
    linear and 2 for the ReLU model.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    G = negative_gradient(problem)
    if method in ("LoRA", "LoRA+"):
        B0, A0 = lora_init(tuple(problem.shift.shape), rank, init_scale, source, problem.shift.device)
        return problem, B0, A0, 16.0 if method == "LoRA+" else 1.0
    if method == "spectral":
        return problem, *spectral_init(G, rank, 1.0 if problem.activation == "linear" else 2.0), 1.0
    if method == "LoRA-GA":
        B0, A0, offsets = *lora_ga_init(G, rank, 1 / gamma), True
    elif method == "PiSSA":
        B0, A0, offsets = *pissa_init(problem.W.expand_as(problem.shift), rank), True
    else:
        form = method.removeprefix("LoRA-One, ")
        B0, A0, offsets = algorithm_start(G, rank, 1 / gamma if form == "slides" else gamma, form)
    return (offset(problem, B0, A0) if offsets else problem), B0, A0, 1.0


def tune(problem: Regression, method: str, rank: int, rates: Tensor, iterations: int, preconditioned: bool = False,
         ridge: float = 1e-6, init_scale: float = 0.1, gamma: float = 16.0, seed: int = 0) -> Tuned:
    """Run one method at every rate of the grid, all rates and problems in one batch.

    Args:
        problem: a batch of S problems, shift (S, d, k).
        rates: (K,) ascending grid of ``step_B``.
        iterations: steps of each run.
        preconditioned, ridge: as for :func:`descend`.

    Returns:
        :class:`Tuned`.
    """
    task, B0, A0, ratio = start(problem, method, rank, init_scale, gamma, generator(seed))
    step = rates[:, None]
    run = descend(task, B0.expand(len(rates), *B0.shape), A0, step, ratio * step, iterations, preconditioned=preconditioned,
                  ridge=ridge if preconditioned else 0.0, every=max(1, iterations))
    last = torch.where(run.status == descent.DONE, run.error[-1], torch.inf)
    curve = (last / torch.linalg.matrix_norm(problem.shift)).median(-1).values
    best = int(curve.argmin())
    return Tuned(float(curve[best]), float(rates[best]), best in (0, len(rates) - 1), curve)
