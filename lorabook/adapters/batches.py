"""What a batch adds to the whole data: its mean loss, over how many items the mean was taken, and whether it is the
same batch as in the pass before.

The gradient over all data is ``sum_b w_b G_b / sum_b w_b`` with w_b the items that the mean of batch b counts.  Whether
a loss shifts the labels cannot be read off its name (a Llava model does, a T5 with the same key does not), so w_b is
not derived from the labels: torch's own losses are watched while the model runs, and the one whose mean is the loss
says over how many labels it was taken.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: transformers' table of losses: what the mean is over, and None where the loss is no mean over labels.  "shifted" is
#: said of transformers' own function; a model may compute its loss itself, and what it computes is watched.
MEANS: dict[str, str | None] = {
    "ForCausalLM": "labels other than -100, shifted: the first of a row never counts",
    "ForConditionalGeneration": "labels other than -100, shifted in transformers' function, not in T5's or BART's own",
    "ForMaskedLM": "labels other than -100",
    "ForTokenClassification": "labels other than -100",
    "ForSequenceClassification": "rows, or numbers where a row has several",
    "ForImageClassification": "as ForSequenceClassification",
    "ForVideoClassification": "as ForSequenceClassification",
    "ForAudioClassification": "as ForSequenceClassification",
    "ForSemanticSegmentation": "pixels other than the ignored index",
} | dict.fromkeys(
    "ForQuestionAnswering ForSegmentation ForObjectDetection ForCTC DeformableDetrForObjectDetection "
    "ConditionalDetrForObjectDetection DabDetrForObjectDetection GroundingDinoForObjectDetection "
    "MMGroundingDinoForObjectDetection ConditionalDetrForSegmentation RTDetrForObjectDetection "
    "RTDetrV2ForObjectDetection DFineForObjectDetection Deimv2ForObjectDetection CsmForConditionalGeneration "
    "LwDetrForObjectDetection PocketTTSForConditionalGeneration GradiumPhononTTSForConditionalGeneration "
    "ParakeetForRNNT ParakeetForTDT RfDetrForObjectDetection RfDetrForInstanceSegmentation".split()
)
OWN = "give loss=lambda model, batch: (model(**batch).loss, its weight)"


def mean_loss(model: nn.Module, batch: Any, loss: Callable | None, number: int) -> tuple[Tensor, float | None]:
    """The mean loss of batch ``number`` (from 1), with its graph, and over how many items the mean is.

    The items are None where the loss is the model's own and no single mean of torch: one batch needs no weight.

    Raises:
        ValueError: a batch without labels, or none that counts; a label or token that the model does not have; a loss
            that is no finite number; a key of transformers' table without a mean over labels.
    """
    if loss is None:
        key = getattr(model, "loss_type", None)
        if key in MEANS and MEANS[key] is None:
            raise ValueError(f"Batches cannot be weighed by their labels under the loss {key}: {OWN}.")
        if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
            raise ValueError(
                f"Batch {number} must be a dictionary with a tensor of labels; got {type(batch).__name__}"
                f"{' without one' if isinstance(batch, Mapping) else ''}. For other data {OWN}."
            )
        home = next(model.parameters()).device
        batch = {key: value.to(home) if isinstance(value, Tensor) else value for key, value in batch.items()}
        if not batch["labels"].numel():
            raise ValueError(f"Batch {number} is empty: it has no label that counts.")
        with _Watch(number) as watch:
            found = model(**batch).loss
        items = watch.items(found)
    else:
        found = loss(model, batch)
        found, items = found if isinstance(found, tuple) else (found, 1)
        items = float(items)
    if items is not None and not items > 0:
        raise ValueError(f"Batch {number} is empty: it has no label that counts.")
    if not isinstance(found, Tensor) or found.ndim or not bool(torch.isfinite(found)):
        came = type(found).__name__
        if isinstance(found, Tensor):
            came = f"shape {tuple(found.shape)}" if found.ndim else f"{float(found.detach()):g}"
        raise ValueError(f"The loss of batch {number} must be one finite number; got {came}.")
    return found, items


class Weights:
    """The weights of the batches of one pass, as they come; they are known only if one batch stands alone or all have
    items."""

    def __init__(self) -> None:
        self.total, self.unknown, self.read = 0.0, False, 0

    def __call__(self, items: float | None) -> float:
        self.read += 1
        self.unknown |= items is None
        if self.unknown and self.read > 1:
            raise ValueError(f"The loss is no single mean over labels, so several batches cannot be weighed: {OWN}.")
        self.total += items or 1.0
        return items or 1.0


class _Watch(TorchFunctionMode):
    """Notes every mean that torch's losses take, and over how many items; labels and tokens must be in range."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.means = number, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _CLASSES:
            self.classes(*_bound(func, args, kwargs, "input", "target", "ignore_index"))
        elif func is F.embedding:
            self.tokens(*_bound(func, args, kwargs, "input", "weight"))
        out = func(*args, **kwargs)
        if func in _CLASSES or func in _NUMBERS:
            reduction, weight = _bound(func, args, kwargs, "reduction", "weight")
            if reduction == "mean" and (func in _CLASSES or weight is None):
                self.means.append((out.detach(), _counted(func, args, kwargs)))
        return out

    def classes(self, scores: Tensor, labels: Tensor, ignored: int) -> None:
        kept = labels[labels != ignored]
        self.within("labels", kept, scores.shape[min(1, scores.ndim - 1)]) if not labels.is_floating_point() else None

    def tokens(self, ids: Tensor, table: Tensor) -> None:
        self.within("tokens or positions", ids, len(table))

    def within(self, what: str, values: Tensor, end: int) -> None:
        if values.numel() and not (0 <= int(values.min()) and int(values.max()) < end):
            raise ValueError(
                f"The {what} of batch {self.number} must lie between 0 and {end - 1}; got {int(values.min())} to "
                f"{int(values.max())}."
            )

    def items(self, loss: Any) -> float | None:
        """Over how many items ``loss`` is a mean; None if it is none of the means that were seen."""
        for mean, items in self.means:
            same = isinstance(loss, Tensor) and mean.shape == loss.shape
            if same and (items == 0 or bool(mean.to(loss) == loss.detach())):
                return items
        return None


_CLASSES = {F.cross_entropy, F.nll_loss}
_NUMBERS = {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy} | {
    F.binary_cross_entropy_with_logits
}


def _bound(func, args, kwargs, *names):
    call = inspect.signature(func).bind(*args, **kwargs)
    call.apply_defaults()
    return [call.arguments.get(name) for name in names]


def _counted(func, args, kwargs) -> float:
    """Over how many items a loss of torch takes its mean."""
    scores, labels, weight, ignored = _bound(func, args, kwargs, "input", "target", "weight", "ignore_index")
    if func in _NUMBERS:
        return float(max(scores.numel(), labels.numel()))
    if labels.is_floating_point():  # a probability for each class
        return labels.numel() / scores.shape[min(1, scores.ndim - 1)]
    kept = labels[labels != ignored]
    return float(kept.numel() if weight is None else weight[kept].sum())


# ---------------------------------------------------------------- the same data in every pass


class Repeated:
    """Batches that are read several times: each pass starts from the same state, and must give the same batches.

    Torch's, numpy's and Python's generators, those of a DataLoader and the epoch that its sampler counts are set back,
    so that a loader that shuffles gives the same order again.
    """

    def __init__(self, batches: Iterable) -> None:
        self.batches, self.seen, self.passes = batches, [], 0
        self.state = _state(batches)

    def __iter__(self) -> Iterator:
        self.passes += 1
        self.rewind()
        self.seen.append([Counter(), 0.0, 0.0])
        for batch in self.batches:
            self.seen[-1][0][_mark(batch)] += 1
            yield batch

    def rewind(self) -> None:
        """Set back everything that decides what comes next, also for those who draw after us."""
        _restore(self.state)

    def note(self, loss: float, weight: float) -> None:
        """The loss of the batch that was given last, which also tells batches apart that cannot be looked into."""
        self.seen[-1][1] += weight * loss
        self.seen[-1][2] += weight * abs(loss)

    def check(self) -> None:
        """Raise ValueError if the last pass gave other batches than the first; their order does not matter."""
        (first, loss, size), (last, again, _) = self.seen[0], self.seen[-1]
        # a loss is repeated up to the order in which a device adds
        if first != last or abs(loss - again) > 1e-3 * size:
            raise ValueError(
                f"Pass {self.passes} over the batches gave other data than the first: give a list of batches, or a "
                "loader that does not draw anew (not an iterator, no random augmentation or masking)."
            )


def _parts(batches):
    sampler = getattr(batches, "batch_sampler", None)
    parts = [batches, getattr(batches, "sampler", None), sampler, getattr(sampler, "sampler", None)]
    return [part for part in parts if part is not None]


def _state(batches):
    """Generators and counters that decide what a loader gives."""
    inner: list[tuple] = []
    for part in _parts(batches):
        for name in ("generator", "synchronized_generator", "epoch", "iteration"):
            value = getattr(part, name, None)
            if isinstance(value, torch.Generator):
                inner.append((part, name, value, value.get_state()))
            elif isinstance(value, int):
                inner.append((part, name, value, None))
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), inner


def _restore(state) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
    for part, name, value, inside in state[3]:
        if inside is not None:
            value.set_state(inside)
        setattr(part, name, value)


def _mark(part: Any):
    """A number or tuple that two parts of batches share if they have the same content."""
    if isinstance(part, Tensor):
        flat = part.detach().reshape(-1).double().view(torch.int64)
        # odd multipliers and wrapping sums: exact, and each entry counts at its place
        place = torch.arange(flat.numel(), device=flat.device).mul_(2654435761).bitwise_or_(1)
        return tuple(part.shape), int((flat ^ (flat >> 29)).mul(place).sum())
    if isinstance(part, Mapping):
        return tuple((str(key), _mark(value)) for key, value in part.items())
    if isinstance(part, (list, tuple)):
        return tuple(map(_mark, part))
    if isinstance(part, np.ndarray) and part.dtype != object:
        return part.shape, part.tobytes()
    return part if isinstance(part, (str, bytes, int, float, bool, type(None))) else type(part).__name__
