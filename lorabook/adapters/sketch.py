"""The leading part of every layer's full gradient in two sweeps over the batches, no gradient formed.

For a layer with inputs X (T, n) and output gradients D (T, m) over the T tokens of a batch, ``G_b = D^T X``.  The full
gradient is a sum over batches, and so is what a matrix of few columns sees of it:

    first sweep    Y = G Omega = sum_b w_b D^T (X Omega),   Omega (n, width) Gaussian,   Q = orth(Y)
    second sweep   C = Q^T G   = sum_b w_b (D Q)^T X

and ``G ~ Q C``.  A parameter that no linear layer holds, as of fused experts, lets backward form ``G_b``, one parameter
at a time, and takes of it what it needs.  Of the layer's work in forming G this takes ``width * (m + n) / (m n)`` a
sweep, and of memory ``(m + n) * width``; a layer whose gradient is no larger than that is summed whole, in the first
sweep.  On all-MiniLM-L6-v2, width 128, a sweep takes 0.82 to 0.91 of forward and backward with the gradients of the
same weights, and the start with all that belongs to it 1.80 to 1.93 (``python -m benchmarks.start time``).

Since C is exact, so is the energy ``sum_i sigma_i(C)^2`` that a start of rank r keeps.  What is missing follows from
the residual ``||G - Q C||_F^2 = kappa * width``, which the first sweep tells (each column against the others): of a
singular value's energy a random projection keeps the share ``sigma^2 / (sigma^2 + kappa)``.

Share of the first-order fall kept, per cent, mean and worst of the 36 layers of all-MiniLM-L6-v2, rank 8, 1,024
sentences (``python -m benchmarks.start accuracy``); the single view of Tropp et al. reads the batches once, with
sketches of two widths k and l:

    sketch                      film reviews   product reviews   tweets       editorials
    two sweeps, width  64       98.42  92.3    99.66  97.2       99.90  99.7  100.0  100.0
    two sweeps, width  96       99.23  95.8    99.86  98.8       99.96  99.8  100.0  100.0
    two sweeps, width 128       99.63  98.1    99.93  99.5       99.98  99.9  100.0  100.0
    one sweep,  k  64, l 129    97.74  87.3    99.63  97.5       99.92  99.6  100.0   99.9
    one sweep,  k 128, l 257    99.55  96.7    99.93  99.5       99.97  99.8  100.0  100.0

On the film reviews rank 4 takes a width of 96 (99.51, 97.0), rank 16 of 192 (99.81, 98.9; 128 is too few with 99.39,
97.2), rank 32 of 192 (99.68, 98.2); the estimate of what is missing was 1.00 to 1.12 times the truth on average.

Three models of other kinds, ViT, GPT-2 and T5 of width 384, were made and trained for 150 steps, since no pretrained
ones were at hand (``python -m benchmarks.small``).  Their gradients have a lower rank: over 8, 64 and 1,024 examples
the default kept 100.0 % in every layer, where a width of 16 kept 96.6 to 100.0 % on average and 85.7 % in the worst.

Source: Halko, Martinsson & Tropp 2011, Algorithm 4.1, on a sum as in Tropp, Yurtsever, Udell & Cevher 2017;
Derezinski, Liang, Liao & Mahoney 2020 for kappa; Epperly & Tropp 2024 for a column against the others.
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
    kappa: float = 0.0  # ||G - Q C||_F^2 / width, estimated

    def energy_kept(self, rank: int) -> float:
        """The estimated share of the exact best rank-r part's energy, ``sum_{i <= r} sigma_i(G)^2``, that C holds."""
        if self.Q is None:
            return 1.0
        held = torch.linalg.eigvalsh((self.C @ self.C.mT).double()).flip(-1)[:rank].clamp(min=0)
        # held = x^2 / (x + kappa), solved for x = sigma^2
        true = (held + (held.square() + 4 * self.kappa * held).sqrt()) / 2
        return float(held.sum() / true.sum()) if bool(true.sum() > 0) else 1.0


def orthonormal(Y: Tensor, columns: int) -> tuple[Tensor, float]:
    """Q (m, width) for ``Y = G Omega / sqrt(n)``, and ``kappa`` from the distance of each column from the others."""
    Q, R = torch.linalg.qr(Y)
    R = R.double()
    # a column that adds nothing, as in a matrix of lower rank than the width, leaves nothing over
    least = 1e-60 + 1e-30 * R.diagonal().abs().max()
    R = R + torch.diag(torch.where(R.diagonal().abs() < least, least, 0))
    inverse = torch.linalg.solve_triangular(R, torch.eye(len(R), dtype=R.dtype, device=R.device), upper=True)
    over = 1 / inverse.square().sum(1)  # 1 / ((R^T R)^-1)_ii, the squared distance of column i from the others
    return Q, columns * float(over.mean()) / max(len(R) - 1, 1)


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
    sizes = {name: (len(one.B), one.A.shape[1]) for name, one in layers.items()}
    small = {name for name, (m, n) in sizes.items() if m * n <= widths[name] * (m + n)}
    wide = [name for name in layers if name not in small]
    read = repeated(batches, 2 if wide else 1)
    drawn: dict[tuple, Tensor] = {}
    last: list = [None, None, None]  # an input, and what became of it: queries, keys and values share theirs

    def project(name, X):
        key = X.shape[1], widths[name], X.dtype, X.device
        if key not in drawn:
            # columns of length about 1, so that nothing overflows in half precision
            drawn[key] = (normal(key[:2], generator(seed), X.device) / key[0] ** 0.5).to(X.dtype)
        mark = key, X.data_ptr(), X.shape, X._version
        if last[1] != mark:
            last[:] = X, mark, X @ drawn[key]
        return last[2]

    say = lambda number: (lambda line: progress(f"sweep {number}, {line}")) if progress else None
    keep = lambda name, X: X if name in small else project(name, X)
    # a gradient that backward forms all the same, of a parameter that no linear layer holds
    seen = lambda name, G: G if name in small else project(name, G)
    sums = _summed(model, layers, read, keep, lambda name, D: D, seen, loss, say(1))
    last.clear(), drawn.clear()
    lost = _lost(layers, sums)
    found = {name: Sketch(None, sums[name]) for name in layers if name in small and name not in lost}
    bases, kappa = {}, {}
    for name in (name for name in wide if name not in lost):
        bases[name], kappa[name] = orthonormal(sums.pop(name), layers[name].A.shape[1])
    if bases:
        again = {name: layers[name] for name in bases}
        turn = lambda name, D: D @ bases[name].to(D.dtype)
        seen = lambda name, G: bases[name].to(G.dtype).mT @ G
        cores = _summed(model, again, read, lambda name, X: X, turn, seen, loss, say(2))
        lost |= _lost(again, cores)
        found |= {name: Sketch(bases[name], cores[name], kappa[name]) for name in again if name not in lost}
    left |= {name: lost[name] for name in layers if name in lost}
    return {name: found[name] for name in layers if name in found}


def _summed(model, layers, batches, keep, turn, seen, loss, progress) -> dict[str, Tensor]:
    """``sum_b w_b turn(D_b)^T keep(X_b)`` by layer, over the sum of the weights, in one sweep; what is reached.

    Of a parameter that no linear layer holds ``seen(G_b)`` in its place.
    """
    sums: dict[str, Tensor] = {}
    now = {"weight": 0.0, "total": 0.0}
    inner: dict[nn.Parameter, list[str]] = {}
    for name, one in layers.items():
        if one.parameter:
            inner.setdefault(one.weight, []).append(name)

    def watch(names):
        def hook(weight):
            gradient, weight.grad = weight.grad, None
            for name in names:
                part = seen(name, layers[name].matrix(gradient))
                if name not in sums:
                    exact = weight.dtype == torch.float64
                    sums[name] = part.new_zeros(part.shape, dtype=torch.float64 if exact else torch.float32)
                sums[name].add_(part, alpha=now["weight"])

        return hook

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

    bases = {name: one.layer.get_base_layer() for name, one in layers.items() if not one.parameter}
    with frozen(model, inner):
        hooks = [base.register_forward_hook(tap(name), with_kwargs=True) for name, base in bases.items()]
        hooks += [weight.register_post_accumulate_grad_hook(watch(names)) for weight, names in inner.items()]
        try:
            for now["weight"], _, now["total"] in sweep(model, batches, loss, progress):
                pass
        finally:
            for hook in hooks:
                hook.remove()
            batches.rewind()
    return {name: part.div_(now["total"]) for name, part in sums.items()}


def _lost(layers, sums) -> dict[str, str]:
    bad = {name: UNREACHED for name in layers if name not in sums}
    return bad | {name: NAN for name, part in sums.items() if not bool(part.isfinite().all())}
