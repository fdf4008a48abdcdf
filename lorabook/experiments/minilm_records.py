"""What the runs on MiniLM gave, made into the tables that :mod:`lorabook.experiments.minilm_tables` reads."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import kim
from lorabook.adapters.targets import targets
from lorabook.experiments import minilm, nuclear, run
from lorabook.experiments.minilm_tables import FOLDER, NAMES, losses
from lorabook.experiments.one_matrix import OneMatrix, settle
from lorabook.experiments.points import STARTS
from lorabook.sweep.engine import write

CUTS = (1e-2, 1e-3, 1e-4)  # of ranks; the text has lost its own
SETTLED = {"soon": 6, "late": 60}  # steps of L-BFGS
ROWS = 32  # sentences of them


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
    rank = max(nuclear.ranks(values, minilm.values()["rank_cut"]).values(), default=0)
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
    """What a record says of each epoch."""
    found: dict[float, dict] = {}
    keys = {"rank": "rank", "first_value_rank": "first_value_rank", "norm": "norm"}
    keys |= {"eval_loss": "loss", "eval_accuracy": "accuracy"}
    for entry in record["curve"]:
        for key, name in keys.items():
            if key in entry:
                found.setdefault(entry["epoch"], {"arm": arm, "epoch": entry["epoch"]})[name] = entry[key]
    return list(found.values())


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


def settled(out: Path) -> list[dict]:
    """Factors on the last value matrix from the five starts, taken on by L-BFGS to the steps of SETTLED."""
    place = out / "settled.json"
    if place.is_file():
        return json.loads(place.read_text(encoding="utf-8"))
    values, arm = minilm.values(), minilm.arms()[0]
    model, sets, _, collate = run._sentences(arm, values, minilm.Here())
    run._probe(arm, values, out / "settled", model, sets, collate, None)
    short = sorted(range(len(sets["train"])), key=lambda k: len(sets["train"][k]["input_ids"]))[:ROWS]
    weight = model.base_model.encoder.layer[-1].attention.self.value.weight.detach().clone()
    batch = collate([sets["train"][k] for k in short])
    problem, rows = OneMatrix(model, "value", weight, [batch], values["factored_decay"]), []
    for start in STARTS:
        torch.manual_seed(arm.seed)
        adapted = nuclear.factored(copy.deepcopy(model), values, values["ranks"][0], start, arm.seed)
        last = list(targets(adapted).values())[-1]
        B, A, done = last.B.detach().double(), last.A.detach().double(), 0
        for when, steps in SETTLED.items():
            B, A = settle(problem, B, A, steps - done)
            done = steps
            rows.append({"start": start, "when": when, "steps": steps} | _state(problem, B, A))
    write(place, json.dumps(rows))
    return rows


def _state(problem: OneMatrix, B: Tensor, A: Tensor) -> dict:
    """Where factors are: objective, rank, norm, and what the certificate says."""
    X = B @ A
    said = kim.certificate.certify(B, A, problem.gradient(X), problem.lam)
    objective, rank = float(kim.landscape.objective(problem, B, A)), int(kim.proximal.numerical_rank(X, CUTS[0]))
    return {"objective": objective, "rank": rank, "norm": float(X.norm()), "slope": said.slope, "excess": said.excess}


def write_all(records: dict[str, dict], out: Path) -> None:
    """Write the six tables.

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
        "settled": settled(out),
    }
    for name in NAMES:
        _write(FOLDER / f"{name}.csv", tables[name])


def _write(path: Path, rows: list[dict]) -> None:
    short = lambda value: f"{value:.6g}" if isinstance(value, float) else value
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: short(value) for key, value in row.items()} for row in rows)
