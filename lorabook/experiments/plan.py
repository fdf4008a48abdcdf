"""What a run asks for, before it begins: downloads, memory, hours on a named card; and whether this machine has it.

    memory    weights, and for what trains its gradient and two moments; activations of a layer
              s b h (34 + 5 a s / h) bytes at 16 bits and twice that at 32 (Korthikanti et al. 2022), s tokens, b rows,
              h width, a heads
    hours     6 operations for each weight and token, 4 where the weights are frozen, 2 where nothing is trained, at
              SHARE of the card's rate; 22 n^3 for a singular value decomposition, at SHARE_SVD of its rate at 64 bits

Both are upper ends: every row is counted at the full length.  Rates are those of the vendors' data sheets, without
sparsity and tensor float 32.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lorabook.device import default_device
from lorabook.experiments import ExperimentError
from lorabook.experiments.points import DECAYED, RANKED, STILL, Point
from lorabook.experiments.settings import Experiment, written
from lorabook.page import figures

SHARE, SHARE_SVD = 0.3, 0.05
GB = 1e9


class Card(NamedTuple):
    """Gigabytes, and 10^12 operations in a second."""

    memory: float
    float32: float
    bfloat16: float
    float64: float


CARDS = {
    "T4": Card(16, 8.1, 8.1, 0.25),
    "L4": Card(24, 30.3, 121, 0.47),
    "RTX4090": Card(24, 82.6, 165, 1.3),
    "A100": Card(80, 19.5, 312, 9.7),
    "H100": Card(80, 67, 989, 34),
    "H200": Card(141, 67, 989, 34),
}


class Need(NamedTuple):
    """What one run takes."""

    download: float  # bytes of model and data, once for all runs
    memory: float  # bytes on the card
    disk: float  # bytes of two checkpoints
    steps: int
    operations: float
    decompositions: float  # operations at 64 bits

    def hours(self, card: Card, precision: str) -> float:
        """On a card."""
        rate = 1e12 * SHARE * getattr(card, precision)
        return (self.operations / rate + self.decompositions / (1e12 * SHARE_SVD * card.float64)) / 3600


def need(experiment: Experiment, run: Point, values: dict[str, Any]) -> Need:
    """What a run takes.

    Args:
        experiment, run: which.
        values: the settings, of :func:`lorabook.experiments.points.values`.
    """
    size, wide = experiment.size, 4 if values["precision"] == "float32" else 2
    weights, rows, length = size["parameters"], size["rows"][run.task], size.get("tokens", values.get("length"))
    steps = math.ceil(rows / values["batch"]) * values["epochs"]
    trained = weights if run.method == "full" else size["matrices"] * size["width"] ** 2 * (run.method in DECAYED)
    if run.method in RANKED and run.rank:
        trained = run.rank * size["adapted"]
    if run.method in STILL:
        trained, steps = weights * (run.method != "pretrained"), 0
    if run.method == "probe":
        steps = math.ceil(rows / values["batch"]) * values["head_epochs"]
    kept = (
        length
        * values.get("micro_batch", values["batch"])
        * size["width"]
        * (34 + 5 * size["heads"] * length / size["width"])
    )
    memory = weights * wide + trained * 12 + size["layers"] * kept * wide / 2
    tokens = 0 if run.method in (*STILL, "probe") else rows * values["epochs"] * length
    work = weights * tokens * (6 if run.method == "full" else 4)
    probed = weights * rows * length * 2 * values.get("head_epochs", 0)
    svd = steps * size["matrices"] * 22 * size["width"] ** 3 if run.decay else 0.0
    if run.method == "constants":  # a gradient and a product with the Hessian, 8 passes of the last block, a sample
        samples = 2 * len(values["table_2_ranks"]) * values["monte_carlo"]
        work += samples * 8 * 2 * weights / size["layers"] * values["monte_carlo_rows"] * length
    stored = 12 * trained if run.method not in DECAYED else 4 * weights + 12 * trained
    download = weights * wide + size["data_megabytes"] * 1e6
    return Need(download, memory, 2 * stored, steps, work + probed, svd)


def told(experiment: Experiment, runs: list[Point], values: dict[str, Any], card: str) -> str:
    """The plan as text.

    Raises:
        ExperimentError: an unknown card.
    """
    if card not in CARDS:
        raise ExperimentError(f"There is no card {card!r} in the list; there are {', '.join(CARDS)}.")
    needs = [need(experiment, run, values) for run in runs]
    hours = [one.hours(CARDS[card], values["precision"]) for one in needs]
    rows = [
        (run.task, run.method, _or(run.rank), _or(run.decay if run.start is None else run.start), run.seed)
        + (one.steps, f"{one.memory / GB:.1f}", f"{hour:.2g}")
        for run, one, hour in zip(runs, needs, hours)
    ]
    header = ["task", "method", "rank", "decay or start", "seed", "steps", "GB", f"hours on {card}, at most"]
    most = max(one.memory for one in needs)
    lines = [
        f"{experiment.title}: {len(runs)} run{'s' if len(runs) > 1 else ''}.",
        f"Model {experiment['model']}, revision {experiment['model_revision'][:10]}.",
        f"Data {written(experiment['data'])}.",
        f"To download, once: {needs[0].download / GB:.1f} GB.",
        f"Memory of the card: up to {most / GB:.1f} GB; {card} has {CARDS[card].memory:g}."
        + ("" if most <= CARDS[card].memory * GB else " That is not enough."),
        f"Together: at most {float(f'{sum(hours):.2g}'):g} hours on one {card}.",
    ]
    return "\n".join([*lines, "", figures.table(header, rows)._repr_mimebundle_()["text/plain"]])


def _or(value: Any) -> Any:
    return "" if value is None else value


def check(needs: Iterable[Need], out: Path, cache: Path) -> None:
    """Whether the machine has what the runs take.

    Args:
        needs: of the runs.
        out: where records and checkpoints go.
        cache: where downloads go.

    Raises:
        ExperimentError: no GPU and none was given up, too little memory on it, too little room on a disk.
    """
    import os

    needs = list(needs)
    home = default_device()
    memory, disk = max(one.memory for one in needs), max(one.disk for one in needs)
    if home.type != "cuda" and not os.environ.get("LORABOOK_DEVICE"):
        raise ExperimentError("There is no GPU here; with LORABOOK_DEVICE=cpu the run is done all the same, slowly.")
    if home.type == "cuda":
        there = torch.cuda.get_device_properties(home).total_memory
        if memory > there:
            raise ExperimentError(f"The run takes {memory / GB:.1f} GB of memory and the card has {there / GB:.1f}.")
    for place, wanted, what in ((out, disk, "checkpoints"), (cache, needs[0].download, "downloads")):
        room = shutil.disk_usage(_there(place)).free
        if wanted > room:
            raise ExperimentError(f"{what} take {wanted / GB:.1f} GB and {place} has room for {room / GB:.1f}.")


def _there(place: Path) -> Path:
    """The place, or the nearest folder above it that exists."""
    return next(one for one in (place, *place.absolute().parents) if one.exists())
