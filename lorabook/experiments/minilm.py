"""Kim, Kim and Ryu's experiments on what is real here: MiniLM and rated sentences through the code of ``lorabook run``.

Settings, weights and sentences are those of ``minilm_settings``; everything else, from the linear probing to the
record, is the runner's.

    python -m lorabook.experiments.minilm FOLDER

does the runs that have no record in FOLDER yet, one after another, and then writes the tables of ``data/kim_minilm``
(:mod:`lorabook.experiments.minilm_records`), for which factors of one matrix go on to their end.  An hour of one
core.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from lorabook.experiments import ExperimentError, run
from lorabook.experiments.minilm_settings import RATE, Here, values
from lorabook.experiments.points import STARTS, Point
from lorabook.experiments.shelf import quiet


def arms() -> list[Point]:
    """All runs: the head alone, every decay of appendix C.1, and factors from the five starts of appendix C.3."""
    one = functools.partial(Point, "sst2", "sst2", seed=0, rate=RATE)
    # the run that measures the constants is the proximal one at its decay, and goes on from there
    kind = lambda decay: "constants" if decay == values()["factored_decay"] else "proximal"
    return [
        one("probe"),
        *(one(kind(decay), decay=decay) for decay in sorted(values()["decays"])),
        *(one("factored", rank=values()["ranks"][0], start=start) for start in STARTS),
    ]


def label(arm: Point) -> str:
    """Its name in the tables: ``head``, a decay, or a start."""
    return arm.start or ("head" if arm.decay is None else f"{arm.decay:g}")


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
