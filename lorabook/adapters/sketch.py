"""The leading part of every layer's full gradient in two sweeps over the batches, no gradient formed.

For a layer with inputs X (T, n) and output gradients D (T, m) over the T tokens of a batch, ``G_b = D^T X``.  The full
gradient is a sum over batches, and so is what a matrix of few columns sees of it:

    first sweep    Y = G Omega = sum_b w_b D^T (X Omega),   Omega (n, width) Gaussian,   Q = orth(Y)
    second sweep   C = Q^T G   = sum_b w_b (D Q)^T X

and ``G ~ Q C``.  Of the layer's work in forming G this takes ``width * (m + n) / (m n)`` a sweep, and of memory
``(m + n) * width``; a layer whose gradient is no larger than that is summed whole, in the first sweep.

Since C is exact, so is the energy ``sum_i sigma_i(C)^2`` that a start of rank r keeps.  The first j columns of Q are
those that j columns of Omega would have given, so that its growth with j is known too: the energy that is missing is
extrapolated from that at width / 4, width / 2 and width.

Source: Halko, Martinsson & Tropp 2011, Algorithm 4.1 and section 5.1, on a sum as in Tropp, Yurtsever, Udell & Cevher
2017.  Their single view needs one sweep and, for the same share of the energy, several times the width
(``python -m benchmarks.start``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorabook.adapters.full_gradient import NAN, UNREACHED, frozen, repeated, sweep
from lorabook.adapters.targets import Target
from lorabook.device import generator, normal


class Sketch(NamedTuple):
    """``G ~ Q @ C`` for one layer; exact if Q is the identity."""

    Q: Tensor | None  # (m, width) orthonormal columns; None for a gradient that was summed whole
    C: Tensor  # (width, n), or G itself

    def energy_kept(self, rank: int) -> float:
        """The estimated share of the exact best rank-r part's energy, ``sum_{i <= r} sigma_i(G)^2``, that C holds."""
        if self.Q is None:
            return 1.0
        width = len(self.C)
        quarter, half, whole = (energy(self.C[: max(rank, width // part)], rank) for part in (4, 2, 1))
        if not whole > 0:
            return 1.0
        # the gain falls by the same factor with each doubling, at least by half
        fall = min(max((whole - half) / max(half - quarter, 1e-30 * whole), 0.0), 0.5)
        return whole / (whole + (whole - half) * fall / (1 - fall))


def energy(matrix: Tensor, rank: int) -> float:
    """``sum_{i <= rank} sigma_i^2``."""
    return float(torch.linalg.eigvalsh((matrix @ matrix.mT).double()).flip(-1)[:rank].clamp(min=0).sum())


def sketched(
    model: nn.Module,
    layers: dict[str, Target],
    batches: Iterable,
    widths: dict[str, int],
    *,
    loss: Callable | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    left: dict[str, str],
) -> dict[str, Sketch]:
    """The sketch of every layer's full gradient (m, n), float32, or float64 for a float64 layer.

    Args:
        model: on leaving, also by an error, it is as it was.
        batches, loss, progress, left: as for :func:`lorabook.adapters.full_gradient.reduced`.
        widths: columns of the sketch by layer.
        seed: of Omega, which layers of the same width n share.

    Raises:
        ValueError: as :func:`lorabook.adapters.full_gradient.reduced`.
    """
    small = {name for name, one in layers.items() if one.weight.numel() <= widths[name] * sum(one.weight.shape)}
    read = repeated(batches, 1 if len(small) == len(layers) else 2)
    drawn: dict[tuple, Tensor] = {}

    def project(name, X):
        key = X.shape[1], widths[name], X.dtype, X.device
        if key not in drawn:
            # columns of length about 1, so that nothing overflows in half precision
            drawn[key] = (normal(key[:2], generator(seed), X.device) / key[0] ** 0.5).to(X.dtype)
        return X @ drawn[key]

    say = lambda number: (lambda line: progress(f"sweep {number}, {line}")) if progress else None
    keep = lambda name, X: X if name in small else project(name, X)
    sums = _summed(model, layers, read, keep, lambda name, D: D, loss, say(1))
    lost = _lost(layers, sums)
    found = {name: Sketch(None, sums[name]) for name in layers if name in small and name not in lost}
    bases = {name: torch.linalg.qr(sums[name]).Q for name in layers if name not in small and name not in lost}
    del sums
    if bases:
        again = {name: layers[name] for name in bases}
        turn = lambda name, D: D @ bases[name].to(D.dtype)
        cores = _summed(model, again, read, lambda name, X: X, turn, loss, say(2))
        lost |= _lost(again, cores)
        found |= {name: Sketch(bases[name], cores[name]) for name in again if name not in lost}
    left |= {name: lost[name] for name in layers if name in lost}
    return {name: found[name] for name in layers if name in found}


def _summed(model, layers, batches, keep, turn, loss, progress) -> dict[str, Tensor]:
    """``sum_b w_b turn(D_b)^T keep(X_b)`` by layer, over the sum of the weights, in one sweep; what is reached."""
    sums: dict[str, Tensor] = {}
    now = {"weight": 0.0, "total": 0.0}

    def add(name, kept, D):
        part = turn(name, D.reshape(-1, D.shape[-1])).mT
        if name not in sums:
            exact = layers[name].weight.dtype == torch.float64
            sums[name] = part.new_zeros(len(part), kept.shape[1], dtype=torch.float64 if exact else torch.float32)
        if part.dtype == kept.dtype == sums[name].dtype:
            sums[name].addmm_(part, kept, alpha=now["weight"])
        else:
            sums[name].add_(part @ kept.to(part.dtype), alpha=now["weight"])

    def tap(name):
        def hook(module, args, options, output):
            if not torch.is_grad_enabled():  # the first run of a checkpointed block, which is run again
                return None
            X = (args[0] if args else next(iter(options.values()))).detach()
            kept = keep(name, X.reshape(-1, X.shape[-1]))
            if not output.requires_grad:  # the graph begins here, since no weight asks for a gradient
                output = output.detach().requires_grad_().clone()
            output.register_hook(lambda D: add(name, kept, D))
            return output

        return hook

    bases = {name: one.layer.get_base_layer() for name, one in layers.items()}
    with frozen(model):
        hooks = [base.register_forward_hook(tap(name), with_kwargs=True) for name, base in bases.items()]
        try:
            for now["weight"], _, now["total"] in sweep(model, batches, loss, progress):
                pass
        finally:
            for hook in hooks:
                hook.remove()
    return {name: part.div_(now["total"]) for name, part in sums.items()}


def _lost(layers, sums) -> dict[str, str]:
    bad = {name: UNREACHED for name in layers if name not in sums}
    return bad | {name: NAN for name, part in sums.items() if not bool(part.isfinite().all())}
