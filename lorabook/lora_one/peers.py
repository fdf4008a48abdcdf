"""Peers under equal conditions: one problem, one grid of rates, one number of steps.

Each method is a start and a ratio of steps; with and without the preconditioner.  Every method's rate is
tuned on the same grid, for LoRA+ with ``step_A = ratio * step_B``, and so is the size of its start where
the method leaves it open.

Not here: any claim about large models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """What one method reached at its best rate and scale.

    error: median over problems of ``||W_T - W~|| / ||Delta||``.
    rate: the best ``step_B``.  at_edge: whether that is the first or last of the grid.
    scale: the best scale; NaN where the method has none.
    curve: (M, K) the median at every scale and rate; infinite where a problem diverged.
    """

    error: float
    rate: float
    at_edge: bool
    scale: float
    curve: Tensor


def start(problem: Regression, method: str, rank: int, scale: float, source: torch.Generator):
    """``(problem, B0, A0, ratio)`` of a method: the problem with its offset taken, and step_A / step_B.

    ``scale`` is alpha for LoRA and LoRA+, the factor of the product ``B0 A0`` for LoRA-GA and LoRA-One's published
    forms.  PiSSA and the spectral start have a size of their own, the latter gamma = 1 (linear) or 2 (ReLU).

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    G = negative_gradient(problem)
    if method in ("LoRA", "LoRA+"):
        B0, A0 = lora_init(tuple(problem.shift.shape), rank, scale, source, problem.shift.device)
        return problem, B0, A0, 16.0 if method == "LoRA+" else 1.0
    if method == "spectral":
        return problem, *spectral_init(G, rank, 1.0 if problem.activation == "linear" else 2.0), 1.0
    if method == "LoRA-GA":
        B0, A0, offsets = *lora_ga_init(G, rank, scale), True
    elif method == "PiSSA":
        B0, A0, offsets = *pissa_init(problem.W.expand_as(problem.shift), rank), True
    else:
        form = method.removeprefix("LoRA-One, ")
        B0, A0, offsets = algorithm_start(G, rank, scale if form == "slides" else 1 / scale, form)
    return (offset(problem, B0, A0) if offsets else problem), B0, A0, 1.0


def tune(
    problem: Regression,
    method: str,
    rank: int,
    rates: Tensor,
    scales: tuple[float, ...],
    iterations: int,
    preconditioned: bool = False,
    ridge: float = 1e-6,
    seed: int = 0,
) -> Tuned:
    """Run one method at every rate and scale of the grid, all rates and problems in one batch.

    Args:
        problem: a batch of S problems, shift (S, d, k).
        rates: (K,) ascending grid of ``step_B``.
        scales: M sizes of the start, as for :func:`start`.
        iterations: steps of each run.
        preconditioned, ridge: as for :func:`descend`.

    Returns:
        :class:`Tuned`.
    """
    open_size, step, curve = method not in ("PiSSA", "spectral"), rates[:, None], []
    options: dict[str, Any] = {"preconditioned": preconditioned, "every": max(1, iterations)}
    options["ridge"] = ridge if preconditioned else 0.0
    for scale in scales if open_size else scales[:1]:
        task, B0, A0, ratio = start(problem, method, rank, scale, generator(seed))
        run = descend(task, B0.expand(len(rates), *B0.shape), A0, step, ratio * step, iterations, **options)
        last = torch.where(run.status == descent.DONE, run.error[-1], torch.inf)
        curve.append((last / torch.linalg.matrix_norm(problem.shift)).median(-1).values)
    curve = torch.stack(curve)
    size, best = divmod(int(curve.argmin()), len(rates))
    return Tuned(
        float(curve[size, best]),
        float(rates[best]),
        best in (0, len(rates) - 1),
        scales[size] if open_size else float("nan"),
        curve,
    )
