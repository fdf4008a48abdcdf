"""Runs of the pages on Rushka & Klabjan that are too long for a cell; the formulas are in the modules beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorabook import flow
from lorabook.device import DTYPE, default_device, generator
from lorabook.rushka.algorithm import Gradient, descend
from lorabook.rushka.trace import largest_step

CHECKPOINTS = 64  # times in (0, T] at which descent and flow are compared


def follow(gradients: tuple[Gradient, Gradient], B: Tensor, A: Tensor, times) -> tuple[Tensor, Tensor]:
    """The gradient flow of S starts B (S, m, r), A (S, r, n): factors (T, S, m, r) and (T, S, r, n)."""
    velocity = lambda state: tuple(-gradient(*state) for gradient in gradients)
    return flow.integrate(velocity, (B, A), times).states


def largest_errors(
    gradients: tuple[Gradient, Gradient], B: Tensor, A: Tensor, horizon: float, counts, variants, **options
) -> Tensor:
    """Largest distance of descent from the flow over [0, horizon]: (variants, steps, S).

    Args:
        gradients: partial gradients of the loss.
        B, A: S starts, (S, m, r) and (S, r, n).
        counts: inner updates up to the horizon, one for each step; 64 k must divide every one.
        variants: pairs (k, lambda).
        options: passed on to :func:`descend`.
    """
    times = horizon * torch.arange(1, CHECKPOINTS + 1, dtype=DTYPE, device=B.device) / CHECKPOINTS
    flow_B, flow_A = follow(gradients, B, A, times)
    squares, found = lambda x: x.square().sum((1, 2)), []
    for k, mixing in variants:
        for count in counts:
            at_B, at_A, worst = B, A, torch.zeros(len(B), dtype=DTYPE, device=B.device)
            for b, a in zip(flow_B, flow_A):
                at_B, at_A = descend(
                    *gradients, at_B, at_A, horizon / count, count // (CHECKPOINTS * k), k, mixing, **options
                )
                worst = torch.maximum(worst, (squares(at_B - b) + squares(at_A - a)).sqrt())
            found.append(worst)
    return torch.stack(found).reshape(len(variants), len(counts), -1)


def saddle_error(step: float, horizon: float) -> float:
    """Largest distance over [0, horizon] of sequential descent on ``(1 - b a)^2/2`` from the flow, from b = -1, a = 1.

    The flow stays on ``b = -a`` with ``a^2 = e^(-2t)/(2 - e^(-2t))`` and ends at the saddle; descent leaves it.
    """
    b, a, worst = -1.0, 1.0, 0.0
    for k in range(1, round(horizon / step) + 1):
        b += step * (1 - b * a) * a
        a += step * (1 - b * a) * b
        fading = math.exp(-2 * step * k)
        at = math.sqrt(fading / (2 - fading))
        worst = max(worst, (b + at) ** 2 + (a - at) ** 2)
    return math.sqrt(worst)


def local_errors(gradients: tuple[Gradient, Gradient], B: Tensor, A: Tensor, horizon: float, count: int) -> float:
    """Largest local error ``||theta(t + step) - theta(t) + step grad g(theta(t))||`` along the flow of one start."""
    times = torch.linspace(0, horizon, count + 1, dtype=DTYPE, device=B.device)
    path = [factor[:, 0] for factor in follow(gradients, B[None], A[None], times)]
    slopes = [gradient(*(factor[:-1] for factor in path)) for gradient in gradients]
    left = [factor.diff(dim=0) + horizon / count * slope for factor, slope in zip(path, slopes)]
    return float(torch.stack([x.square().sum((1, 2)) for x in left]).sum(0).sqrt().max())


def interpolant_misfit(gradients: tuple[Gradient, Gradient], B: Tensor, A: Tensor, step: float, folded: bool) -> float:
    """Largest distance of (6)-(7) from the iterates at the times ``q step`` and from their chords half way.

    k = 1 and 3, mixings 0, 0.3 and 1, two outer iterations.  ``folded`` takes ``h(t)`` as (8) has it, else without the
    remainder modulo k.
    """
    worst = 0.0
    for k in (1, 3):
        for mixing in (0.0, 0.3, 1.0):
            Bs, As = [B], [A]
            for _ in range(2):  # (4) and (5), update by update
                old_B, old_A = Bs[-1], As[-1]
                for _ in range(k):
                    Bs.append(Bs[-1] - step * gradients[0](Bs[-1], old_A))
                star = mixing * old_B + (1 - mixing) * Bs[-1]
                for _ in range(k):
                    As.append(As[-1] - step * gradients[1](star, As[-1]))
            for q in range(2 * k):
                h = q - q % k if folded else min(q, k)
                star = mixing * Bs[h] + (1 - mixing) * Bs[h + k]
                slopes = gradients[0](Bs[q], As[h]), gradients[1](star, As[q])
                for share in (0.0, 0.5, 1.0):
                    for path, slope in zip((Bs, As), slopes):
                        chord = (1 - share) * path[q] + share * path[q + 1]
                        worst = max(worst, float((path[q] - share * step * slope - chord).abs().max()))
    return worst


def converging_steps(size: float, trace: float, count: int, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random steps in [1/4, 5/4] of the edge, over that, and which of them reach the limit: (count,) each.

    The edge is :func:`lorabook.rushka.largest_step`.  Simultaneous descent from ``B0 = 0``, ``||A0||^2 = size``; both
    factors stay multiples of A0, so two numbers a step carry it.
    """
    top = largest_step(trace, size)
    shares = 0.25 + torch.rand(count, generator=generator(seed), dtype=DTYPE, device="cpu").to(default_device())
    b, a = torch.zeros_like(shares), torch.ones_like(shares)
    for _ in range(iterations):
        slope = shares * top * (trace - b * a * size)
        b, a = b + slope * a, a + slope * b
    return shares, (trace - b * a * size).abs() < 1e-6 * abs(trace)
