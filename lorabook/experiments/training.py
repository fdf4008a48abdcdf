"""transformers' Trainer under the settings of an experiment, which goes on from its last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from lorabook import checks
from lorabook.device import default_device
from lorabook.experiments import together
from lorabook.experiments.points import Point

CHECKPOINTS = 10  # in a run, where its settings do not say


def trainer(
    run: Point,
    values: dict,
    folder: Path,
    model: nn.Module,
    sets: dict,
    collate: Any,
    optimizer: Any,
    callbacks: list,
    scores: Callable | None,
    each_epoch: bool = False,
) -> Any:
    """transformers' Trainer under the settings."""
    transformers = checks.package("transformers", "experiments")
    total = math.ceil(len(sets["train"]) / values["batch"]) * values["epochs"]
    own = together.each(values["batch"])  # of a step's rows those of this process
    checkpoints = values.get("checkpoints", CHECKPOINTS)
    rows = min(own, values.get("micro_batch", own))  # of these those at once
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=values["epochs"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=own // rows,
        per_device_eval_batch_size=values["batch"],
        learning_rate=run.rate,
        optim="adamw_torch",
        weight_decay=values.get("weight_decay", 0.0),
        lr_scheduler_type=values["schedule"],
        warmup_steps=values["warmup_steps"],
        max_grad_norm=values["clipping"],
        bf16=values["precision"] == "bfloat16",
        use_cpu=default_device().type == "cpu",
        seed=run.seed,
        data_seed=run.seed,
        save_strategy="no" if each_epoch else "steps",
        save_steps=max(1, total // checkpoints),
        save_total_limit=1,
        eval_strategy="epoch" if each_epoch else "no",
        logging_steps=max(1, total // 200),
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=default_device().type == "cuda",
        disable_tqdm=True,
        report_to=[],
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process, one card: several would multiply the batch
    made = _kind()(
        model,
        arguments,
        data_collator=collate,
        train_dataset=sets["train"],
        eval_dataset=sets["validation"],
        optimizers=(optimizer, None),
        callbacks=[*callbacks, *([_ends(max(1, values["epochs"] // checkpoints))] if each_epoch else [])],
        preprocess_logits_for_metrics=scores,
        compute_metrics=(lambda found: {"accuracy": float((found[0].argmax(-1) == found[1]).mean())})
        if each_epoch
        else None,
    )
    made.model_accepts_loss_kwargs = False  # batches that are accumulated count alike, whatever their tokens
    return made


def _ends(every: int) -> Any:
    """Checkpoints at the end of epochs, after what is measured there: one from the last step of an epoch would hold
    the training and not the measurement, which the resumed run would not make up for."""

    def on_epoch_end(_, args, state, control, **others):
        if round(state.epoch) % every == 0 or state.global_step >= state.max_steps:
            control.should_save = True

    base = checks.package("transformers", "experiments").TrainerCallback
    return type("Ends", (base,), {"on_epoch_end": on_epoch_end})()


def _kind() -> Any:
    """transformers' Trainer, which reads the weights of a checkpoint as they are named there: of a vision transformer,
    whose files have other names than its modules, it would read none."""
    base = checks.package("transformers", "experiments").Trainer

    def load(self, checkpoint, model=None):
        if not (Path(checkpoint) / "config.json").is_file():  # an adapter
            return base._load_from_checkpoint(self, checkpoint, model)
        held = type(self.model).from_pretrained(checkpoint).state_dict()
        return self.model.load_state_dict(held)

    return type("Resuming", (base,), {"_load_from_checkpoint": load})


def train(trainer: Any, folder: Path) -> None:
    """Train, or go on from the last checkpoint."""
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint

    trainer.remove_callback(PrinterCallback)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))


def predict(trainer: Any, examples: Any) -> list[list[float]]:
    """The score of each label for each example."""
    return trainer.predict(examples).predictions.tolist()
