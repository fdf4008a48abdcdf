"""Kim et al.'s certificate for every layer of a trained adapter: stationary, rank-saturated, or neither.

With decay lambda on the factors, training minimises ``L(W0 + scale B A) + (lambda/2)(||B||^2 + ||A||^2)``.  Where that
is stationary the factors are balanced and ``E = scale ||dL/dW||_2 / lambda`` decides:

    not stationary    unbalanced factors, or a gradient that is not small: the theorem is silent
    saddle            E > 1 and the update has a lower rank than its factors allow: training has not ended
    rank-saturated    E > 1 and full rank: one more rank would lower the objective
    stationary        E <= 1: the optimality condition of the problem with the nuclear norm and no bound on the rank

For a loss that is convex in this layer's W, the last one means: no better adapter of any rank, the others fixed.

Holds when: the decay is a penalty in the loss or in SGD (``weight_decay``), not AdamW's decoupled decay; the batches
are the whole training set, without dropout.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorabook import checks
from lorabook.adapters.full_gradient import reduced
from lorabook.adapters.inspect import measure
from lorabook.adapters.targets import Target, describe, sort_out
from lorabook.kim import certificate

NOT_STATIONARY, SADDLE, RANK_SATURATED, STATIONARY = "not stationary", "saddle", "rank-saturated", "stationary"


class LayerVerdict(NamedTuple):
    """What the gradient over all batches says about one layer."""

    excess: float  # E = scale ||dL/dW||_2 / lambda
    slope: float  # gradient of the objective over the size of its decay part, 0 at a stationary point
    imbalance: float  # ||B^T B - A A^T||_F / ||A A^T||_F, 0 at a stationary point
    verdict: str


def certify(
    model: nn.Module,
    batches: Iterable,
    weight_decay: float,
    *,
    loss: Callable | None = None,
    adapter: str | None = None,
    tolerance: float = 1e-2,
    passes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, LayerVerdict]:
    """The certificate of every layer of a PEFT model, at its present factors.

    Args:
        model: PEFT model with one LoRA adapter; it is left as it was.  A warning names modules without a certificate.
        batches: a list or DataLoader over the whole training set.
        weight_decay: lambda > 0 that the factors were trained with.
        loss, adapter, passes, progress: as for :func:`lorabook.adapters.lora_one_`.
        tolerance: on the slope, the imbalance, and on E - 1.

    Raises:
        ValueError: as :func:`lorabook.adapters.lora_one_`, and a decay or tolerance that is not positive.
    """
    found, left = sort_out(model, adapter)
    if any(target.layer.disable_adapters for target in found.values()):
        raise ValueError("The adapter is disabled: the gradient must be taken with it in force.")
    peft: Any = model.base_model
    active = list(peft.active_adapters)
    if len(active) != 1 or adapter not in (None, active[0]):
        raise ValueError(
            f"The gradient is that of the active adapters ({', '.join(active)}): activate {adapter!r} alone first."
        )
    options = {"loss": loss, "passes": passes, "progress": progress, "left": left}
    said = certify_layers(model, found, batches, weight_decay, tolerance, **options) if found else {}
    if not said:
        raise ValueError(f"No module can be certified: {describe(left)}.")
    if left:
        warnings.warn(f"{len(left)} of {len(left) + len(said)} modules get no verdict: {describe(left)}.", stacklevel=2)
    return said


def certify_layers(
    model: nn.Module, layers: dict[str, Target], batches: Iterable, weight_decay: float, tolerance: float, **reading
) -> dict[str, LayerVerdict]:
    """:func:`certify` for any model in which the update of ``layers`` is in force, however it computes them."""
    checks.positive(weight_decay, "The weight decay"), checks.positive(tolerance, "The tolerance")
    weights = {name: layer.weight for name, layer in layers.items()}
    decide = lambda name, G: judge(layers[name], layers[name].matrix(G), weight_decay, tolerance)
    return reduced(model, weights, batches, decide, **reading)


def judge(layer: Target, G: Tensor, weight_decay: float, tolerance: float = 1e-2) -> LayerVerdict:
    """The verdict for one layer from its gradient G (m, n).

    An update below the float32 rounding of its weight counts as 0: where decay takes the factors to 0, their slope,
    which is relative to them, does not fall.
    """
    B, A = layer.B.detach(), layer.A.detach()
    said = certificate.certify(B.double(), A.double(), G.double(), weight_decay, layer.scale, tolerance)
    update = measure("", B, A, layer.scale)
    gone = update.norm <= torch.finfo(torch.float32).eps * float(layer.weight.detach().norm())
    if said.verdict == certificate.OPTIMAL or gone and said.excess <= 1 + tolerance:
        word = STATIONARY
    elif said.verdict == certificate.SILENT:
        word = NOT_STATIONARY
    else:
        word = RANK_SATURATED if update.rank == min(*B.shape, A.shape[1]) else SADDLE
    return LayerVerdict(said.excess, said.slope, said.imbalance, word)
