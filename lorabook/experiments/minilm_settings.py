"""What Kim, Kim and Ryu's experiments on MiniLM are made of: settings, those of ``sst2`` but for CHANGED, each with the
reason; and :class:`Here`, the pinned weights and sentences in the place of the Hub."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lorabook import checks
from lorabook.experiments import points
from lorabook.experiments.settings import load
from lorabook.experiments.shelf import Shelf
from lorabook.inputs import minilm, sentences

SPLITS = {"train": 768, "validation": 1024}  # sentences
RATE = 0.1
CHANGED: dict[str, tuple[Any, str]] = {
    "model": (f"{minilm.PACKAGE} {minilm.VERSION}", "a transformer that is here; six blocks of width 384"),
    "data": (f"{sentences.PACKAGE} {sentences.VERSION}", "film reviews, as in SST-2; positive or negative"),
    "splits": (f"{SPLITS['train']} to train on, {SPLITS['validation']} to test on", "what there is of this length"),
    "length": (16, "sentences of more word pieces are left out, none is cut"),
    "batch": (32, "with so few sentences a larger one would leave too few steps"),
    "epochs": (15, "360 steps in place of 79,000; the rate makes up for it as far as it can"),
    "rates": (
        [RATE],
        "of 0.1 and 0.4 that at which the loss falls; rates and steps multiply to 18, where those of the text make 200",
    ),
    "monte_carlo_rows": (32, "what the time allows"),
    "seeds": ([0], "what the time allows"),
    "checkpoints": (5, "a run takes minutes"),
}


@functools.cache
def values() -> dict[str, Any]:
    """The settings of a run: those of ``sst2`` but for CHANGED."""
    return points.values(load("sst2")) | {name: value for name, (value, _) in CHANGED.items()}


class Here(Shelf):
    """The pinned weights and sentences in the place of the Hub."""

    def pretrained(self, kind: Any, repository: str, revision: str, **options: Any) -> Any:
        minilm.tokenizer_file()
        return kind.from_pretrained(str(minilm.weights_file().parent), **options)

    def rows(self, repository: str, revision: str, name: str) -> tuple[list[dict], str]:
        return split(Path(name).name.split("-")[0]), sentences.SHA256


@functools.cache
def split(name: str) -> list[dict]:
    """The sentences of a split, those that are short enough, in the columns of SST-2."""
    tokenizer = checks.package("tokenizers", "experiments").Tokenizer.from_file(str(minilm.tokenizer_file()))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = sentences.load("movie")
    short = [k for k, one in enumerate(tokenizer.encode_batch(list(found.texts))) if len(one.ids) <= values()["length"]]
    those = sentences.Sentences(tuple(found.texts[k] for k in short), found.labels[short])
    part = dict(zip(SPLITS, sentences.split(those, tuple(SPLITS.values()), 0)))[name]
    return [{"sentence": text, "label": label} for text, label in zip(part.texts, part.labels.tolist())]
