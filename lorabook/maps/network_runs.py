"""Map on the small network of Xu et al.'s chapter: when its loss leaves the plateau, over start, steps and rate.

From a small start descent multiplies the leading direction of layer i by ``1 + rate s_i`` a step, with ``s_i`` the
largest singular value of the loss's gradient in its weights; the larger one sets the clock, though the network is not
linear.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from lorabook.inputs import digits
from lorabook.mallada import network
from lorabook.maps.chart import Axis, Chart, Panel


@functools.cache
def pretrained() -> tuple[network.FrozenNetwork, digits.Digits, list[float]]:
    """The chapter's network, the turned digits, and the largest singular value of each layer's gradient on them."""
    frozen, turned = network.pretrain(digits.split(0), 64, 1, steps=100), digits.split(1)
    W1, W2 = (weight.clone().requires_grad_() for weight in (frozen.W1, frozen.W2))
    active = (turned.train @ W1.mT + frozen.b1).relu()
    network.cross_entropy(active @ W2.mT + frozen.b2, turned.train_labels).backward()
    return frozen, turned, [torch.linalg.matrix_norm(weight.grad, 2).item() for weight in (W1, W2)]


def plateau(panel: Panel, alpha: Tensor, steps: Tensor, draws: int) -> Tensor:
    """Training loss (X, Y) after so many steps of descent at the panel's rate, rank 4, median over draws."""
    frozen, turned, _ = pretrained()
    record = [int(count) for count in steps.tolist()]
    run = network.finetune(frozen, turned, alpha, 4, "descent", panel.value, record, draws, 1, batch=64)
    return run.train.median(-1).values.mT


def clock(panel: Panel, alpha: float, layer: int = 1) -> float:
    """``ln(1 / alpha) / ln(1 + rate s)``, the steps up to a constant."""
    return math.log(1 / alpha) / math.log1p(panel.value * pretrained()[2][layer])


CHARTS = (
    Chart(
        name="network-clock",
        source="mallada",
        says="the network's loss has fallen to a half",
        x=Axis("α", 1e-5, 0.1, 5, 9),
        y=Axis("steps", 4, 184, 31, 91, log=False, whole=True),
        panels=(Panel("rate 0.01", 0.01), Panel("rate 0.02", 0.02)),
        run=plateau,
        level=10.0,
        above=False,
        spread=math.log(4),
        ratio=True,
        draws=(4, 8),
        predicted=(clock,),
        false=(functools.partial(clock, layer=0),),
        anchored=True,
    ),
)
