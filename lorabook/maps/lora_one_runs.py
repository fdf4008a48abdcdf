"""Maps on LoRA-One: Theorem 3.2's start, Proposition 3.3, LoRA-GA's sine, Theorem 4.3."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lorabook import lora_one, measure
from lorabook.device import DTYPE
from lorabook.linalg import largest_sine
from lorabook.lora_one import alignment, runs
from lorabook.lora_one.dynamics import descend, leading_left
from lorabook.lora_one.planted import planted, spectrum
from lorabook.maps.chart import Axis, Chart, Panel


def printed_start(panel: Panel, kappa: Tensor, epsilon: Tensor, draws: int) -> Tensor:
    """Smallest sine over epsilon (X, Y) from Theorem 3.2's printed start, up to three units of its time, medians."""
    return runs.tolerance_map([int(panel.value)], kappa.tolist(), epsilon, draws, 14)["late"][0]


def start_misses(panel: Panel, d: Tensor, y: Tensor, draws: int) -> Tensor:
    """Share (X, Y) of spectral starts with ``||B0 A0 - Delta||_F > epsilon ||Delta||_op`` at ``y = epsilon^2 N``."""
    rank, found = int(panel.value), []
    for size in map(int, d.tolist()):
        error = rank * runs.start_errors(size, rank, rank, [16 * size], draws, seed=size)[0]
        found.append((error > y[:, None]).to(DTYPE).mean(-1))
    return torch.stack(found)


def offset_sine(panel: Panel, smallest: Tensor, gamma: Tensor, draws: int) -> Tensor:
    """Final sine (X, Y), over the panel's, of A's rows to G's row space from LoRA-GA's start with offset; rank 2."""
    singular = torch.stack([torch.ones_like(smallest), smallest], -1)
    base = planted(8, 8, None, singular, 1, 5)
    shift = base.shift[:, 0][:, None]
    problem = lora_one.Regression(None, base.W, shift)
    B0, A0 = lora_one.lora_ga_init(shift, 2)
    root = gamma.sqrt()[:, None, None]
    B0, A0 = root * B0, root * A0
    run = descend(lora_one.offset(problem, B0, A0), B0, A0, 0.2, 0.2, 3000, every=3000)
    return largest_sine(leading_left(run.A.mT, 2), leading_left(shift.mT, 2)) / panel.value


def relu_rate(panel: Panel, kappa: Tensor, ratio: Tensor, draws: int) -> Tensor:
    """Median ``(1 - factor) / step`` (X, Y) over draws of preconditioned steps on the GLM form, concentrated shift."""
    d, step, half, found = 24, 0.5, 40, []
    options: dict[str, Any] = {"preconditioned": True, "masked": False, "every": 4}
    for N in (round(d * each) for each in ratio.tolist()):
        problem = planted(d, 4, N, spectrum(2, kappa, kappa.device), draws, 7, "relu", concentrated=True)
        start = lora_one.spectral_init(lora_one.negative_gradient(problem, masked=False), 2, 2.0)
        first = descend(problem, *start, step, step, half, **options)
        second = descend(problem, first.B, first.A, step, step, half, **options)
        slopes = measure.slope(second.at.to(DTYPE), second.error.movedim(0, -1).log())
        found.append(((1 - slopes.exp()) / step).nan_to_num(nan=-torch.inf).median(-1).values)
    return torch.stack(found, -1)


def sharp_tolerance(sine: float) -> float:
    """Tangent of the angle with this sine."""
    return sine / math.sqrt(1 - sine**2)


CHARTS = (
    Chart(
        name="printed-start",
        source="lora_one",
        says="Theorem 3.2's printed start is small enough for a sine of ε",
        x=Axis("κ(G)", 1.25, 3, 5, 11, log=False),
        y=Axis("ε", 5e-4, 0.6, 8, 18),
        panels=(Panel("d = 16", 16), Panel("d = 64", 64)),
        run=printed_start,
        level=1.0,
        above=False,
        spread=math.log(10),
        ratio=True,
        draws=(12, 16),
        predicted=(lambda panel, kappa: alignment.border(panel.value, kappa, 0.62),),
        # the power -(kappa + 1) / (2 (2 kappa - 1)) of d
        false=(
            lambda panel, kappa: alignment.border(panel.value, kappa, 0.62) * panel.value ** (0.5 / (2 * kappa - 1)),
        ),
    ),
    Chart(
        name="start-misses",
        source="lora_one",
        says="the spectral start meets Proposition 3.3's bound in half of the draws",
        x=Axis("d", 4, 64, 5, 9, whole=True),
        y=Axis("ε² N", 0.5, 300, 24, 60),
        panels=(Panel("rank 1", 1), Panel("rank 3", 3)),
        run=start_misses,
        level=0.5,
        above=False,
        spread=0.5,
        ratio=False,
        draws=(100, 400),
        predicted=(lambda panel, d: panel.value * (d + 1),),
        false=(lambda panel, d: panel.value * math.sqrt(d + 1),),
    ),
    Chart(
        name="offset-sine",
        source="lora_one",
        says="from LoRA-GA's start with its offset the rows of A end within the sine of the panel",
        x=Axis("smallest singular value of G", 0.1, 1, 8, 20),
        y=Axis("γ", 1e-3, 2, 16, 40),
        panels=(Panel("sine 0.05", 0.05), Panel("sine 0.3", 0.3)),
        run=offset_sine,
        level=1.0,
        above=False,
        spread=math.log(10),
        ratio=True,
        draws=(1, 1),
        predicted=(lambda panel, s: s * sharp_tolerance(panel.value),),
        false=(lambda panel, s: math.sqrt(s) * sharp_tolerance(panel.value),),
    ),
    Chart(
        name="relu-rate",
        source="lora_one",
        says="the error falls at least like (1 - η/4) to the power t",
        x=Axis("κ(Δ)", 1, 16, 4, 9),
        y=Axis("N / d", 6, 100, 8, 22),
        panels=(Panel("d = 24, r = 2", 0.0),),
        run=relu_rate,
        level=0.25,
        above=True,
        spread=0.15,
        ratio=False,
        draws=(4, 8),
        predicted=(lambda panel, kappa: 2 / (1 - math.sqrt(0.5)) ** 2,),
        false=(lambda panel, kappa: 4 / (1 - math.sqrt(0.5)) ** 2,),
    ),
)
