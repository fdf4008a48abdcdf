"""Maps on Xu et al.: the window of the alignment theorem, the time from which a smaller start is lower, and which share
of the shift the larger layer learns."""

from __future__ import annotations

import math

import torch
from scipy.optimize import bisect
from torch import Tensor

from lorabook import mallada
from lorabook.device import DTYPE, generator, tensor
from lorabook.mallada import exponents, runs
from lorabook.maps.chart import Axis, Chart, Panel, log_half_normal

SIZES = {"small": ((2, 4, 2), 1), "wide": ((6, 10, 5), 3)}  # (m, h, n) and rank


def window(panel: Panel, ratio: Tensor, c: Tensor, draws: int) -> Tensor:
    """Smallest margin (X, Y) of the three exponents over those of the theorem, at ``T_c``; alpha from 1e-6 to 1e-10."""
    sizes, rank = SIZES[panel.kind]
    scales = torch.logspace(-6, -10, 3, dtype=DTYPE)
    have = runs.clock_exponents(sizes, rank, ratio, c, scales, 2.0, 1.5, draws, generator(1))
    want = exponents.printed(ratio)
    margins = have.misalignment - want.misalignment, have.norm - want.norm, want.imbalance - have.imbalance
    return torch.stack(margins).amin(0).mT


def smaller_is_lower(panel: Panel, alpha: Tensor, clock: Tensor, draws: int) -> Tensor:
    """Local exponent (X, Y) of the loss in the start's size at ``s1 t``, median over draws."""
    source = generator(2)
    base = mallada.isotropic((2, 4, 2), source, panel.value, 1.0, 1.0, count=draws)
    pair = torch.stack([alpha / 1.2, alpha * 1.2], -1).flatten()
    A1, A2 = mallada.starts(base, 1, pair, source)
    run = mallada.flow(base, A1, A2, clock, rtol=1e-11)
    loss = mallada.loss(base, run).log().reshape(len(clock), len(alpha), 2, draws)
    return (loss[:, :, 1] - loss[:, :, 0]).median(-1).values.mT / math.log(1.44)


def larger_layer(panel: Panel, shift: Tensor, ratio: Tensor, draws: int) -> Tensor:
    """Median share (X, Y) of the shift that does not come through layer 1, on the plateau; ``sigma_W2 = 1``."""
    source = generator(3)
    base = mallada.isotropic((2, 4, 2), source, 1.0, 1.0, 1.0, count=draws)
    A1, A2 = mallada.starts(base, 1, panel.value, source)
    problem = mallada.TwoLayer(
        ratio[:, None, None, None] * base.W1, base.W2, shift[:, None, None, None, None] * base.shift
    )
    at = 4 * math.log(1 / panel.value) / shift[:, None, None] + torch.zeros_like(ratio[:, None] + A1[:, 0, 0])
    run = mallada.flow(problem, A1, A2, tensor([1.0], shift.device), rtol=1e-8, clock=at)
    share = mallada.shares(problem, mallada.Factors(*(part[0] for part in run[:4])))
    return (1 - share[..., 0]).abs().median(-1).values


def lost_share(ratio: float, shift: float, terms: int = 60) -> float:
    """Share of the shift that layer 2 takes, over ``|b0|^2 / |a0|^(2 d)``, from small starts; ``sigma_W2 = 1``.

    Layer 1 learns ``f`` along p, so layer 2 is driven along ``w = d q + f p``.  With ``g = f`` as the clock of the
    growth, ``beta' = d a_q / (2 g) + a_p / 2``, ``a_q' = d beta / (2 g)``, ``a_p' = beta / 2`` from
    ``beta = a_q = g^(d/2)``, which a power series solves; the share is ``4^(d-1) (d beta a_q + g beta a_p) / g`` at
    ``g = shift``.

    Holds when: the share is small, q and p are orthogonal (true on average).  Source: ours.
    """
    h, b, p = ratio / 2, 1.0, 0.0
    beta = along = across = 0.0
    for k in range(terms):
        b = b if k == 0 else p / 2 * (h + 2 * k) / (2 * k * (ratio + 2 * k))
        p = b / 2 / (h + 1 + 2 * k)
        power = shift ** (2 * k)
        beta, along, across = beta + b * power, along + b * power * h / (h + 2 * k), across + p * power * shift
    return 4 ** (ratio - 1) * shift**ratio * beta * (ratio * along + shift * across) / shift


def larger_layer_border(panel: Panel, shift: float) -> float:
    """The d at which the median of :func:`lost_share` over Gaussian starts of rank one is the chart's level."""
    normal = log_half_normal()

    def share(d):
        middle = (2 * normal[:, None] - 2 * d * normal).flatten().median().item()
        return lost_share(d, shift) * panel.value ** (2 * (1 - d)) * math.exp(middle)

    return bisect(lambda d: share(d) - 0.02, 0.02, 1.5)


CHARTS = (
    Chart(
        name="window",
        source="mallada",
        says="all three statements of the alignment theorem hold at c times its clock",
        x=Axis(r"$\delta_w$", 0.1, 0.8, 8, 22, log=False),
        y=Axis("c", 0.1, 1.0, 19, 37, log=False),
        panels=(Panel("(m, h, n) = (2, 4, 2), r = 1", 1, "small"), Panel("(6, 10, 5), r = 3", 3, "wide")),
        run=window,
        level=0.0,
        above=True,
        spread=0.3,
        ratio=False,
        draws=(24, 32),
        predicted=(lambda panel, d: 1 / (5 - d), lambda panel, d: 0.5),
        false=(lambda panel, d: 1 / (5 + d), lambda panel, d: 0.5),
    ),
    Chart(
        name="smaller-is-lower",
        source="mallada",
        says="a smaller start has the lower loss",
        x=Axis("α", 1e-5, 1e-2, 7, 19),
        y=Axis("s₁ t", 2, 30, 29, 85, log=False),
        panels=(Panel(r"$\delta_w$ = 0.65", 0.65), Panel(r"$\delta_w$ = 0.8", 0.8)),
        run=smaller_is_lower,
        level=0.0,
        above=True,
        spread=2.0,
        ratio=False,
        draws=(64, 96),
        predicted=(lambda panel, alpha: (3 - 2 * panel.value) * math.log(1 / alpha),),
        false=(lambda panel, alpha: math.log(1 / alpha),),
        anchored=True,
    ),
    Chart(
        name="larger-layer",
        source="mallada",
        says="all but a fiftieth of the shift goes through the layer with the larger weights beside it",
        x=Axis("σ / σ(W₂)²", 0.2, 5, 6, 14),
        y=Axis(r"$\delta_w$", 0.1, 1, 10, 28, log=False),
        panels=(Panel("α = 1e-2", 1e-2), Panel("α = 1e-5", 1e-5)),
        run=larger_layer,
        level=0.02,
        above=False,
        spread=math.log(10),
        ratio=True,
        draws=(48, 96),
        predicted=(larger_layer_border,),
        false=(lambda panel, shift: larger_layer_border(panel, 0.2),),
    ),
)
