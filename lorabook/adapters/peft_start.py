"""LoRA-One's start for a PEFT model: the factors are set from the full gradient at the pretrained weights.

With ``G = -grad L(W0)`` (m, n) over all batches, ``U S V^T`` its leading r singular triplets, and PEFT's
``W = W0 + scale * B @ A`` (scale is alpha / r, or alpha / sqrt(r) with rsLoRA):

    spectral   scale * B A = gamma * U S V^T, balanced           the start of the theorems: one step of size gamma
    slides     B = - sqrt(gamma) U, A = sqrt(gamma) V^T           Algorithm 1: SVD of +grad, S dropped, and
               W0 <- W0 - scale * B A                             the function is unchanged at the start
    code       B = m^{1/4} U (S / s_1)^{1/2} / sqrt(gamma),       the released code ("stable" scale, gamma 16 or more):
               A = m^{1/4} (S / s_1)^{1/2} V^T / sqrt(gamma)      no offset, so the function changes at once

The released code takes the triplets from ``torch.svd_lowrank`` of the stored gradient.  Here they come from
subspace iteration over passes, and no gradient is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lorabook.adapters.full_gradient import leading_pairs, only_these
from lorabook.adapters.peft_targets import double, targets
from lorabook.lora_one.starts import algorithm_start, check_rank, spectral_init

FORMS = ("spectral", "slides", "code")


def lora_one_(model: nn.Module, batches: Iterable, gamma: float, form: str = "spectral", *, loss: Callable | None = None,
              adapter: str | None = None, sweeps: int = 2, seed: int = 0,
              progress: Callable[[str], None] | None = None) -> dict[str, Tensor]:
    """Set every pair of factors of a PEFT LoRA model to LoRA-One's start, in place.

    The gradient is taken without the adapter and with dropout off.  The optimiser must be made afterwards, or hold no
    state yet.  If anything fails, the model is as it was.

    Args:
        model: PEFT model with one LoRA adapter on linear layers.
        batches: a list or DataLoader of dictionaries for ``model(**batch)``, with labels; read 2 * sweeps times.
        gamma: the scale; what it means depends on the form, see above.  There is no default: try some on a part of the
            training data.
        form: one of FORMS.  Only ``slides`` changes the base weights: the adapter alone no longer describes the model.
        loss: ``loss(model, batch)``, the mean over the batch, or a pair of it and the number of items.
        adapter: its name, default the active one.
        sweeps: accuracy of the singular vectors; see :func:`lorabook.adapters.full_gradient.leading_pairs`.
        seed: of the random start of the iteration; torch's own generator is not moved.
        progress: takes lines of text.

    Returns:
        By module, the leading r singular values of the gradient, float64.

    Raises:
        ValueError: a layer that is not plain LoRA on ``nn.Linear``; no batches; labels out of range; a rank above the
            smaller dimension; a gradient that is 0 or not finite; factors that the adapter's dtype cannot hold.

    Error:
        Against the exact decomposition, the product's relative error is printed by ``python -m benchmarks.adapters``.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma must be positive and finite; got {gamma!r}.")
    found = targets(model, adapter)
    ranks = {name: target.B.shape[1] for name, target in found.items()}
    for name, target in found.items():
        try:
            check_rank(ranks[name], *target.weight.shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    weights = {name: target.weight for name, target in found.items()}
    widths = {name: min(max(4 * ranks[name], ranks[name] + 8), *weight.shape) for name, weight in weights.items()}
    with only_these(model, weights):
        switched = [target.layer for target in found.values() if not target.layer.disable_adapters]
        try:
            for layer in switched:
                layer.enable_adapters(False)
            pairs, _ = leading_pairs(model, weights, batches, widths, sweeps, seed, loss, progress)
        finally:
            for layer in switched:
                layer.enable_adapters(True)
    ready, values = {}, {}
    for name, target in found.items():
        B, A, values[name] = factors_from(*pairs.pop(name), ranks[name], gamma, form, target.scale)
        ready[name] = B.to(target.B.dtype), A.to(target.A.dtype)
        if not all(bool(torch.isfinite(factor).all()) for factor in ready[name]):
            raise ValueError(f"{name}: the start does not fit into {target.B.dtype}; choose another gamma.")
    with torch.no_grad():
        for name, (B, A) in ready.items():
            target = found[name]
            target.B.copy_(B)
            target.A.copy_(A)
            if form == "slides":
                offset = target.scale * (double(target.B) @ double(target.A))
                target.weight.copy_(target.weight.double() - offset)
    return values


def factors_from(P: Tensor, Z: Tensor, rank: int, gamma: float, form: str, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The start's factors from ``grad L = P Z^T``, and the leading singular values.

    The published formulas are applied to the k x k core, since they commute with orthonormal changes of basis.

    Args:
        P: (m, k) with orthonormal columns.  Z: (n, k).
        rank: r <= k.  gamma, form: as for :func:`lora_one_`.  scale: the adapter's.

    Returns:
        B (m, r), A (r, n), s (r,), float64.
    """
    P, R = torch.linalg.qr(double(P))
    Q, S = torch.linalg.qr(double(Z))
    core = -(R @ S.mT)
    s = torch.linalg.svdvals(core)[:rank]
    if not float(s[0]) > 0:
        raise ValueError("The gradient is 0: there is nothing to start from.")
    if form == "spectral":
        B, A = spectral_init(core, rank, gamma / scale)
    elif form == "slides":
        B, A, _ = algorithm_start(core, rank, gamma, "slides")
    else:
        B, A, _ = algorithm_start(core, rank, gamma / math.sqrt(P.shape[0]), "code")
    return P @ B, A @ Q.mT, s
