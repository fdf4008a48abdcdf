"""LoRA-One's start for a PEFT model: the factors are set from the full gradient at the pretrained weights.

With ``G = -grad L(W0)`` (m, n) over all batches, ``U S V^T`` its leading r singular triplets, ``s_1`` the first
singular value, and PEFT's ``W = W0 + scale * B @ A`` (scale is alpha / r, or alpha / sqrt(r) with rsLoRA):

    spectral   scale * B A = gamma * U S V^T, balanced           the start of the theorems: one step of size gamma
    slides     B = - sqrt(gamma) U, A = sqrt(gamma) V^T           Algorithm 1: SVD of +grad, S dropped, and
               W0 <- W0 - scale * B A                             the function is unchanged at the start
    code       B = U (S / s_1)^{1/2} / sqrt(gamma),               the released code ("stable" scale, gamma 128):
               A = (S / s_1)^{1/2} V^T / sqrt(gamma)              no offset, so the function changes at once

What was published changed over time; ``code`` is the last line, commit 01bba05, which the book cites:

    published                SVD of   on U and on V^T                      gamma         decomposition
    January 2025, e4d9c27    -grad    (S / s_1)^{1/2} m^{1/4} gamma^{-1/2}  16            q = 4 r, 4 iterations
    February 2025, a093625   +grad    m^{1/4} gamma^{-1/2}
    May 2025 to 01bba05      -grad    (S / s_1)^{1/2} gamma^{-1/2}          16, then 128  q = 512, 16 iterations
    README                   -grad    S gamma^{-1/2}

The released code stores every gradient and takes the triplets from ``torch.svd_lowrank``.  Here no gradient is formed:
two sweeps over the batches take a sketch of each (:mod:`lorabook.adapters.sketch`).  The exact modes form them, and let
each go as soon as its factors are known.  What is random is drawn apart from torch's own generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorabook import checks
from lorabook.adapters.full_gradient import length, reduced
from lorabook.adapters.moved_base import offset, refuse_moved, take_off
from lorabook.adapters.sketch import sketched
from lorabook.adapters.targets import Target, describe, sort_out
from lorabook.device import generator, normal
from lorabook.lora_one.starts import algorithm_start, spectral_init

FORMS = ("spectral", "slides", "code")
ITERATIONS = 16
WIDTH, PER_RANK = 96, 4  # columns of a sketch, and more for each rank
ZERO = "the gradient is 0: there is nothing to start from"


class Started(dict):
    """By module that was started, the leading r singular values of the gradient, float64.

    Of fused experts each counts, by the name of their parameter and its number: ``mlp.experts.down_proj[3]``.

    left: by module that keeps PEFT's start, the reason.
    kept: by module that was started, the share of the exact start's first-order fall of the loss, estimated where a
        sketch was taken and 1 elsewhere.
    """

    left: dict[str, str]
    kept: dict[str, float]


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
    exact: bool = False,
    width: int | None = None,
) -> Started:
    """Set every pair of factors of a PEFT LoRA model to LoRA-One's start, in place.

    The gradient is taken without the adapter and with dropout off.  The optimiser must be made afterwards, or hold no
    state yet.  Fused experts are started one by one, and DoRA's magnitudes set so that its weight is that of LoRA.  If
    anything fails, the model is as it was.  A module that cannot be started, or whose gradient is 0 or not finite,
    keeps PEFT's start; a warning names it with the reason.

    Args:
        model: PEFT model with one LoRA adapter, on the pretrained weights.
        batches: a list or DataLoader of dictionaries for ``model(**batch)``, with labels: all the training data, or a
            fixed part of it.  One batch is read once, several are read twice, and must be the same each time.
        gamma: the scale; what it means depends on the form, see above.  There is no default: try some on a part of the
            training data.
        form: one of FORMS.  Only ``slides`` changes the base weights; ``save_pretrained`` of the model then writes
            plain LoRA of rank 2 r for the pretrained ones.
        loss: ``loss(model, batch)``, the mean over the batch, or a pair of it and the number of items.
        adapter: its name, default the active one.
        passes: of the exact mode, which it asks for: less memory in more passes over the batches, or the other way
            round; see :func:`lorabook.adapters.full_gradient.reduced`.
        seed: of what is random; torch's own generator is not moved.
        progress: takes lines of text.
        exact: form every gradient instead of sketching it, as for a single batch.
        width: columns of the sketch; default 96 + 4 r, see :mod:`lorabook.adapters.sketch`.

    Raises:
        ValueError: no module can be started; a base that a start has moved (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, or
            ``slides`` before); no batches, or others in each pass; labels out of range; several batches under a loss
            that is no mean over labels; factors that the adapter's dtype cannot hold.

    Error:
        Sketched: ``kept`` estimates what is lost; on real gradients of 1,024 sentences it was 0.4 % of the first-order
        fall on average and 2 % in the worst layer, on the hardest of four tasks.  Exact, or one batch: the product is
        that of the exact decomposition to about 1e-5 (float32), more where singular value r equals number 4 r.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    checks.positive(gamma, "gamma")
    if width is not None:
        checks.count(width, "width", 1)
    found, left = sort_out(model, adapter, start=True)
    refuse_moved(model)
    if form == "slides":
        left |= {name: "adapts a parameter, which slides does not move" for name in found if found[name].parameter}
        found = {name: target for name, target in found.items() if not target.parameter}
    for name, target in list(found.items()):
        rank, least = target.B.shape[1], min(len(target.B), target.A.shape[1])
        if rank > least:
            left[name] = f"the rank {rank} is above the smaller dimension {least}"
            del found[name]
    if not found:
        raise ValueError(f"No module can be started: {describe(left)}.")
    ranks = {name: target.B.shape[1] for name, target in found.items()}
    kept: dict[str, float] = {}

    def start(name, G, Q=None):
        B, A, s = factors(G, ranks[name], float(gamma), form, found[name].scale, seed, Q)
        return B.to(found[name].B.dtype), A.to(found[name].A.dtype), s

    reading: Any = {"loss": loss, "progress": progress, "left": left}
    with without_adapters(model):
        if exact or passes is not None or length(batches) == 1:
            ready = _exactly(model, found, batches, start, passes, reading)
        else:
            widths = {name: max(rank, width or WIDTH + PER_RANK * rank) for name, rank in ranks.items()}
            parts = sketched(model, found, batches, widths, seed=seed, **reading)
            kept = {name: part.energy_kept(ranks[name]) for name, part in parts.items()}
            ready = {name: start(name, part.C, part.Q) for name, part in parts.items()}
    drop_zeros(ready, left, found)
    if not ready:
        raise ValueError(f"No module can be started: {describe(left)}.")
    put_in(model, adapter, {name: found[name] for name in ready}, ready, form == "slides")
    if left:
        warnings.warn(
            f"{len(left)} of {len(left) + len(ready)} modules keep PEFT's start: {describe(left)}.", stacklevel=2
        )
    started = Started({name: s for name, (_, _, s) in ready.items()})
    started.left, started.kept = left, {name: kept.get(name, 1.0) for name in ready}
    if progress and kept:
        worst = min(started.kept, key=lambda name: started.kept[name])
        mean = sum(started.kept.values()) / len(started)
        progress(
            f"the sketch keeps about {100 * mean:.1f} % of the exact start's first-order fall, and "
            f"{100 * started.kept[worst]:.1f} % in {worst}"
        )
    return started


def _exactly(model, found: dict[str, Target], batches, start, passes, reading) -> dict[str, tuple]:
    """``start(name, G)`` of every gradient; the experts of one parameter share theirs."""
    rooms: dict[int, list[str]] = {}
    for name, target in found.items():
        rooms.setdefault(id(target.weight), []).append(name)
    names = {room[0]: room for room in rooms.values()}
    every = lambda first, G: {name: start(name, found[name].matrix(G)) for name in names[first]}
    reading["left"], left = {}, reading["left"]
    weights = {first: found[first].weight for first in names}
    ready = reduced(model, weights, batches, every, passes=passes, **reading)
    left |= {name: why for first, why in reading["left"].items() for name in names[first]}
    return {name: one for room in ready.values() for name, one in room.items()}


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Every adapter of the model off; on leaving, also by an error, everything is as it was."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    switched = [one for one in model.modules() if isinstance(one, BaseTunerLayer) and not one.disable_adapters]
    try:
        for layer in switched:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in switched:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@torch.no_grad()
def put_in(model: Any, adapter: str | None, targets: dict[str, Target], ready: dict, offset_too: bool) -> None:
    """Write the factors into the model, and take their product off the base weights, once all are known to fit."""
    for name, target in targets.items():
        B, A, _ = ready[name]
        # the base weight may be stored more coarsely
        moved = offset(target, B, A) if offset_too else target.matrix(target.weight)
        if not all(bool(part.isfinite().all() and part.any()) for part in (B, A)) or not moved.isfinite().all():
            raise ValueError(f"{name}: the start does not fit into {target.B.dtype}; choose another gamma.")
    for name, target in targets.items():
        target.B.copy_(ready[name][0])
        target.A.copy_(ready[name][1])
    if offset_too:
        take_off(model, adapter or model.base_model.active_adapters[0], targets)
    for target in targets.values():
        if target.magnitudes is not None:
            W = target.matrix(target.weight).double() + target.scale * (target.B.double() @ target.A.double())
            target.magnitudes.copy_(W.norm(dim=1))


def drop_zeros(ready: dict[str, tuple[Tensor, Tensor, Tensor]], left: dict[str, str], found: dict) -> None:
    """Move modules whose gradient is 0, or the rounding of one, from ``ready`` to ``left``.

    Where a softmax has one entry the gradient before it is a difference of equal numbers.  What a fused attention
    leaves of it is some 1e-9 (float32) of the largest gradient; the smallest that means something was seen at 1e-6.
    """
    largest = max((float(s[0]) for _, _, s in ready.values()), default=0.0)
    for name, (_, _, s) in list(ready.items()):
        exact = found[name].weight.dtype == torch.float64
        rounding = torch.finfo(torch.float64 if exact else torch.float32).eps / 4
        if not float(s[0]) > rounding * largest:
            left[name] = ZERO
            del ready[name]


def factors(
    G: Tensor, rank: int, gamma: float, form: str, scale: float = 1.0, seed: int = 0, Q: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The start's factors for a layer with gradient G (m, n), and the leading singular values.

    The published formulas are applied to a core, since they commute with orthonormal changes of basis.  It comes from
    subspace iteration and has 4 r columns at most, or from a sketch.

    Args:
        rank: r.  gamma, form: as for :func:`lora_one_`.  scale: the adapter's.  seed: of the random start.
        Q: (m, width) orthonormal columns; the gradient is then Q G, with G (width, n).

    Returns:
        B (m, r), A (r, n), s (r,), float64; all 0 for G = 0.

    Source: Halko, Martinsson & Tropp 2011, Algorithm 4.4.
    """
    if Q is not None:
        left, (right, R) = Q.double(), torch.linalg.qr(G.double().mT)
        core = R.mT
    else:
        width = min(max(4 * rank, rank + 8), *G.shape)
        V = normal((G.shape[1], width), generator(seed), G.device).to(G.dtype)
        for _ in range(ITERATIONS):
            P = torch.linalg.qr(G @ V).Q
            V = torch.linalg.qr(G.mT @ P).Q
        left, core = torch.linalg.qr((G @ V).double())
        right = V.double()
    B, A, s = published(-core, rank, gamma, form, scale)
    return left @ B, A @ right.mT, s


def published(core: Tensor, rank: int, gamma: float, form: str, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The form's factors of a negative gradient, or of its core, and the leading singular values, float64."""
    s = torch.linalg.svdvals(core)[:rank]
    if not float(s[0]) > 0:
        return core.new_zeros(len(core), rank), core.new_zeros(rank, core.shape[1]), s
    if form == "spectral":
        return *spectral_init(core, rank, gamma / scale), s
    return *algorithm_start(core, rank, gamma, form)[:2], s
