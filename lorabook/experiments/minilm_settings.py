"""The settings of Kim, Kim and Ryu's experiments on MiniLM: those of ``sst2`` but for CHANGED, each with the reason."""

from __future__ import annotations

import functools
from typing import Any

from lorabook.experiments import points
from lorabook.experiments.settings import load
from lorabook.inputs import minilm, sentences

SPLITS = {"train": 384, "validation": 512}  # sentences
BLOCK = 5  # the last one, whose query and value are tuned
RATE = 0.4
CHANGED: dict[str, tuple[Any, str]] = {
    "model": (f"{minilm.PACKAGE} {minilm.VERSION}", "a transformer that is here; six blocks of width 384"),
    "data": (f"{sentences.PACKAGE} {sentences.VERSION}", "film reviews, as in SST-2; positive or negative"),
    "splits": (f"{SPLITS['train']} to train on, {SPLITS['validation']} to test on", "what the time allows"),
    "length": (12, "sentences of more word pieces are left out, none is cut"),
    "modules": (
        [f"{BLOCK}.attention.self.{kind}" for kind in ("query", "value")],
        "the last block; what lies below is computed once",
    ),
    "batch": (32, "with so few sentences a larger one would leave too few steps"),
    "epochs": (4, "48 steps in place of 79,000; the rate makes up for it as far as it can"),
    "rates": (
        [RATE],
        "the largest curvature allows 0.44; rates and steps multiply to 10, where those of the text make 200",
    ),
    "monte_carlo": (20, "what the time allows; more samples only move the least and the largest outwards, slowly"),
    "monte_carlo_rows": (32, "what the time allows"),
    "power_steps": (12, "what the time allows"),
    "seeds": ([0], "what the time allows"),
    "checkpoints": (1, "a run takes a minute"),
}


@functools.cache
def values() -> dict[str, Any]:
    """The settings of a run: those of ``sst2`` but for CHANGED."""
    return points.values(load("sst2")) | {name: value for name, (value, _) in CHANGED.items()}
