"""LoRA-One's released run as settings, and a callback that starts a model inside transformers' Trainer.

    config = LoraConfig(task_type="CAUSAL_LM", **recipe.ADAPTER)
    arguments = TrainingArguments("out", **recipe.TRAINING)
    Trainer(model, arguments, train_dataset=data, callbacks=[recipe.LoraOneCallback()]).train()

Source: the authors' code, commit 01bba05: the command of README.md for MetaMathQA on Llama-2-7B, rank 8, without
preconditioners, with what ``conf/peft/all.yaml``, ``conf/model/llama.yaml``, ``conf/init/gradient.yaml`` and
``utils.py`` add to it.  Gamma and the learning rate were chosen by their authors for that model and data: choose yours
on a part of your training data.  The trainer with preconditioners (prec_logTrainer.py, commit e4d9c27) was deleted in
May 2025 and is "under revision"; its ridge, 1e-6, is the default of ``PreconditionedAdamW``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lorabook import checks
from lorabook.adapters.preconditioned import RATE, pairs
from lorabook.adapters.start import lora_one_

ADAPTER: dict[str, Any] = {
    "r": 8,  # the README's command
    "lora_alpha": 16,
    "use_rslora": True,
    "lora_dropout": 0.0,  # conf/peft/all.yaml
    "target_modules": "all-linear",  # all linear layers but the embedding and the head
}
TRAINING: dict[str, Any] = {
    "optim": "adamw_torch",  # utils.py, with transformers' betas, epsilon and clipping
    "learning_rate": RATE,  # the README's command
    "weight_decay": 0.0,  # conf/model/llama.yaml
    "lr_scheduler_type": "linear",  # utils.py
    "warmup_steps": 100,
    "num_train_epochs": 1,
}
BATCH = 32  # examples in a step, conf/model/llama.yaml: over devices and accumulated
START: dict[str, Any] = {
    "form": "code",
    "gamma": 128.0,  # conf/init/gradient.yaml: stable_gamma
    "examples": 8,  # bsz x iters: the first of the training set
    "batch_size": 1,  # bsz; each batch counts alike, whatever its tokens
    "dropout": True,  # the gradient is taken in training mode
}


class StartBeforeTraining:
    """Starts the model of a Trainer as LoRA-One does, once, before the first step.

    The data are the first examples of the Trainer's training set, through its own collator; the order in which it reads
    them afterwards is not touched.  A run that is resumed goes on from its checkpoint, and a second ``train()`` from
    where the first ended.

    Args:
        gamma, form: of :func:`lorabook.adapters.lora_one_`; not ``slides``, whose moved base weights a Trainer's
            checkpoints do not hold.
        examples: how many examples the gradient is taken over, None for all.
        batch_size: examples in a batch.  The gradient is the plain mean over the batches.
        dropout: take the gradient in training mode, with the same masks in every pass.  What torch draws afterwards is
            as it would have been, and so are the statistics of normalisation layers.
        loss: ``loss(model, batch)``, one number; default the model's own.
        adapter, passes, seed, progress: of :func:`lorabook.adapters.lora_one_`.

    Attributes:
        values: what :func:`lorabook.adapters.lora_one_` returned; empty before the start.

    Raises (the adapter's and the data's in ``train()``):
        ValueError: as :func:`lorabook.adapters.lora_one_`, the form slides, numbers that are not positive, no examples,
            an adapter that has been started or trained before.
    """

    def __init__(
        self,
        gamma: float = START["gamma"],
        form: str = START["form"],
        *,
        examples: int | None = START["examples"],
        batch_size: int = START["batch_size"],
        dropout: bool = START["dropout"],
        loss: Callable | None = None,
        adapter: str | None = None,
        passes: int | None = None,
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
    ):
        if form == "slides":
            raise ValueError(
                "The form slides moves the base weights, which a Trainer's checkpoints do not hold: call lora_one_ "
                "yourself before the training."
            )
        checks.positive(gamma, "gamma")
        self.examples = None if examples is None else checks.count(examples, "examples", 1)
        self.batch_size = checks.count(batch_size, "batch_size", 1)
        self.dropout, self.loss, self.adapter, self.seed = dropout, loss, adapter, seed
        self.options: dict[str, Any] = {"gamma": gamma, "form": form, "passes": passes, "progress": progress}
        self.values: dict[str, Tensor] = {}
        self._started: Callable = lambda: None

    def on_train_begin(self, args, state, control, model=None, train_dataloader=None, **others):
        if state.global_step > 0 or model is self._started():
            return
        found = pairs(model, self.adapter and [self.adapter])
        touched = [name for name, pair in found.items() if bool(pair.B.any())]
        if touched:
            raise ValueError(
                f"The adapter has been started or trained before: B of {touched[0]} is not 0. Leave the callback out, "
                "or resume from a checkpoint."
            )
        batches = list(enumerate(self._batches(train_dataloader)))
        if not batches:
            raise ValueError("The training set has no examples: the start needs at least one.")
        cards = sorted({one.device.index for one in model.parameters() if one.device.type == "cuda"})
        with torch.random.fork_rng(cards):
            self.values = lora_one_(
                model, batches, loss=self._mean, adapter=self.adapter, seed=self.seed, **self.options
            )
        same_everywhere(factor for pair in found.values() for factor in pair[:2])
        same_everywhere(one for name, one in model.named_parameters() if "lora_magnitude_vector" in name)
        self._started = weakref.ref(model)

    def _batches(self, loader):
        """The first examples in the order of the data set, collated as the Trainer does."""
        rows = islice(examples(loader.dataset), self.examples)
        while batch := list(islice(rows, self.batch_size)):
            yield loader.collate_fn(batch)

    def _mean(self, model, numbered):
        """The loss of one batch; it counts as one item, so that the batches weigh alike."""
        number, batch = numbered
        if self.dropout:
            for module in model.train().modules():
                if getattr(module, "running_mean", None) is not None:
                    module.eval()  # its statistics are not the start's to change
            torch.manual_seed(self.seed + number)
        batch = at(batch, next(model.parameters()).device)
        if self.loss is not None:
            return self.loss(model, batch)
        found = model(**batch)
        # as a Trainer reads it
        return found["loss"] if isinstance(found, Mapping) else found[0]


def __getattr__(name: str):
    """``LoraOneCallback``, which needs transformers, where it is asked for."""
    if name != "LoraOneCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = checks.package("transformers", "real").TrainerCallback
    inner = {"__doc__": StartBeforeTraining.__doc__, "__module__": __name__}
    return globals().setdefault(name, type(name, (StartBeforeTraining, base), inner))


def examples(dataset):
    """One example after the other, from the first, whether they have numbers or only come in a stream."""
    try:
        return (dataset[k] for k in range(len(dataset)))
    except TypeError:
        return iter(dataset)


def at(batch, device):
    """A batch, whatever it is made of, with its tensors on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: at(value, device) for key, value in batch.items()}
    return type(batch)(at(value, device) for value in batch) if isinstance(batch, (list, tuple)) else batch


def same_everywhere(factors) -> None:
    """Where several processes train, all take the factors of the first, bit by bit."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for factor in factors:
            torch.distributed.broadcast(factor.data, 0)
