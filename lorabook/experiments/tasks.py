"""What an example becomes: GLUE's tasks as text for T5, as LoRA-One's code has it, or as sentences for a classifier.

    x   instruction + the sentence, or both on lines of their own + "\\nresult: "
    y   one word for each label

Source: the authors' code, commit 01bba05, data.py and utils.py; transformers' example run_glue for the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorabook.experiments import ExperimentError


@dataclass(frozen=True)
class GlueTask:
    """One of GLUE's tasks."""

    columns: tuple[str, ...]
    instruction: str
    words: tuple[str, ...]  # by label
    validation: str = "validation"


PAIR = "classify the semantic similarity of the text: "
TASKS = {
    "mnli": GlueTask(("premise", "hypothesis"), PAIR, ("entailment", "neutral", "contradiction"), "validation_matched"),
    "sst2": GlueTask(("sentence",), "classify the sentiment of the text: ", ("negative", "positive")),
    "cola": GlueTask(("sentence",), "classify the grammaticality of the text: ", ("unacceptable", "acceptable")),
    "qnli": GlueTask(
        ("question", "sentence"),
        "classify the semantic similarity of the question and the sentence: ",
        ("entailment", "not_entailment"),
    ),
    "mrpc": GlueTask(("sentence1", "sentence2"), PAIR, ("different", "equivalent")),
}


def file(task: str, split: str) -> str:
    """The file of a split on the Hub, ``split`` being train or validation."""
    if task not in TASKS:
        raise ExperimentError(f"There is no task {task!r}; there are {', '.join(TASKS)}.")
    return f"{task}/{TASKS[task].validation if split == 'validation' else split}-00000-of-00001.parquet"


def prompt(task: str, row: dict) -> tuple[str, str]:
    """The text of an example and its target."""
    one = TASKS[task]
    return one.instruction + "\n".join(row[name] for name in one.columns) + "\nresult: ", one.words[row["label"]]


class AsText(torch.utils.data.Dataset):
    """Examples for an encoder-decoder: token numbers of text and target, both cut at ``length``."""

    def __init__(self, rows: list[dict], task: str, tokenizer: Any, length: int):
        cut = {"truncation": True, "max_length": length, "return_attention_mask": False}
        self.labels = [row["label"] for row in rows]
        texts, targets = zip(*(prompt(task, row) for row in rows))
        self.inputs = tokenizer(list(texts), **cut)["input_ids"]
        self.targets = tokenizer(list(targets), **cut)["input_ids"]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, number: int) -> dict:
        return {"input_ids": self.inputs[number], "labels": self.targets[number]}


class AsSentence(torch.utils.data.Dataset):
    """Examples for a classifier: token numbers, cut at ``length``, and the label."""

    def __init__(self, rows: list[dict], task: str, tokenizer: Any, length: int):
        columns = ([row[name] for row in rows] for name in TASKS[task].columns)
        found = tokenizer(*columns, truncation=True, max_length=length, return_attention_mask=False)
        self.inputs, self.labels = found["input_ids"], [row["label"] for row in rows]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, number: int) -> dict:
        return {"input_ids": self.inputs[number], "labels": self.labels[number]}


def text_batch(tokenizer: Any):
    """A collator: texts and targets padded to the longest, and the padding of the targets counts in the loss."""

    def collate(rows: list[dict]) -> dict[str, Tensor]:
        texts = tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        targets = tokenizer.pad({"input_ids": [row["labels"] for row in rows]}, return_tensors="pt")
        return {
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            "labels": targets["input_ids"],
            "decoder_attention_mask": targets["attention_mask"],
        }

    return collate


def label_tokens(task: str, tokenizer: Any) -> list[int]:
    """The first token of each label's word; they have to differ, or the scores of the labels cannot be told apart."""
    first = [tokenizer(word)["input_ids"][0] for word in TASKS[task].words]
    if len(set(first)) < len(first):
        raise ExperimentError(f"The labels of {task} begin with the same token in this tokenizer.")
    return first
