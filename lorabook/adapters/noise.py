"""How much the gradient of the factors differs from batch to batch: one sweep, no gradient stored.

Training on batches does not come to rest where the gradient over all data is 0: it hovers around such a point.  The
deviation of one batch, over the root of their number, is the error of the mean over one pass of random batches: along a
gradient below it, a pass moves the factors less than chance does.  Adam divides by the root mean square of every
coordinate's batch gradients; ``rms`` is what that tends to.

A direction that every other batch shows is tried on the batches between: what is noise there averages out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorabook.adapters.full_gradient import frozen, length, repeated, sweep
from lorabook.adapters.targets import Target


class Noise(NamedTuple):
    """One layer's gradient of its factors over the batches."""

    loss: float  # mean over all data
    batches: int
    spread: float | None  # root mean square of ||g_b - g||_F, g_b that of (B, A) on batch b; None for one batch
    rms_B: Tensor  # (m, r), root mean square of each coordinate over the batches
    rms_A: Tensor  # (r, n)
    new: float | None = None  # mean of u^T G_b v over its error, on the batches that u and v were not taken from


class Half:
    """Every other batch, from the first on, of what is otherwise as ``batches``."""

    def __init__(self, batches: Iterable) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator:
        return (batch for place, batch in enumerate(self.batches) if not place % 2)

    def __len__(self) -> int:
        return ((length(self.batches) or 0) + 1) // 2

    def __getattr__(self, name: str) -> Any:  # a loader's generator and samplers
        return getattr(self.batches, name)


def batch_noise(
    model: nn.Module,
    layers: dict[str, Target],
    batches: Iterable,
    *,
    loss: Callable | None = None,
    directions: dict[str, tuple[Tensor, Tensor]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Noise]:
    """One sweep over the batches, of the size that training had.  A layer that a batch does not reach has gradient 0.

    Args:
        directions: u (m) and v (n) by layer, taken from :class:`Half` of the batches; they are tried on the others.

    Raises:
        ValueError: as :func:`lorabook.adapters.full_gradient.reduced`.
    """
    sums: dict[str, dict[str, Any]] = {name: {} for name in layers}
    now = {"weight": 0.0, "total": 0.0, "number": 0, "tried": 0.0}

    def take(name: str, target: Target):
        def hook(weight):
            G, weight.grad = target.matrix(weight.grad), None
            B, A = target.B.detach().to(G), target.A.detach().to(G)
            g_B, g_A = (target.scale * (G @ A.mT)).double(), (target.scale * (B.mT @ G)).double()
            parts: dict[str, Any] = {"B": g_B, "A": g_A, "square_B": g_B.square(), "square_A": g_A.square()}
            if directions and name in directions and now["number"] % 2 == 0:
                u, v = directions[name]
                along = float(u.to(G) @ G @ v.to(G))
                parts |= {"along": along, "along_square": along**2}
            for key, part in parts.items():
                sums[name][key] = sums[name].get(key, 0.0) + now["weight"] * part

        return hook

    read = repeated(batches, 1)
    with frozen(model, [target.weight for target in layers.values()]):
        hooks = [layers[name].weight.register_post_accumulate_grad_hook(take(name, layers[name])) for name in layers]
        note = (lambda line: progress(f"noise, {line}")) if progress else None
        try:
            for now["weight"], _, now["total"] in sweep(model, read, loss, note):
                now["number"] += 1
                now["tried"] += 0.0 if now["number"] % 2 else now["weight"]
        finally:
            for hook in hooks:
                hook.remove()
    mean = read.seen[-1][1] / now["total"]
    return {name: _noise(sums[name], now, mean, layers[name], bool(directions)) for name in layers}


def _noise(sums: dict[str, Any], now: dict, loss: float, target: Target, tried: bool) -> Noise:
    number, total = now["number"], now["total"]
    zero: dict[str, Any] = {
        "B": torch.zeros_like(target.B, dtype=torch.float64),
        "A": torch.zeros_like(target.A, dtype=torch.float64),
    }
    mean: dict[str, Tensor] = {half: sums[half] / total if sums else zero[half] for half in "BA"}
    square: dict[str, Tensor] = {half: sums[f"square_{half}"] / total if sums else zero[half] for half in "BA"}
    left = sum(float(square[half].sum() - mean[half].square().sum()) for half in "BA")
    spread = math.sqrt(max(0.0, left) * number / (number - 1)) if number > 1 else None
    new = None
    if tried and "along" in sums and number // 2 > 1:
        count = number // 2
        middle = sums["along"] / now["tried"]
        error = math.sqrt(max(0.0, sums["along_square"] / now["tried"] - middle**2) / (count - 1))
        new = middle / error if error else math.copysign(math.inf, middle) if middle else 0.0
    return Noise(loss, number, spread, square["B"].sqrt(), square["A"].sqrt(), new)
