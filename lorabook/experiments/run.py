"""One run: a model from its shelf, a method, transformers' Trainer, and a record of what came out.

A run that was stopped goes on from its last checkpoint and ends with the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorabook import checks
from lorabook.device import default_device, describe
from lorabook.experiments import ExperimentError, images, methods, nuclear, tasks, training
from lorabook.experiments.points import Point
from lorabook.experiments.results import FORMAT, accuracy
from lorabook.experiments.settings import load
from lorabook.experiments.shelf import Shelf
from lorabook.sweep.engine import write

PACKAGES = ("lorabook", "torch", "transformers", "peft", "accelerate", "numpy")
CURVE = ("epoch", "step", "loss", "learning_rate", "eval_loss", "eval_accuracy", "rank", "first_value_rank", "norm")
HEARD = {"loss", "eval_loss", "rank"}  # an entry of the Trainer's history with none of these says nothing of the run
Say = Callable[[str], None]


def record(run: Point, values: dict[str, Any], out: Path, shelf: Shelf, say: Say = lambda line: None) -> Path:
    """Do one run, or the rest of it, and write its record; what has a record is left as it is.

    Args:
        run: which.
        values: the settings, of :func:`lorabook.experiments.points.values`.
        out: a folder; the record is ``<name>.json`` there, and checkpoints lie in ``<name>/`` until it is written.
        shelf: where model and data are from.

    Raises:
        ExperimentError: model or data cannot be had, or checkpoints there are of another run.
        ImportError: a package of the extra ``experiments`` is missing.
    """
    name = run.name(values)
    place, folder = out / f"{name}.json", out / name
    if place.is_file():
        return place
    claim = {"run": asdict(run), "settings": json.loads(json.dumps(values)), "rehearsed": shelf.folder is not None}
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "run.json"
    if told.is_file() and json.loads(told.read_text(encoding="utf-8")) != claim:
        raise ExperimentError(f"{folder} holds checkpoints of another run: take another --out, or remove it.")
    write(told, json.dumps(claim, indent=1))
    say(name)
    found = (_text if load(run.experiment).source == "lora_one" else _classified)(run, values, folder, shelf)
    write(place, json.dumps({"format": FORMAT, **claim, **found, **_circumstances()}, indent=1) + "\n")
    shutil.rmtree(folder)
    return place


def _text(run: Point, values: dict[str, Any], folder: Path, shelf: Shelf) -> dict:
    """T5 on one of GLUE's tasks."""
    transformers = checks.package("transformers", "experiments")
    with _seeded(run.seed):
        pinned = values["model"], values["model_revision"]
        tokenizer = shelf.pretrained(transformers.AutoTokenizer, *pinned)
        model = shelf.pretrained(transformers.AutoModelForSeq2SeqLM, *pinned).to(default_device())
        sets, files = _sets(
            run, values, shelf, tasks.file, lambda rows: tasks.AsText(rows, run.task, tokenizer, values["length"])
        )
        collate = tasks.text_batch(tokenizer)
        first = lambda count: [collate([sets["train"][k]]) for k in range(min(count, len(sets["train"])))]
        origin, clock = state_hash(model), _Clock()
        ready = methods.ready(run.method, model, values, run.rank, run.rate, first)
        clock("start")
        words = tasks.label_tokens(run.task, tokenizer)
        scores = lambda logits, labels: (logits[0] if isinstance(logits, tuple) else logits)[:, 0, words]
        trainer = training.trainer(
            run, values, folder, ready.model, sets, collate, ready.optimizer, ready.callbacks, scores
        )
        if ready.trains:
            training.train(trainer, folder)
        clock("train")
        predictions = {"labels": sets["validation"].labels, "scores": training.predict(trainer, sets["validation"])}
        clock("evaluate")
    curve = trainer.state.log_history
    return _found(run, files, origin, curve, predictions, clock, ready.notes, ready.model)


def _classified(run: Point, values: dict[str, Any], folder: Path, shelf: Shelf) -> dict:
    """A classifier of sentences or pictures: the head first, then the adapted matrices or factors beside them."""
    with _seeded(run.seed):
        model, sets, files, collate = (_pictures if run.task in images.SETS else _sentences)(run, values, shelf)
        scores, clock = lambda logits, labels: logits, _Clock()
        _probe(run, values, folder, model, sets, collate, scores)
        origin = state_hash(model)
        clock("probe")
        notes: dict[str, Any] = {}
        if run.method == "factored":
            model = nuclear.factored(model, values, run.rank, run.start, run.seed)
            factors = [one for one in model.parameters() if one.requires_grad]
            optimizer = torch.optim.SGD(
                factors, lr=run.rate, momentum=values["momentum"], weight_decay=values["factored_decay"]
            )
            course = nuclear.Course(lambda: nuclear.products(model), values["rank_cut"])
        elif run.method == "proximal":
            weights = nuclear.tuned(model, values["modules"])
            proximal = nuclear.ProximalSGD(weights, run.rate, run.decay, values["momentum"])
            optimizer, course = proximal.optimizer, nuclear.Course(proximal.values, values["rank_cut"])
        else:
            optimizer = course = None
        callbacks = [course.callback()] if course else []
        trainer = training.trainer(
            run, values, folder, model, sets, collate, optimizer, callbacks, scores, each_epoch=True
        )
        if course:
            training.train(trainer, folder)
            notes["singular_values"] = {name: s.tolist() for name, s in course.values().items()}
        clock("train")
        predictions = {"labels": sets["validation"].labels, "scores": training.predict(trainer, sets["validation"])}
        clock("evaluate")
    return _found(run, files, origin, trainer.state.log_history, predictions, clock, notes, model)


def _sentences(run: Point, values: dict[str, Any], shelf: Shelf) -> tuple:
    """Model, sets, files and collator for one of GLUE's tasks."""
    transformers = checks.package("transformers", "experiments")
    pinned = values["model"], values["model_revision"]
    tokenizer = shelf.pretrained(transformers.AutoTokenizer, *pinned)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    options: dict[str, Any] = dict.fromkeys(names, values["dropout"])
    options["num_labels"] = len(tasks.TASKS[run.task].words)
    model = shelf.pretrained(transformers.AutoModelForSequenceClassification, *pinned, **options)
    make = lambda rows: tasks.AsSentence(rows, run.task, tokenizer, values["length"])
    sets, files = _sets(run, values, shelf, tasks.file, make)
    return model.to(default_device()), sets, files, transformers.DataCollatorWithPadding(tokenizer)


def _pictures(run: Point, values: dict[str, Any], shelf: Shelf) -> tuple:
    """Model, sets, files and collator for CIFAR."""
    transformers = checks.package("transformers", "experiments")
    pinned = values["model"], values["model_revision"]
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    options: dict[str, Any] = dict.fromkeys(names, values["dropout"])
    options["num_labels"] = images.SETS[run.task][1]
    model = shelf.pretrained(transformers.AutoModelForImageClassification, *pinned, **options)
    sets, files = _sets(run, values, shelf, images.file, lambda rows: images.Pictures(rows, run.task))
    return model.to(default_device()), sets, files, images.picture_batch(model.config.image_size)


def _probe(run: Point, values: dict, folder: Path, model: Any, sets: dict, collate: Any, scores: Any) -> None:
    """Train the head alone, and freeze it; a head that was trained before is read."""
    from safetensors.torch import load_file, save_file

    place, head = folder / "head.safetensors", model.classifier
    for one in model.parameters():
        one.requires_grad_(False)
    for one in head.parameters():
        one.requires_grad_(True)
    if place.is_file():
        head.load_state_dict(load_file(place))
    else:
        own = values | {"epochs": values["head_epochs"], "schedule": "constant", "warmup_steps": 0}
        optimizer = torch.optim.AdamW(head.parameters(), lr=values["head_rate"], weight_decay=0.0)
        trainer = training.trainer(run, own, folder / "head", model, sets, collate, optimizer, [], scores)
        training.train(trainer, folder / "head")
        save_file({name: one.contiguous() for name, one in head.state_dict().items()}, place)
    for one in head.parameters():
        one.requires_grad_(False)


def _sets(run: Point, values: dict, shelf: Shelf, file: Callable, make: Callable) -> tuple[dict, dict]:
    """Training and validation set, and which files they are."""
    sets, files = {}, {}
    for split in ("train", "validation"):
        name = file(run.task, split)
        rows, digest = shelf.rows(values["data"], values["data_revision"], name)
        files[split] = {"file": name, "rows": len(rows), "sha256": digest}
        sets[split] = make(rows)
    return sets, files


def _found(point, files, origin, curve, predictions, clock, notes, model) -> dict:
    """The part of a record that says what came out."""
    try:
        value, error = accuracy(predictions)
    except ValueError:
        raise ExperimentError(f"{point.method} ended in numbers that are not finite: take a smaller --rate.") from None
    return {
        "data": files,
        "model": {"sha256": origin, "trained": sum(one.numel() for one in model.parameters() if one.requires_grad)},
        "curve": [kept for entry in curve if set(kept := {key: entry[key] for key in CURVE if key in entry}) & HEARD],
        "predictions": predictions,
        "metric": {"name": "accuracy", "value": value, "error": error},
        "seconds": clock.seconds,
        "notes": notes,
    }


class _Clock:
    """Seconds since the last call, by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, what: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[what], self.last = now - self.last, now


def _circumstances() -> dict:
    """Versions, device and the most memory that was in use, in bytes."""
    import resource

    home = default_device()
    memory = (
        torch.cuda.max_memory_allocated(home)
        if home.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"versions": versions, "device": describe(), "peak_memory": memory}


def state_hash(model: nn.Module) -> str:
    """SHA-256 of all weights, in the order of their names."""
    total = hashlib.sha256()
    for name, one in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Everything that draws, from one seed; what it was before is put back afterwards."""
    transformers = checks.package("transformers", "experiments")
    with torch.random.fork_rng():
        transformers.set_seed(seed)
        yield
