"""The early phase of all four sources, by one routine.

Each source's training is ``dB/dt = J A^T``, ``dA/dt = B^T J`` with ``J = -grad f(W0 + B A)``, perhaps with decay or in
steps.  While the factors are small J is ``G = -grad f(W0)``, and :mod:`lorabook.linear_phase` solves all of them.
Each of the four problems comes with its own dynamics, as its own chapter runs it, to be held against that.

Not here: what follows the early phase (``course``), and where G points (``angles``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks, kim, linear_phase, lora_one, mallada, rushka
from lorabook.one_dynamics.course import landscape_flow


class Early(NamedTuple):
    """The beginning of one source's training, from K sizes of the start at once; one entry per trained matrix."""

    start: tuple  # of (B0 (K, m, r), A0 (K, r, n))
    G: tuple  # of (m, n), the negative gradient at W0
    target: tuple  # of (m, n), what the update is to reach, or the shift of the output: not the gradient
    own: Callable  # times (T,) -> tuple of (B (T, K, m, r), A (T, K, r, n)) by the source's own dynamics
    decay: float = 0.0  # lambda
    learning_rate: float | None = None  # None: times are flow times; else times count steps of descent

    @property
    def rate(self) -> float:
        """Fastest growth per unit of ``times``: ``s_1(G) - lambda``, or ``ln(1 + learning_rate s_1(G))``."""
        largest = max(float(torch.linalg.matrix_norm(G, 2)) for G in self.G)
        return largest - self.decay if self.learning_rate is None else math.log1p(self.learning_rate * largest)


def linear(early: Early, times, G: tuple | None = None) -> tuple:
    """The linear phase of any source: pairs (T, K, ...) as ``early.own`` gives them.

    Args:
        early: one source's beginning.
        times: (T,) flow times, or numbers of steps where ``early`` has a learning rate.
        G: other matrices in place of the gradients, for a counter-probe.

    Holds when: the products of the factors are small.  Decay commutes with the system and gives ``exp(-lambda t)``.
    Error: relative rounding of the linear system; against ``early.own`` relative O(start^2) at a fixed time.
    """
    answers = []
    for (B0, A0), pull in zip(early.start, early.G if G is None else G, strict=True):
        if early.learning_rate is None:
            times = checks.times(times, B0)
            shrink = torch.exp(-early.decay * times)[:, None, None, None]
            answers.append(tuple(shrink * part for part in linear_phase.propagate(pull, B0, A0, times)))
        else:
            answers.append(linear_phase.iterate(pull, B0, A0, early.learning_rate, times))
    return tuple(answers)


def misfit(early: Early, times, G: tuple | None = None) -> Tensor:
    """Distance (T, K) of the source's own factors from their linear phase, relative to the latter."""

    def size(parts):
        return sum(part.square().sum((-2, -1)) for part in parts).sqrt()

    own, line = ([part for pair in pairs for part in pair] for pairs in (early.own(times), linear(early, times, G)))
    return size([a - b for a, b in zip(own, line, strict=True)]) / size(line)


def trace_early(W0: Tensor, A0: Tensor, scales) -> Early:
    """Rushka & Klabjan, trace loss: ``G = Tr(W0) I``, own dynamics the closed form from ``B0 = 0``, ``scales A0``."""
    scales = _scales(scales, checks.matrix(W0, "W0"))
    trace = W0.diagonal().sum()
    A = scales * A0
    B = torch.zeros_like(A.mT)
    eye = torch.eye(W0.shape[-1], dtype=W0.dtype, device=W0.device)

    def own(times):
        run = rushka.trace_flow(trace, B, A, times)
        return ((run.B, run.A),)

    return Early(((B, A),), (trace * eye,), (W0,), own)


def two_layer_early(problem: mallada.TwoLayer, A1: Tensor, A2: Tensor, scales) -> Early:
    """Xu et al., square layers: ``G1 = W2^T shift``, ``G2 = shift W1^T``, both targets the shift, own dynamics flow."""
    if len({*problem.W1.shape[-2:], *problem.W2.shape[-2:]}) > 1:
        raise ValueError(
            "The shift stands in for the gradients of both layers, so all layers must be square and of one size."
        )
    scales = _scales(scales, A1)
    A1, A2 = scales * A1, scales * A2

    def own(times):
        run = mallada.flow(problem, A1, A2, times, rtol=1e-12)
        return (run.B1, run.A1), (run.B2, run.A2)

    pulls = problem.W2.mT @ problem.shift, problem.shift @ problem.W1.mT
    return Early(
        ((torch.zeros_like(A1.mT), A1), (torch.zeros_like(A2.mT), A2)), pulls, (problem.shift, problem.shift), own
    )


def regression_early(problem: lora_one.Regression, B0: Tensor, scales, learning_rate: float) -> Early:
    """LoRA-One: G the one-step gradient, own dynamics gradient descent from ``B0 scales`` and ``A0 = 0``."""
    scales = _scales(scales, checks.matrix(B0, "B0"))
    B = scales * B0
    A = B.new_zeros(len(B), B.shape[-1], problem.shift.shape[-1])

    def own(steps):
        steps = checks.times(steps, B, "steps").long()
        path = lora_one.trajectory(problem, B, A, learning_rate, int(steps.max()))
        return (tuple(part[steps] for part in path),)

    return Early(((B, A),), (lora_one.negative_gradient(problem),), (problem.shift,), own, learning_rate=learning_rate)


def landscape_early(problem: kim.Quadratic, A0: Tensor, scales) -> Early:
    """Kim, Kim & Ryu: ``G = -grad L(0)`` with decay, own dynamics their factored flow from ``B0 = 0``."""
    scales = _scales(scales, checks.matrix(A0, "A0"))
    A = scales * A0
    B = A.new_zeros(len(A), problem.shape[0], A.shape[-2])

    def own(times):
        # 1e-14: three digits below the smallest factors that are compared
        return (landscape_flow(problem, B, A, times, atol=1e-14),)

    return Early(((B, A),), (-problem.gradient(torch.zeros_like(problem.M)),), (problem.M,), own, decay=problem.lam)


def _scales(scales, like: Tensor) -> Tensor:
    scales = checks.number(scales, "scales", like)
    if scales.ndim != 1 or scales.numel() == 0 or bool((scales <= 0).any()):
        raise ValueError(f"scales must be a vector of positive numbers; got {scales.tolist()!r}.")
    return scales[:, None, None]
