"""The gradient of the whole-data loss with respect to some weights, one layer at a time.

``G = sum_b w_b G_b`` over the batches.  Backward hands over one weight's ``G_b`` at a time; a hook adds it up.  In the
last batch the sum is complete as soon as backward passes the weight: it is reduced there and freed.  A weight that the
last batch does not reach is reduced after it; one that no batch reaches has no gradient.

- One batch: one pass, and one gradient is held.
- Several batches: the sums must wait for each other.  The layers are shared among passes over the batches, so that the
  sums held at once take no more than the largest single gradient, or about one n-th of all for n ``passes``.  In a pass
  nothing is kept for the layers below those it serves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lorabook.adapters.batches import Repeated, Weights, mean_loss
from lorabook.adapters.targets import describe
from lorabook.checks import count

T = TypeVar("T")
END = object()  # stands behind the last batch
NO_BATCHES = "There are no batches: the gradient needs at least one."
NAN, UNREACHED = "the gradient has entries that are NaN or infinite", "the loss of no batch depends on the weight"


@contextmanager
def frozen(model: nn.Module, weights: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Dropout off, nothing compiled, gradients for ``weights`` alone; on leaving, everything is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    grads = [(weight, weight.grad) for weight in weights]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        for weight, _ in grads:
            weight.grad = None
            weight.requires_grad_(True)
        # compiled code cannot be watched; where nothing was compiled, dynamo is not loaded for it
        compiled = "torch._dynamo" in sys.modules
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext(), torch.enable_grad():
            yield
    finally:
        for weight, grad in grads:
            weight.grad = grad
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def reduced(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    batches: Iterable,
    reduce: Callable[[str, Tensor], T],
    *,
    loss: Callable | None = None,
    passes: int | None = None,
    progress: Callable[[str], None] | None = None,
    left: dict[str, str] | None = None,
) -> dict[str, T]:
    """``reduce(name, G)`` for the full gradient G of every weight; no G outlives its reduction.

    Args:
        model: any module; on leaving, also by an error, it is as it was.
        weights: matrices of the model by name.
        batches: dictionaries for ``model(**batch)``, with labels; with ``loss``, whatever it takes.
        reduce: what is needed of G, which has the shape of the weight and is float32, or float64 for a float64 weight,
            on the weight's device.
        loss: ``loss(model, batch)``, the mean over the batch, or a pair of it and the number of items; default the
            model's own loss, weighed as :mod:`lorabook.adapters.batches` says.
        passes: about how many share the layers; default as many as keep the sums within the largest gradient.
        progress: takes one line of text per batch.
        left: takes the names of weights without a finite gradient, with the reason; without it they are an error.

    Returns:
        By name, in the order of ``weights``.  w_b is the batch's share of the items: G belongs to the mean over all.

    Raises:
        ValueError: no batch, one that does not fit, other batches in a later pass; a weight without a finite gradient.
    """
    if passes is not None:
        count(passes, "passes", 1)
    groups = [weights] if length(batches) == 1 else _groups(weights, passes)
    read = repeated(batches, len(groups))
    found: dict[str, T] = {}
    lost: dict[str, str] = {}
    for turn, group in enumerate(groups, 1):
        with frozen(model, group.values()):
            note = (lambda line: progress(f"pass {turn} of {len(groups)}, {line}")) if progress else None
            found |= _pass(model, group, read, reduce, loss, note, lost)
    if lost and left is None:
        raise ValueError(f"The gradient cannot be used: {describe(lost)}.")
    if left is not None:
        left |= {name: lost[name] for name in weights if name in lost}
    return {name: found[name] for name in weights if name in found}


def length(batches: Any) -> int | None:
    """How many batches there are, None where they do not say; a DataLoader over a stream has a length that raises."""
    try:
        return len(batches)
    except TypeError:
        return None


def repeated(batches: Iterable, passes: int) -> Repeated:
    """The batches, for some passes over them."""
    if passes > 1 and iter(batches) is batches:
        raise ValueError("The batches are read several times: give a list or a DataLoader, not an iterator.")
    return Repeated(batches)


def _groups(weights, passes):
    """Consecutive weights, packed so that a group's gradients fit into what may be held."""
    sizes = {name: weight.numel() for name, weight in weights.items()}
    room = max(max(sizes.values()), sum(sizes.values()) / passes if passes else 0)
    groups, used = [{}], 0
    for name, weight in weights.items():
        if groups[-1] and used + sizes[name] > room * (1 + 1e-9):
            groups.append({})
            used = 0
        groups[-1][name] = weight
        used += sizes[name]
    return groups


def sweep(model: nn.Module, batches: Repeated, loss: Callable | None, progress) -> Iterator[tuple[float, bool, float]]:
    """Forward and backward of every batch; before each backward, its weight and whether it is the last.

    Yields:
        The weight, whether no batch follows, and the sum of the weights so far.
    """
    weigh = Weights()
    for batch, following in pairwise(chain(batches, [END])):
        mean, items = mean_loss(model, batch, loss, weigh.read + 1)
        weight = weigh(items)
        batches.note(float(mean.detach()), weight)
        yield weight, following is END, weigh.total
        if mean.requires_grad:  # it may reach no weight of this pass
            mean.backward()
        del mean
        if progress:
            progress(f"batch {weigh.read}")
    if not weigh.read:
        raise ValueError(NO_BATCHES)
    batches.check()


def _pass(model, weights, batches, reduce, loss, progress, lost):
    """One pass over the batches for one group of weights."""
    sums, found = {}, {}
    now = {"weight": 0.0, "last": False, "total": 0.0}

    def finish(name, total):
        total.div_(now["total"])
        if bool(torch.isfinite(total).all()):
            found[name] = reduce(name, total)
        else:
            lost[name] = NAN

    def take(name):
        def hook(weight):
            gradient, weight.grad = weight.grad, None
            gradient = gradient if gradient.dtype == torch.float64 else gradient.float()
            if name in sums:
                sums[name].add_(gradient, alpha=now["weight"])
            else:
                sums[name] = gradient.mul_(now["weight"])  # the tensor is ours alone now
            if now["last"]:
                finish(name, sums.pop(name))

        return hook

    hooks = [weight.register_post_accumulate_grad_hook(take(name)) for name, weight in weights.items()]
    try:
        for now["weight"], now["last"], now["total"] in sweep(model, batches, loss, progress):
            pass
    finally:
        for hook in hooks:
            hook.remove()
        batches.rewind()
    for name in list(sums):
        finish(name, sums.pop(name))
    lost |= {name: UNREACHED for name in weights if name not in found and name not in lost}
    return found
