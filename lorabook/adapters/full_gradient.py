"""The gradient of the whole-data loss with respect to some weights, one layer at a time.

``G = sum_b w_b G_b`` over the batches.  Backward hands over one weight's ``G_b`` at a time; a hook adds it up.  In the
last batch the sum is complete as soon as backward passes the weight: it is reduced there and freed.

- One batch: one pass, and one gradient is held.
- Several batches: the sums must wait for each other.  The layers are shared among passes over the batches, so that the
  sums held at once take no more than the largest single gradient, or about one n-th of all for n ``passes``.  In a pass
  nothing is kept for the layers below those it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from lorabook.checks import count

T = TypeVar("T")
END = object()  # stands behind the last batch


@contextmanager
def _only_these(model: nn.Module, weights: dict[str, nn.Parameter]) -> Iterator[None]:
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


def reduced(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    batches: Iterable,
    reduce: Callable[[str, Tensor], T],
    *,
    loss: Callable | None = None,
    passes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, T]:
    """``reduce(name, G)`` for the full gradient G of every weight; no G outlives its reduction.

    Args:
        model: any module; on leaving, also by an error, it is as it was.
        weights: (m, n) parameters of the model by name.
        batches: dictionaries for ``model(**batch)``, with labels; with ``loss``, whatever it takes.
        reduce: what is needed of G, which is float32, or float64 for a float64 weight, on the weight's device.
        loss: ``loss(model, batch)``, the mean over the batch, or a pair of it and the number of items; default the
            model's own loss, which counts the labels other than -100.
        passes: about how many share the layers; default as many as keep the sums within the largest gradient.
        progress: takes one line of text per batch.

    Returns:
        By name, in the order of ``weights``.  w_b is the batch's share of the items: G belongs to the mean over all.

    Raises:
        ValueError: no batch, a batch or label that does not fit, a weight that the loss does not reach, NaN.
    """
    if passes is not None:
        count(passes, "passes", 1)
    groups = [weights] if _number(batches) == 1 else _groups(weights, passes)
    if len(groups) > 1 and iter(batches) is batches:
        raise ValueError("The batches are read several times: give a list or a DataLoader, not an iterator.")
    found: dict[str, T] = {}
    for turn, group in enumerate(groups, 1):
        with _only_these(model, group):
            note = (lambda line: progress(f"pass {turn} of {len(groups)}, {line}")) if progress else None
            found |= _pass(model, group, batches, reduce, loss, note)
    return {name: found[name] for name in weights}


def _number(batches):
    """How many batches there are, None where they do not say; a DataLoader over a stream has a length that raises."""
    try:
        return len(batches)
    except TypeError:
        return None


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


def _pass(model, weights, batches, reduce, loss, progress):
    """One pass over the batches for one group of weights."""
    sums, found = {}, {}
    now = {"items": 0.0, "all": 0.0, "last": False}

    def take(name):
        def hook(weight):
            gradient, weight.grad = weight.grad, None
            gradient = gradient if gradient.dtype == torch.float64 else gradient.float()
            if name in sums:
                total = sums[name].add_(gradient, alpha=now["items"])
            else:
                total = gradient.mul_(now["items"])  # the tensor is ours alone now
            if not now["last"]:
                sums[name] = total
                return
            sums.pop(name, None)
            total.div_(now["all"])
            if not bool(torch.isfinite(total).all()):
                raise ValueError(f"The gradient of {name} has entries that are NaN or infinite.")
            found[name] = reduce(name, total)

        return hook

    hooks = [weight.register_post_accumulate_grad_hook(take(name)) for name, weight in weights.items()]
    read = 0
    try:
        with torch.enable_grad():
            for batch, following in pairwise(chain(batches, [END])):
                now["last"] = following is END
                mean, now["items"] = _loss(model, batch, loss, read)
                now["all"] += now["items"]
                mean.backward()
                del mean
                read += 1
                if progress:
                    progress(f"batch {read}")
    finally:
        for hook in hooks:
            hook.remove()
    if not read:
        raise ValueError("There are no batches: the gradient needs at least one.")
    unreached = [name for name in weights if name not in found]
    if unreached:
        raise ValueError(
            f"The loss of the last batch does not depend on the weight of {unreached[0]}: take it out of the "
            "adapter's targets."
        )
    return found


def _loss(model, batch, loss, read):
    if loss is None:
        if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
            raise ValueError(
                f"Batch {read + 1} must be a dictionary with a tensor of labels; got "
                f"{type(batch).__name__}{' without one' if isinstance(batch, Mapping) else ''}."
            )
        home = next(model.parameters()).device
        batch = {key: value.to(home) if isinstance(value, Tensor) else value for key, value in batch.items()}
        number = _labelled(model, batch["labels"], read)
        found = model(**batch).loss if number else None
    else:
        found = loss(model, batch)
        found, number = found if isinstance(found, tuple) else (found, 1)
    if not number > 0:
        raise ValueError(f"Batch {read + 1} is empty: it has no label that counts.")
    if not isinstance(found, Tensor) or found.ndim or not bool(torch.isfinite(found)):
        came = type(found).__name__
        if isinstance(found, Tensor):
            came = f"shape {tuple(found.shape)}" if found.ndim else f"{float(found.detach()):g}"
        raise ValueError(f"The loss of batch {read + 1} must be one finite number; got {came}.")
    if not found.requires_grad:
        raise ValueError(
            f"The loss of batch {read + 1} does not depend on the weights of the adapter's targets: take them out."
        )
    return found, float(number)


def _labelled(model, labels, read):
    """How many labels count; a whole-number label must be a class, or a token of a model that writes text."""
    if labels.is_floating_point():
        return labels.shape[0]
    counted = labels[labels != -100]
    config = getattr(model, "config", None)
    writes = labels.ndim > 1 and hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None
    classes = getattr(config, "vocab_size" if writes else "num_labels", None)
    if counted.numel() and classes and classes > 1 and not (0 <= int(counted.min()) and int(counted.max()) < classes):
        raise ValueError(
            f"The labels of batch {read + 1} must lie between 0 and {classes - 1}; got {int(counted.min())} to "
            f"{int(counted.max())}."
        )
    # a causal model, transformers' default, predicts token t + 1 from token t: the first label of a row never counts
    causal = writes and getattr(model, "loss_type", None) in (None, "ForCausalLM")
    return int((labels[..., 1:] != -100).sum()) if causal else counted.numel()
