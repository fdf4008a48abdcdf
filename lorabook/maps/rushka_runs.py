"""Maps on Rushka & Klabjan: the price of rank, the largest step, and the step at which LoRA ends behind.

All are of the trace-squared loss from ``B0 = 0``.  Descent keeps both factors multiples of A0, so two numbers, b and a,
carry it: the residual is ``c - b a N`` with ``N = ||A0||^2``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from lorabook import rushka
from lorabook.device import generator, normal
from lorabook.maps.chart import Axis, Chart, Panel


def price(panel: Panel, n: Tensor, rank: Tensor, draws: int) -> Tensor:
    """Root mean square (X, Y) of the relative distance (33) over the panel's, Gaussian A0; NaN for r > n."""
    found = torch.full((len(n), len(rank)), torch.nan, dtype=n.dtype, device=n.device)
    for i, size in enumerate(map(int, n.tolist())):
        A0 = normal((draws, size, size), generator(size), n.device)
        for j, r in enumerate(map(int, rank.tolist())):
            if r <= size:
                found[i, j] = rushka.relative_error(A0[:, :r]).square().mean().sqrt() / panel.value
    return found


def price_border(panel: Panel, n: float) -> float:
    """The rank at which (34), ``(n^2 + n - 2) / (n r + 2)``, is the square of the panel's distance."""
    return ((n * n + n - 2) / panel.value**2 - 2) / n


def residuals(c: Tensor, N: Tensor, step: Tensor, iterations: int) -> Iterator[Tensor]:
    """Residual (...) after each iteration of simultaneous descent from b = 0, a = 1; all broadcast."""
    b = torch.zeros(torch.broadcast_shapes(c.shape, N.shape, step.shape), dtype=step.dtype, device=step.device)
    a, left = torch.ones_like(b), c + b
    for _ in range(iterations):
        slope = step * left
        b, a = b + slope * a, a + slope * b
        left = c - b * a * N
        yield left


def largest_step(panel: Panel, size: Tensor, step: Tensor, draws: int) -> Tensor:
    """Share (X, Y) of ``draws`` steps around each, up to a tenth away, at which descent arrives; c = 1."""
    jitter = 0.9 + 0.2 * torch.rand(draws, generator=generator(0), dtype=step.dtype).to(step.device)
    one = torch.ones((), dtype=step.dtype, device=step.device)
    left = deque(residuals(one, size[:, None, None], step[:, None] * jitter, 2000), maxlen=1).pop()
    return (left.abs() < 1e-6).to(step.dtype).mean(-1)


def late_lead(panel: Panel, rho: Tensor, step: Tensor, draws: int) -> Tensor:
    """``ln |1 - step n| - ln |LoRA's last factor|`` (X, Y) at n = 1, ``N = panel.value``, ``rho^2 = N^2 + 4 c^2``.

    The last factor is the quotient of the residuals at the last of 1500 steps with one between 1e-12 and 1e-6 of c;
    minus infinity for descent that does not arrive.
    """
    N = torch.as_tensor(panel.value, dtype=step.dtype, device=step.device)
    c = ((rho.square() - N.square()) / 4).sqrt()[:, None] + 0 * step
    factor, left = torch.full_like(c, torch.inf), c
    for now in residuals(c, N, step, 1500):
        counts = (now.abs() < 1e-6 * c) & (now.abs() > 1e-12 * c) & (left.abs() > now.abs())
        factor, left = torch.where(counts, (now / left).abs(), factor), now
    arrived = left.abs() < 1e-6 * c
    lead = (1 - step).abs().log() - factor.log()
    return torch.where(arrived & factor.isfinite(), lead, -torch.inf)


CHARTS = (
    Chart(
        name="price-of-rank",
        source="rushka",
        says="LoRA of rank r ends within the distance of the panel from the full-rank minimiser",
        x=Axis("n", 4, 128, 7, 16, whole=True),
        y=Axis("rank r", 1, 128, 9, 24, whole=True),
        panels=(Panel("relative distance 1.5", 1.5), Panel("relative distance 3", 3.0)),
        run=price,
        level=1.0,
        above=False,
        spread=math.log(4),
        ratio=True,
        draws=(40, 1500),
        predicted=(price_border,),
        false=(lambda panel, n: price_border(panel, n) / 2,),
    ),
    Chart(
        name="largest-step",
        source="rushka",
        says="descent arrives",
        x=Axis("N / |c|", 0.05, 50, 12, 30),
        y=Axis("step × |c|", 0.04, 2, 24, 60),
        panels=(Panel("", 0.0),),
        run=largest_step,
        level=0.5,
        above=True,
        spread=0.5,
        ratio=False,
        draws=(16, 64),
        predicted=(lambda panel, x: rushka.largest_step(1.0, x),),
        false=(lambda panel, x: 2 / math.hypot(x, 2),),
    ),
    Chart(
        name="step-and-crossing",
        source="rushka",
        says="LoRA ends ahead of full fine-tuning with the same step",
        x=Axis("ρ / n", 1.1, 8, 10, 30),
        y=Axis("step × n", 0.1, 1, 20, 60),
        panels=(Panel("N = n / 4", 0.25), Panel("N = n", 1.0)),
        run=late_lead,
        level=0.0,
        above=True,
        spread=0.5,
        ratio=False,
        draws=(1, 1),
        predicted=(lambda panel, x: 2 / (1 + x),),
        false=(lambda panel, x: 2 / x,),
    ),
)
