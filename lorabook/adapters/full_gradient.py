"""The gradient of the whole-data loss with respect to some weights, without ever holding it whole.

``G = sum_b w_b G_b`` over the batches.  Backward hands over one weight's ``G_b`` at a time; a hook reduces it at
once to products with thin matrices, which are linear in ``G_b`` and so can be added up, and frees it.  What is
held is one layer's gradient and, per layer, matrices of a few columns.

``leading_pairs`` finds the leading singular triplets of G that way, by subspace iteration: a pass over the batches
gives ``G Q``, the next one ``G^T P``.

Source: Halko, Martinsson & Tropp 2011, Algorithm 4.4, with every product spread over a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lorabook.checks import count
from lorabook.device import generator, normal

Reduce = Callable[[str, Tensor], tuple[Tensor, ...]]


@contextmanager
def only_these(model: nn.Module, weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Dropout off and gradients for ``weights`` alone; on leaving, also by an error, everything is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    grads = [(weight, weight.grad) for weight in weights.values()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        for weight, _ in grads:
            weight.grad = None
            weight.requires_grad_(True)
        yield
    finally:
        for weight, grad in grads:
            weight.grad = grad
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def summed(model: nn.Module, weights: dict[str, nn.Parameter], batches: Iterable, reduce: Reduce,
           loss: Callable | None = None, progress: Callable[[str], None] | None = None) -> dict[str, list[Tensor]]:
    """``sum_b w_b reduce(name, G_b)`` for every weight: one pass over the batches.

    Args:
        model: any module.  Call inside :func:`only_these`.
        weights: (m, n) parameters by name.
        batches: dictionaries for ``model(**batch)``, with labels; with ``loss``, whatever it takes.
        reduce: linear maps of a gradient (m, n), float32 or float64; they stay on its device.
        loss: ``loss(model, batch)``, the mean over the batch, or a pair of it and the number of items; default the
            model's own loss, which counts the labels other than -100.
        progress: takes one line of text per batch.

    Returns:
        The sums; the weights w_b are each batch's share of the items, so that G belongs to the mean over all.

    Raises:
        ValueError: no batch, a batch or label that does not fit, a weight that the loss does not reach, NaN.
    """
    sums: dict[str, list[Tensor]] = {}
    share = [0.0]

    def take(name):
        def hook(weight):
            gradient, weight.grad = weight.grad, None
            if gradient.dtype not in (torch.float32, torch.float64):
                gradient = gradient.float()
            pieces = reduce(name, gradient)
            if name in sums:
                for total, piece in zip(sums[name], pieces):
                    total.add_(piece, alpha=share[0])
            else:
                sums[name] = [share[0] * piece for piece in pieces]
        return hook

    hooks = [weight.register_post_accumulate_grad_hook(take(name)) for name, weight in weights.items()]
    items, read = 0.0, 0
    try:
        with torch.enable_grad():
            for batch in batches:
                mean, number = _loss(model, batch, loss, read)
                share[0] = float(number)
                mean.backward()
                items, read = items + number, read + 1
                if progress:
                    progress(f"batch {read}")
    finally:
        for hook in hooks:
            hook.remove()
    if not read:
        raise ValueError("There are no batches: the gradient needs at least one.")
    unreached = [name for name in weights if name not in sums]
    if unreached:
        raise ValueError(f"The loss does not depend on the weight of {unreached[0]}: take it out of the adapter's targets.")
    for name, pieces in sums.items():
        for piece in pieces:
            piece.div_(items)
            if not bool(torch.isfinite(piece).all()):
                raise ValueError(f"The gradient of {name} has entries that are NaN or infinite.")
    return sums


def leading_pairs(model: nn.Module, weights: dict[str, nn.Parameter], batches: Iterable, widths: dict[str, int], sweeps: int, seed: int = 0,
                  loss: Callable | None = None, progress: Callable[[str], None] | None = None,
                  extra: Reduce | None = None) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, list[Tensor]]]:
    """Thin factors with ``P Z^T`` close to G: P (m, k) orthonormal and ``Z = G^T P`` (n, k), k the weight's width.

    Args:
        model, weights, batches, loss, progress: as for :func:`summed`.
        widths: k for every weight, at most its smaller dimension; at that dimension the factors are exact.
        sweeps: pairs of passes.
        extra: further linear maps, summed in the first pass.

    Returns:
        The factors, and the extra sums.

    Error:
        A singular value ``s_i`` is too small by about ``(s_{k+1} / s_i)^{4 sweeps}`` of itself, never too large.
    """
    count(sweeps, "sweeps", 1)
    if iter(batches) is batches:
        raise ValueError("The batches are read several times: give a list or a DataLoader, not an iterator.")
    source = generator(seed)
    ends, extras = {}, {}
    for name, weight in weights.items():
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        ends[name] = torch.linalg.qr(normal((weight.shape[1], widths[name]), source, weight.device).to(dtype)).Q
    for sweep in range(sweeps):
        note = (lambda half: (lambda line: progress(f"pass {2 * sweep + half} of {2 * sweeps}, {line}")) if progress else None)  # noqa: E731
        more = extra if sweep == 0 and extra else (lambda name, G: ())
        sums = summed(model, weights, batches, lambda name, G: (G @ ends[name], *more(name, G)), loss, note(1))
        starts = {name: torch.linalg.qr(pieces[0]).Q for name, pieces in sums.items()}
        extras = extras or {name: pieces[1:] for name, pieces in sums.items()}
        sums = summed(model, weights, batches, lambda name, G: (G.mT @ starts[name],), loss, note(2))
        if sweep == sweeps - 1:
            return {name: (starts[name], sums[name][0]) for name in weights}, extras
        ends = {name: torch.linalg.qr(pieces[0]).Q for name, pieces in sums.items()}


def _loss(model, batch, loss, read):
    if loss is None:
        if not isinstance(batch, dict) or not isinstance(batch.get("labels"), Tensor):
            raise ValueError(f"Batch {read + 1} must be a dictionary with a tensor of labels; got {type(batch).__name__}.")
        home = next(model.parameters()).device
        batch = {key: value.to(home) if isinstance(value, Tensor) else value for key, value in batch.items()}
        found, number = model(**batch).loss, _labelled(model, batch["labels"], read)
    else:
        found = loss(model, batch)
        found, number = found if isinstance(found, tuple) else (found, 1)
        number = float(number)
    if not isinstance(found, Tensor) or found.ndim or not bool(torch.isfinite(found)):
        raise ValueError(f"The loss of batch {read + 1} must be one finite number; got {found!r}.")
    if not number > 0:
        raise ValueError(f"Batch {read + 1} is empty: it has no label that counts.")
    if not found.requires_grad:
        raise ValueError(f"The loss of batch {read + 1} does not depend on the weights of the adapter's targets.")
    return found, number


def _labelled(model, labels, read):
    """How many labels count; a whole-number label must be a class, or a token of a model that writes text."""
    if labels.is_floating_point():
        return labels.shape[0]
    counted = labels[labels != -100]
    config = getattr(model, "config", None)
    writes = labels.ndim > 1 and hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None
    classes = getattr(config, "vocab_size" if writes else "num_labels", None)
    if counted.numel() and classes and classes > 1 and not (0 <= int(counted.min()) and int(counted.max()) < classes):
        raise ValueError(f"The labels of batch {read + 1} must lie between 0 and {classes - 1}; got {int(counted.min())} to {int(counted.max())}.")
    return counted.numel()
