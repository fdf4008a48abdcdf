"""Kim et al.'s certificate for every layer of a trained adapter: stationary, rank-saturated, or neither.

With decay lambda on the factors, training minimises ``F = L(W0 + scale B A) + (lambda/2)(||B||^2 + ||A||^2)``.  Where
that is stationary the factors are balanced and ``E = scale ||dL/dW||_2 / lambda`` decides:

    not stationary    unbalanced factors, or a gradient that is not small: the theorem is silent
    saddle            E > 1 and the update has a lower rank than its factors allow: training has not ended
    rank-saturated    E > 1 and full rank: one more rank would lower the objective
    stationary        E <= 1: the optimality condition of the problem with the nuclear norm and no bound on the rank

For a loss that is convex in this layer's W, the last one means: no better adapter of any rank, the others fixed; and
at every point, stationary or not, no adapter of any rank lowers F by more than ``gap``, which is ``(1 - 1/E) F`` at a
stationary one.  For other losses both are local: they speak of directions, not of distances.

**Minibatches.**  Training on batches hovers around a stationary point.  Where the gradient is no larger than the error
that the mean over one pass of random batches has (:mod:`lorabook.adapters.noise`), no pass can tell it from 0, and a
verdict ends with "within noise".  Hovering moves G along the columns of B and the rows of A, so the excess outside of
these, ``outside``, then stands for E.  A gradient above that and below one batch's deviation is hovering at a large
rate, or slow movement: a smaller rate tells.

**AdamW.**  Its decay is no penalty.  Without noise it minimises L on the box ``|entries| <= 1/lambda``, and with noise
it rests where ``g + lambda s * theta = 0``, with s the root mean square of a coordinate's batch gradients: a penalty
whose decay is ``lambda s``, mostly tiny.  With ``decoupled=True`` this is what has to be small, the excess is relative
to the mean of ``lambda s``, and ``gap`` bounds what any adapter of no larger nuclear norm gains.  Whether one more rank
would help is tried: the best new direction u v^T of every other batch, on the batches between.  ``new`` is the mean of
``u^T G v`` there over its error; above SURE the verdict is rank-saturated.

Holds when: the batches are the whole training set, of the size that training had, without dropout.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorabook import checks
from lorabook.adapters.full_gradient import length, reduced
from lorabook.adapters.inspect import measure
from lorabook.adapters.noise import Half, Noise, batch_noise
from lorabook.adapters.targets import Target, describe, sort_out
from lorabook.kim import certificate

NOT_STATIONARY, SADDLE, RANK_SATURATED, STATIONARY = "not stationary", "saddle", "rank-saturated", "stationary"
WITHIN_NOISE = ", within noise"
LEAST = 6  # batches, from which on a new direction is tried
SURE = 3.0  # errors from 0 that a new direction has to gain on the batches it was not taken from


class LayerVerdict(NamedTuple):
    """What the gradient over all batches says about one layer; None where it cannot be told."""

    excess: float  # E = scale ||dL/dW||_2 / lambda
    slope: float  # gradient of the objective over the size of its decay part, 0 at a stationary point
    imbalance: float  # ||B^T B - A A^T||_F / ||A A^T||_F, 0 at a stationary point under a penalty
    verdict: str
    outside: float  # the excess of dL/dW outside the columns of B and the rows of A
    noise: float | None  # gradient of the objective over its error in one pass of random batches; up to 1 it is noise
    gap: float | None  # no adapter lowers the objective by more, where the loss is convex in the layer
    share: float | None  # the gap over the objective
    new: float | None  # under AdamW: what a new direction gains on other batches, over its error


def certify(
    model: nn.Module,
    batches: Iterable,
    weight_decay: float,
    *,
    decoupled: bool = False,
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
        weight_decay: lambda > 0 that the factors were trained with; may be 0 where it is decoupled.
        decoupled: the decay is AdamW's own and no penalty in the loss.
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
    options: dict[str, Any] = {
        "decoupled": decoupled,
        "loss": loss,
        "passes": passes,
        "progress": progress,
        "left": left,
    }
    said = certify_layers(model, found, batches, weight_decay, tolerance, **options) if found else {}
    if not said:
        raise ValueError(f"No module can be certified: {describe(left)}.")
    if left:
        warnings.warn(f"{len(left)} of {len(left) + len(said)} modules get no verdict: {describe(left)}.", stacklevel=2)
    return said


def certify_layers(
    model: nn.Module,
    layers: dict[str, Target],
    batches: Iterable,
    weight_decay: float,
    tolerance: float,
    *,
    decoupled: bool = False,
    **reading,
) -> dict[str, LayerVerdict]:
    """:func:`certify` for any model in which the update of ``layers`` is in force, however it computes them."""
    if not (decoupled and weight_decay == 0):
        checks.positive(weight_decay, "The weight decay")
    checks.positive(tolerance, "The tolerance")
    weights = {name: layer.weight for name, layer in layers.items()}
    noise: dict[str, Noise] = {}
    if not isinstance(batches, Iterator):  # what can be read once only is left for the gradient
        sweeps = {key: reading.get(key) for key in ("loss", "progress")}
        tried = None
        if decoupled and (length(batches) or 0) >= LEAST:
            first = lambda name, G: steepest(layers[name], layers[name].matrix(G))
            tried = reduced(model, weights, Half(batches), first, passes=reading.get("passes"), left={}, **sweeps)
        noise = batch_noise(model, layers, batches, directions=tried, **sweeps)
    rule = judge_decoupled if decoupled else judge
    decide = lambda name, G: rule(layers[name], layers[name].matrix(G), weight_decay, tolerance, noise.get(name))
    return reduced(model, weights, batches, decide, **reading)


def judge(
    layer: Target, G: Tensor, weight_decay: float, tolerance: float = 1e-2, noise: Noise | None = None
) -> LayerVerdict:
    """The verdict for one layer from its gradient G (m, n), with the decay as a penalty.

    An update below the float32 rounding of its weight counts as 0: where decay takes the factors to 0, their slope,
    which is relative to them, does not fall.
    """
    B, A, G = layer.B.detach().double(), layer.A.detach().double(), G.double()
    said = certificate.certify(B, A, G, weight_decay, layer.scale, tolerance)
    update = measure("", layer.B.detach(), layer.A.detach(), layer.scale)
    gone = update.norm <= torch.finfo(torch.float32).eps * float(layer.weight.detach().norm())
    outside = layer.scale * float(torch.linalg.matrix_norm(beyond(B, A, G), 2)) / weight_decay
    size = math.hypot(float(B.norm()), float(A.norm()))
    moving = _over(said.slope * weight_decay * size, noise)
    full = RANK_SATURATED if update.rank == min(*B.shape, A.shape[1]) else SADDLE
    if said.verdict == certificate.OPTIMAL or gone and said.excess <= 1 + tolerance:
        word = STATIONARY
    elif said.verdict == certificate.SATURATED:
        word = full
    elif moving is not None and moving <= 1:
        word = (STATIONARY if outside <= 1 + tolerance else full) + WITHIN_NOISE
    else:
        word = NOT_STATIONARY
    gap = share = None
    if noise and noise.loss >= 0:
        gap = certificate.gap_bound(noise.loss, B, A, G, weight_decay, layer.scale)
        objective = noise.loss + weight_decay / 2 * size**2
        share = gap / objective if objective else 0.0
    return LayerVerdict(said.excess, said.slope, said.imbalance, word, outside, moving, gap, share, None)


def judge_decoupled(
    layer: Target, G: Tensor, weight_decay: float, tolerance: float = 1e-2, noise: Noise | None = None
) -> LayerVerdict:
    """The verdict for one layer from its gradient G (m, n), with AdamW's decay; see the top of this module."""
    B, A, G = layer.B.detach().double(), layer.A.detach().double(), G.double()
    update = measure("", layer.B.detach(), layer.A.detach(), layer.scale)
    theta = torch.cat([B.flatten(), A.flatten()])
    g = layer.scale * torch.cat([(G @ A.mT).flatten(), (B.mT @ G).flatten()])
    # one batch, or none that was looked at: Adam's denominator is then the gradient itself
    s = torch.cat([noise.rms_B.flatten(), noise.rms_A.flatten()]) if noise else g.abs()
    pull = weight_decay * s * theta
    size = float(theta.norm())
    effective = float((theta * pull).sum()) / size**2 if size else 0.0
    top, over = float(torch.linalg.matrix_norm(G, 2)), lambda value: value / effective if effective else math.inf
    new = float(torch.linalg.matrix_norm(beyond(B, A, G), 2))
    moving = _over(float((g + pull).norm()), noise)
    loss = noise.loss if noise and noise.loss > 0 else None
    nuclear = sum(update.singular_values)
    # the change of L to first order, if the factors moved by their own size
    slope = float((g + pull).norm()) * size / (loss if loss else max(top * nuclear, 1e-300))
    resting = slope <= tolerance
    if not resting and not (moving is not None and moving <= 1):
        word = NOT_STATIONARY
    else:
        full = RANK_SATURATED if update.rank == min(*B.shape, A.shape[1]) else SADDLE
        if noise and noise.new is not None:
            word = full if noise.new > SURE else STATIONARY
        else:  # too few batches to try: the first-order gain, over the loss, of a new direction as large as X
            word = full if loss and new * nuclear / loss > tolerance else STATIONARY
        word += "" if resting else WITHIN_NOISE
    gap = certificate.same_size_bound(B, A, G, layer.scale)
    gap = min(gap, loss) if loss else gap
    excess, outside, sure = over(layer.scale * top), over(layer.scale * new), noise.new if noise else None
    return LayerVerdict(excess, slope, update.imbalance, word, outside, moving, gap, gap / loss if loss else None, sure)


def steepest(layer: Target, G: Tensor) -> tuple[Tensor, Tensor]:
    """u (m) and v (n), the leading singular pair of G (m, n) outside the factors: the new direction that gains most."""
    G = beyond(layer.B.detach().double(), layer.A.detach().double(), G.double())
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    return U[:, 0], Vh[0]


def beyond(B: Tensor, A: Tensor, G: Tensor) -> Tensor:
    """``(I - P) G (I - Q)`` (m, n), with P and Q the projectors on the columns of B and the rows of A."""
    P, Q = _basis(B), _basis(A.mT)
    G = G - P @ (P.mT @ G)
    return G - (G @ Q) @ Q.mT


def _basis(columns: Tensor) -> Tensor:
    """Orthonormal basis of what ``columns`` (m, r) span, up to rounding."""
    U, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return U[:, s > 1e-12 * s[:1]]


def _over(gradient: float, noise: Noise | None) -> float | None:
    """A gradient of the factors over its error in one pass of random batches."""
    if noise is None or noise.spread is None:
        return None
    error = noise.spread / math.sqrt(noise.batches)
    return gradient / error if error else (math.inf if gradient else 0.0)
