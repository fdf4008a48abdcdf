"""LoRA-One's start for a PEFT model: the factors are set from the full gradient at the pretrained weights.

With ``G = -grad L(W0)`` (m, n) over all batches, ``U S V^T`` its leading r singular triplets, and PEFT's
``W = W0 + scale * B @ A`` (scale is alpha / r, or alpha / sqrt(r) with rsLoRA):

    spectral   scale * B A = gamma * U S V^T, balanced           the start of the theorems: one step of size gamma
    slides     B = - sqrt(gamma) U, A = sqrt(gamma) V^T           Algorithm 1: SVD of +grad, S dropped, and
               W0 <- W0 - scale * B A                             the function is unchanged at the start
    code       B = m^{1/4} U (S / s_1)^{1/2} / sqrt(gamma),       the released code ("stable" scale, gamma 16 or more):
               A = m^{1/4} (S / s_1)^{1/2} V^T / sqrt(gamma)      no offset, so the function changes at once

The released code stores every gradient and takes the triplets from ``torch.svd_lowrank``.  Here a gradient goes as
soon as its factors are known, and the random start of the iteration is drawn apart from torch's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lorabook import checks
from lorabook.adapters.full_gradient import reduced
from lorabook.adapters.targets import targets
from lorabook.device import generator, normal
from lorabook.lora_one.starts import algorithm_start, check_rank, spectral_init

FORMS = ("spectral", "slides", "code")
ITERATIONS = 16


def lora_one_(
    model: nn.Module,
    batches: Iterable,
    gamma: float,
    form: str = "spectral",
    *,
    loss: Callable | None = None,
    adapter: str | None = None,
    passes: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """Set every pair of factors of a PEFT LoRA model to LoRA-One's start, in place.

    The gradient is taken without the adapter and with dropout off.  The optimiser must be made afterwards, or hold no
    state yet.  If anything fails, the model is as it was.

    Args:
        model: PEFT model with one LoRA adapter on linear layers.
        batches: a list or DataLoader of dictionaries for ``model(**batch)``, with labels: all the training data, or a
            fixed part of it.  One batch is read once, several are read in every pass.
        gamma: the scale; what it means depends on the form, see above.  There is no default: try some on a part of the
            training data.
        form: one of FORMS.  Only ``slides`` changes the base weights: the adapter alone no longer describes the model.
        loss: ``loss(model, batch)``, the mean over the batch, or a pair of it and the number of items.
        adapter: its name, default the active one.
        passes: less memory in more passes over the batches, or the other way round; see
            :func:`lorabook.adapters.full_gradient.reduced`.
        seed: of the random start of the iteration; torch's own generator is not moved.
        progress: takes lines of text.

    Returns:
        By module, the leading r singular values of the gradient, float64.

    Raises:
        ValueError: a layer that is not plain LoRA on ``nn.Linear``; no batches; labels out of range; a rank above the
            smaller dimension; a gradient that is 0 or not finite; factors that the adapter's dtype cannot hold.

    Error:
        The product is that of the exact decomposition to about 1e-5 (float32), more where singular value r equals
        number 4 r of the gradient; ``python -m benchmarks.adapters`` prints it.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    checks.positive(gamma, "gamma")
    found = targets(model, adapter)
    ranks = {name: target.B.shape[1] for name, target in found.items()}
    for name, target in found.items():
        try:
            check_rank(ranks[name], *target.weight.shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    weights = {name: target.weight for name, target in found.items()}

    def offset(target, B, A):
        return (target.weight.double() - target.scale * (B.double() @ A.double())).to(target.weight.dtype)

    def start(name, G):
        target = found[name]
        try:
            B, A, s = factors(G, ranks[name], float(gamma), form, target.scale, seed)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        B, A = B.to(target.B.dtype), A.to(target.A.dtype)
        # slides also moves the base weight, which may be stored more coarsely
        moved = offset(target, B, A) if form == "slides" else target.weight
        if not all(bool(part.isfinite().all() and part.any()) for part in (B, A)) or not bool(moved.isfinite().all()):
            raise ValueError(f"{name}: the start does not fit into {target.B.dtype}; choose another gamma.")
        return B, A, s

    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    switched: list[Any] = [target.layer for target in found.values() if not target.layer.disable_adapters]
    try:
        for layer in switched:
            layer.enable_adapters(False)
        ready = reduced(model, weights, batches, start, loss=loss, passes=passes, progress=progress)
    finally:
        for layer in switched:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    with torch.no_grad():
        for name, (B, A, _) in ready.items():
            target = found[name]
            target.B.copy_(B)
            target.A.copy_(A)
            if form == "slides":
                target.weight.copy_(offset(target, target.B, target.A))
    return {name: s for name, (_, _, s) in ready.items()}


def factors(
    G: Tensor, rank: int, gamma: float, form: str, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The start's factors for a layer with gradient G (m, n), and the leading singular values.

    The published formulas are applied to a core of 4 r columns at most, since they commute with orthonormal changes of
    basis; the core comes from subspace iteration.

    Args:
        rank: r.  gamma, form: as for :func:`lora_one_`.  scale: the adapter's.  seed: of the random start.

    Returns:
        B (m, r), A (r, n), s (r,), float64.

    Source: Halko, Martinsson & Tropp 2011, Algorithm 4.4.
    """
    width = min(max(4 * rank, rank + 8), *G.shape)
    Q = normal((G.shape[1], width), generator(seed), G.device).to(G.dtype)
    for _ in range(ITERATIONS):
        P = torch.linalg.qr(G @ Q).Q
        Q = torch.linalg.qr(G.mT @ P).Q
    P, R = torch.linalg.qr((G @ Q).double())
    Q, core = Q.double(), -R
    s = torch.linalg.svdvals(core)[:rank]
    if not float(s[0]) > 0:
        raise ValueError("the gradient is 0: there is nothing to start from.")
    if form == "spectral":
        B, A = spectral_init(core, rank, gamma / scale)
    elif form == "slides":
        B, A, _ = algorithm_start(core, rank, gamma, "slides")
    else:
        B, A, _ = algorithm_start(core, rank, gamma / math.sqrt(G.shape[0]), "code")
    return P @ B, A @ Q.mT, s
