"""Kim, Kim and Ryu's experiments on what is real here: MiniLM and rated sentences through the code of ``lorabook run``.

The settings are those of ``minilm_settings``.  A :class:`Here` stands in the place of the Hub; everything else, from
the linear probing to the record, is the runner's.

    python -m lorabook.experiments.minilm FOLDER

does the runs that have no record in FOLDER yet, one after another, and then writes the tables of ``data/kim_minilm``
(:mod:`lorabook.experiments.minilm_records`), for which factors of one matrix go on to their end.  Three minutes of one
core that is free.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorabook import checks
from lorabook.experiments import ExperimentError, run
from lorabook.experiments.minilm_settings import BLOCK, RATE, SPLITS, values
from lorabook.experiments.points import Point
from lorabook.experiments.shelf import Shelf, quiet
from lorabook.inputs import minilm, sentences

MEMORY: dict[bytes, Tensor] = {}  # what the blocks below make of a sentence, by its tokens; the same for every run


def arms() -> list[Point]:
    """All runs: the head alone, and every decay of appendix C.1."""
    one = functools.partial(Point, "sst2", "sst2", seed=0, rate=RATE)
    # the run that measures the constants is the proximal one at its decay, and goes on from there
    kind = lambda decay: "constants" if decay == values()["factored_decay"] else "proximal"
    return [one("probe"), *(one(kind(decay), decay=decay) for decay in sorted(values()["decays"]))]


def label(arm: Point) -> str:
    """Its name in the tables: ``head``, or a decay."""
    return "head" if arm.decay is None else f"{arm.decay:g}"


class Here(Shelf):
    """The pinned weights and sentences in the place of the Hub."""

    def pretrained(self, kind: Any, repository: str, revision: str, **options: Any) -> Any:
        minilm.tokenizer_file()
        found = kind.from_pretrained(str(minilm.weights_file().parent), **options)
        if isinstance(found, nn.Module):
            remember(found, BLOCK)
        return found

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


def remember(model: Any, below: int, kept: dict[bytes, Tensor] = MEMORY) -> None:
    """Let MiniLM compute its first ``below`` blocks, which nothing trains, once for each sentence.

    The state dict stays as it is.  Equal to the model but for rounding, and only without dropout below.
    """
    lower = copy.deepcopy(model.bert).eval()
    lower.encoder.layer = lower.encoder.layer[:below]
    blank = model.config.pad_token_id

    @torch.no_grad()
    def seen(input_ids: Tensor, **_: Any) -> Tensor:
        mask = input_ids != blank
        names = [ids[real].cpu().numpy().tobytes() for ids, real in zip(input_ids, mask)]
        new = [k for k, name in enumerate(names) if name not in kept]
        if new:
            hidden = lower(input_ids=input_ids[new], attention_mask=mask[new].long()).last_hidden_state
            kept.update((names[k], one[mask[k]]) for k, one in zip(new, hidden))
        return torch.stack(
            [F.pad(kept[name], (0, 0, 0, len(ids) - len(kept[name]))) for name, ids in zip(names, input_ids)]
        )

    model.bert.embeddings.forward = seen
    for layer in model.bert.encoder.layer[:below]:
        layer.forward = lambda hidden_states, *_, **__: hidden_states


def record(arm: Point, out: Path) -> dict:
    """The record of one run in the folder ``out``; what is there is read, and what was stopped goes on."""
    quiet()
    out.mkdir(parents=True, exist_ok=True)
    say = lambda line: print(line, file=sys.stderr, flush=True)
    return json.loads(run.record(arm, values(), out, Here(), say).read_text(encoding="utf-8"))


def main(words: list[str]) -> None:
    """Every run, then the tables."""
    from lorabook.experiments import minilm_records

    if len(words) != 1:
        raise ExperimentError("Say where the records go: python -m lorabook.experiments.minilm FOLDER.")
    out = Path(words[0])
    records = {label(arm): record(arm, out) for arm in arms()}
    minilm_records.write_all(records, out)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ExperimentError as error:
        sys.exit(str(error))
