"""A run of Llama's table: a causal language model is trained on questions and answers, and writes its own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lorabook import checks
from lorabook.device import default_device
from lorabook.experiments import kept, methods, problems, together, training
from lorabook.experiments.points import ADAPTED, Point
from lorabook.experiments.shelf import Shelf


def run(point: Point, values: dict[str, Any], folder: Path, shelf: Shelf) -> dict:
    """Train, generate and mark; the part of a record that says what came out."""
    transformers = checks.package("transformers", "experiments")
    problem = problems.PROBLEMS[point.task]
    with kept.seeded(point.seed):
        pinned = values["model"], values["model_revision"]
        tokenizer = shelf.pretrained(transformers.AutoTokenizer, *pinned)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        dtype = getattr(torch, values["precision"])
        model = shelf.pretrained(transformers.AutoModelForCausalLM, *pinned, dtype=dtype).to(default_device())
        read, files = {}, {}
        for split, data, name in (("train", "data", problem.train), ("test", "test_data", problem.test)):
            read[split], digest = shelf.rows(values[data][point.task], values["data_revision"], name)
            files[split] = {"file": name, "rows": len(read[split]), "sha256": digest}
        taken = problems.AsPairs(read["train"], point.task, tokenizer, values["length"], values["train_rows"])
        sets, collate = {"train": taken, "validation": None}, padded(tokenizer)
        first = lambda count: [collate([taken[k]]) for k in range(min(count, len(taken)))]
        origin, clock = kept.state_hash(model), kept.Clock()
        ready = methods.ready(point.method, model, values, point.rank, point.rate, first)
        clock("start")
        trainer = training.trainer(
            point, values, folder, ready.model, sets, collate, ready.optimizer, ready.callbacks, None
        )
        if ready.trains:
            training.train(trainer, folder)
        clock("train")
        trained = kept.counted(ready.model)
        whole: Any = ready.model
        if point.method in ADAPTED:
            whole = whole.merge_and_unload()

        def answered(rows: list[dict]) -> dict[str, list]:
            asked = [problem.question(row) + " " for row in rows]
            return problems.marked(point.task, rows, written(whole, tokenizer, asked, values))

        predictions = together.spread(read["test"], answered)
        clock("evaluate")
    notes = ready.notes | problems.kinder(predictions)
    return kept.found(point, files, origin, trainer.state.log_history, predictions, clock, notes, trained)


def padded(tokenizer: Any):
    """A collator: padded on the right to the longest, masked, and the padding does not count."""

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        fill = lambda name, empty: torch.tensor([row[name] + [empty] * (longest - len(row[name])) for row in rows])
        read = torch.tensor([[len(row["input_ids"])] for row in rows])
        return {
            "input_ids": fill("input_ids", tokenizer.pad_token_id),
            "attention_mask": (torch.arange(longest) < read).long(),
            "labels": fill("labels", problems.UNCOUNTED),
        }

    return collate


@torch.no_grad()
def written(model: Any, tokenizer: Any, asked: list[str], values: dict[str, Any]) -> list[str]:
    """What a model writes after each text, greedily; a batch is padded on the left, and the padding is masked.

    Args:
        model: of transformers, causal.
        asked: texts, cut at ``question_length`` tokens.
        values: of the settings ``evaluation_batch``, ``question_length`` and ``new_tokens``.
    """
    model.eval()
    home, made = next(model.parameters()).device, []
    # the long ones together, so that little is padded
    order = sorted(range(len(asked)), key=lambda k: len(asked[k]))
    for begin in range(0, len(order), values["evaluation_batch"]):
        numbers = order[begin : begin + values["evaluation_batch"]]
        texts = tokenizer(
            [asked[k] for k in numbers],
            padding=True,
            padding_side="left",
            truncation=True,
            max_length=values["question_length"],
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(home)
        found = model.generate(
            **texts,
            max_new_tokens=values["new_tokens"],
            do_sample=False,
            temperature=None,
            top_p=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[:, texts["input_ids"].shape[1] :]
        made += zip(numbers, tokenizer.batch_decode(found, skip_special_tokens=True))
    return [text for _, text in sorted(made)]
