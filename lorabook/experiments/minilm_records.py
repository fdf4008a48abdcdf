"""What the runs on MiniLM gave, made into the tables that :mod:`lorabook.experiments.minilm_tables` reads."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook.experiments import kept, minilm, minilm_settings, minilm_settled, nuclear, run
from lorabook.experiments.minilm_tables import FOLDER, losses
from lorabook.experiments.points import STARTS

CUTS = (1e-2, 1e-3, 1e-4)  # of ranks; the text has lost its own


class Ends(NamedTuple):
    """What a record says of its end."""

    arm: str
    method: str
    rank: int  # the largest of the matrices, at the cut of the settings
    norm: float
    loss: float
    accuracy: float
    error: float


def ends(arm: str, record: dict) -> Ends:
    """The end of one run from its record; a run that tunes no matrix has rank and norm 0."""
    values = {name: torch.tensor(s) for name, s in record["notes"].get("singular_values", {}).items()}
    rank = max(nuclear.ranks(values, minilm_settings.values()["rank_cut"]).values(), default=0)
    norm = math.sqrt(sum(float((s**2).sum()) for s in values.values()))
    told = record["predictions"]
    loss = float(losses(margins(told), torch.tensor(told["labels"])).mean())
    metric = record["metric"]
    return Ends(arm, record["run"]["method"], rank, norm, loss, metric["value"], metric["error"])


def margins(predictions: dict) -> Tensor:
    """(N) score of positive minus that of negative, float64."""
    scores = torch.tensor(predictions["scores"], dtype=torch.float64)
    return scores[:, 1] - scores[:, 0]


def course(arm: str, record: dict) -> list[dict]:
    """What a record says of each epoch; the training loss is the mean over its steps."""
    keys = {"rank": "rank", "first_value_rank": "first_value_rank", "norm": "norm"}
    keys |= {"eval_loss": "loss", "eval_accuracy": "accuracy"}
    found: dict[int, dict] = {}
    steps: dict[int, list[float]] = {}
    for entry in record["curve"]:
        epoch = math.ceil(entry["epoch"])
        if "loss" in entry:
            steps.setdefault(epoch, []).append(entry["loss"])
        row = found.setdefault(epoch, {"arm": arm, "epoch": epoch})
        row.update({name: entry[key] for key, name in keys.items() if key in entry})
    return [row | {"training_loss": mean(steps[epoch])} for epoch, row in found.items() if steps]


def matrices(arm: str, record: dict) -> list[dict]:
    """The tuned matrices of one run."""
    rows = []
    for name, found in record["notes"].get("singular_values", {}).items():
        s = torch.tensor(found, dtype=torch.float64)
        ranks = {f"rank_{cut:g}": nuclear.ranks({name: s}, cut)[name] for cut in CUTS}
        block, kind = name.split("layer.")[1].split(".")[0], "query" if "query" in name else "value"
        rows.append(
            {"arm": arm, "block": int(block), "matrix": kind, "largest": float(s[0]), "norm": float(s.norm())} | ranks
        )
    return rows


def head(out: Path) -> list[dict]:
    """The trained head: a row for each weight of its two scores, and for its bias."""
    arm = minilm.arms()[0]
    with kept.seeded(arm.seed):
        model, *_ = run.probed(arm, minilm_settings.values(), out / "head", minilm_settings.Here())
    numbers = torch.cat([model.classifier.weight.detach().mT, model.classifier.bias.detach()[None]])
    return [{"negative": negative, "positive": positive} for negative, positive in numbers.tolist()]


def write_all(records: dict[str, dict], out: Path) -> None:
    """Write the tables.

    Args:
        records: by name, of :func:`lorabook.experiments.minilm.record`.
        out: where they are, with the trained head.
    """
    labels = next(iter(records.values()))["predictions"]["labels"]
    found = {arm: margins(one["predictions"]).tolist() for arm, one in records.items()}
    tables: dict[str, list[dict]] = {
        "ends": [ends(arm, one)._asdict() for arm, one in records.items()],
        "course": [row for arm, one in records.items() for row in course(arm, one)],
        "matrices": [row for arm, one in records.items() for row in matrices(arm, one)],
        "scores": [
            {"label": label} | {arm: f"{column[k]:.4f}" for arm, column in found.items()}
            for k, label in enumerate(labels)
        ],
        "constants": [
            {"matrix": matrix} | row
            for one in records.values()
            for matrix, rows in one["notes"].get("constants", {}).items()
            for row in rows
        ],
        "head": head(out),
    }
    for name, rows in tables.items():
        _write(FOLDER / f"{name}.csv", rows)
    problem = minilm_settled.problem()  # under the head as it was written
    _write(FOLDER / "settled.csv", [row for start in STARTS for row in minilm_settled.course(problem, start)])


def _write(path: Path, rows: list[dict]) -> None:
    short = lambda value: f"{value:.6g}" if isinstance(value, float) else value
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: short(value) for key, value in row.items()} for row in rows)
