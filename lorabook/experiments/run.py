"""One run: a model from its shelf, a method, transformers' Trainer, and a record of what came out.

A run that was stopped goes on from its last checkpoint and ends with the same numbers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lorabook import checks
from lorabook.device import default_device
from lorabook.experiments import (
    ExperimentError,
    constants,
    images,
    kept,
    language,
    methods,
    nuclear,
    sandbox,
    tasks,
    together,
    training,
)
from lorabook.experiments.points import DECAYED, Point
from lorabook.experiments.results import FORMAT
from lorabook.experiments.shelf import Shelf
from lorabook.sweep import engine

Say = Callable[[str], None]


def record(
    run: Point,
    values: dict[str, Any],
    out: Path,
    shelf: Shelf,
    say: Say = lambda line: None,
    execute: bool = False,
) -> Path:
    """Do one run, or the rest of it, and write its record; what has a record is left as it is.

    Args:
        run: which.
        values: the settings, of :func:`lorabook.experiments.points.values`.
        out: a folder; the record is ``<name>.json`` there, and checkpoints lie in ``<name>/`` until it is written.
        shelf: where model and data are from.
        execute: whether generated code may be run, which HumanEval cannot do without.

    Raises:
        ExperimentError: model or data cannot be had, checkpoints there are of another run, generated code would have to
            be run and may not or cannot be.
        ImportError: a package of the extra ``experiments`` is missing.
    """
    name = run.name(values)
    place, folder = out / f"{name}.json", out / name
    if engine.failure(out, name) == "":
        return place
    may_run([run], execute)
    claim = {"run": asdict(run), "settings": json.loads(json.dumps(values)), "rehearsed": shelf.folder is not None}
    together.wait()
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "run.json"
    if told.is_file() and engine.read(told) != claim:
        raise ExperimentError(f"{folder} holds checkpoints of another run: take another --out, or remove it.")
    together.wait()
    if together.first():
        engine.write(told, json.dumps(claim, indent=1))
        say(name)
    found = KINDS.get(run.experiment, _classified)(run, values, folder, shelf)
    made = {"format": FORMAT, **claim, **found, **kept.circumstances()}
    together.wait()
    if together.first():
        engine.write(place, json.dumps(made, indent=1) + "\n")
        shutil.rmtree(folder)
    together.wait()
    return place


def may_run(runs: list[Point], execute: bool) -> None:
    """Raise ExperimentError where runs would have generated code executed that may not, or cannot be shut in; and
    ImportError where a package of the extra ``experiments`` is missing."""
    kept.versions()
    if any(run.task == "humaneval" for run in runs):
        if not execute:
            raise ExperimentError(
                "HumanEval runs code that a network wrote: say --execute-generated-code, or leave it out with --task "
                "gsm8k."
            )
        sandbox.needed()


def _text(run: Point, values: dict[str, Any], folder: Path, shelf: Shelf) -> dict:
    """T5 on one of GLUE's tasks."""
    transformers = checks.package("transformers", "experiments")
    with kept.seeded(run.seed):
        pinned = values["model"], values["model_revision"]
        tokenizer = shelf.pretrained(transformers.AutoTokenizer, *pinned)
        model = shelf.pretrained(transformers.AutoModelForSeq2SeqLM, *pinned).to(default_device())
        sets, files = _sets(
            run, values, shelf, tasks.file, lambda rows: tasks.AsText(rows, run.task, tokenizer, values["length"])
        )
        collate = tasks.text_batch(tokenizer)
        first = lambda count: [collate([sets["train"][k]]) for k in range(min(count, len(sets["train"])))]
        origin, clock = kept.state_hash(model), kept.Clock()
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
    return kept.found(run, files, origin, curve, predictions, clock, ready.notes, kept.counted(ready.model))


def _classified(run: Point, values: dict[str, Any], folder: Path, shelf: Shelf) -> dict:
    """A classifier of sentences or pictures: the head first, then the adapted matrices or factors beside them."""
    with kept.seeded(run.seed):
        scores, clock = lambda logits, labels: logits, kept.Clock()
        model, sets, files, collate = probed(run, values, folder, shelf)
        origin = kept.state_hash(model)
        clock("probe")
        notes: dict[str, Any] = {}
        if run.method == "factored":
            model = nuclear.factored(model, values, run.rank, run.start, run.seed)
            factors = [one for one in model.parameters() if one.requires_grad]
            optimizer = torch.optim.SGD(
                factors, lr=run.rate, momentum=values["momentum"], weight_decay=values["factored_decay"]
            )
            course = nuclear.Course(lambda: nuclear.products(model), values["rank_cut"])
        elif run.method in DECAYED:
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
        if run.method == "constants":
            notes["constants"] = constants.about(model, proximal, values, sets["train"], collate, run.seed)
            clock("constants")
        predictions = {"labels": sets["validation"].labels, "scores": training.predict(trainer, sets["validation"])}
        clock("evaluate")
    return kept.found(run, files, origin, trainer.state.log_history, predictions, clock, notes, kept.counted(model))


def probed(run: Point, values: dict[str, Any], folder: Path, shelf: Shelf) -> tuple:
    """A classifier with its head trained and everything frozen; its sets by split, their files, the collator.

    Draws from the seed that is set.
    """
    model, sets, files, collate = (_pictures if run.task in images.SETS else _sentences)(run, values, shelf)
    _probe(run, values, folder, model, sets, collate)
    return model, sets, files, collate


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


def _probe(run: Point, values: dict, folder: Path, model: Any, sets: dict, collate: Any) -> None:
    """Train the head alone, and freeze it.  It lies beside the records, and is the same for every run of its seed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    name = Point(run.experiment, run.task, "probe", run.seed, values["head_rate"]).name(values)
    place, head = folder.parent / f"{name}.safetensors", model.classifier
    for one in model.parameters():
        one.requires_grad_(False)
    for one in head.parameters():
        one.requires_grad_(True)
    if place.is_file():
        try:
            head.load_state_dict(load_file(place))
        except (SafetensorError, RuntimeError):
            raise ExperimentError(f"{place} is no head of this network: remove it, and it is trained again.") from None
    else:
        own = values | {"epochs": values["head_epochs"], "schedule": "constant", "warmup_steps": 0}
        optimizer = torch.optim.AdamW(head.parameters(), lr=values["head_rate"], weight_decay=0.0)
        trainer = training.trainer(run, own, folder / "head", model, sets, collate, optimizer, [], None)
        training.train(trainer, folder / "head")
        if together.first():
            save_file({name: one.contiguous() for name, one in head.state_dict().items()}, folder / place.name)
            os.replace(folder / place.name, place)
    checks.package("transformers", "experiments").set_seed(run.seed)  # what follows draws alike, trained or read
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


KINDS: dict[str, Callable] = {"glue": _text, "llama": language.run}
