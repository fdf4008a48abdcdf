"""Records of runs, read from ``data/results`` and held against themselves: what does not follow is refused.

A record's accuracy and its error are computed again from the labels and scores in it, its labels counted against the
data set's card, its settings and its name held against the experiment's.  How the scores came about cannot be seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lorabook
from lorabook.experiments import ExperimentError, images, points, problems, settings, tasks
from lorabook.inputs import published
from lorabook.page import figures

FOLDER = lorabook.DATA / "results"
FORMAT = 1
CIFAR = [  # every class has as many pictures as any other
    {"dataset": "CIFAR10", "examples": 10_000.0, "larger_class": 1_000.0},
    {"dataset": "CIFAR100", "examples": 10_000.0, "larger_class": 100.0},
]
KINDS = {"format": int, "run": dict, "settings": dict, "rehearsed": bool, "data": dict, "predictions": dict}
KINDS |= {"metric": dict, "seconds": dict, "notes": dict, "curve": list}
PERHAPS = {"device": str, "contributed_by": str}
COLUMNS = {"gsm8k": {"answers", "texts"}, "humaneval": {"tasks", "texts", "passed"}}  # of predictions
NUCLEAR = (*points.DECAYED, "factored")


def accuracy(predictions: dict) -> tuple[float, float]:
    """Accuracy and the binomial error of it, of ``labels`` (N) and ``scores`` (N, labels), where the first of equals
    counts; or of what :func:`lorabook.experiments.problems.marked` returns.

    Raises:
        ValueError: no rows, columns of different lengths, a score that is not finite, a label without one.
    """
    right = _right(predictions) if "scores" in predictions else _solved(predictions)
    value = sum(right) / len(right)
    return value, math.sqrt(value * (1 - value) / len(right))


def _solved(predictions: dict) -> list[bool]:
    lengths = {len(column) for column in predictions.values()}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError("columns of different lengths, or no problems")
    return problems.right(predictions)


def _right(predictions: dict) -> list[bool]:
    labels, scores = predictions["labels"], predictions["scores"]
    if not labels or len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels and {len(scores)} rows of scores")
    for label, row in zip(labels, scores):
        if not all(isinstance(one, (int, float)) and math.isfinite(one) for one in row) or not 0 <= label < len(row):
            raise ValueError("scores that are no finite numbers, or a label without one")
    return [label == max(range(len(row)), key=row.__getitem__) for label, row in zip(labels, scores)]


def read(folder: Path | None = None) -> list[dict]:
    """Every record of a folder, default ``data/results``, in the order of the names; [] where there is none.

    Raises:
        ExperimentError: one does not agree with itself or with its experiment, see :func:`verified`.
    """
    found = FOLDER if folder is None else folder
    return [verified(path) for path in sorted(found.glob("*.json"))]


def verified(path: Path) -> dict:
    """One record.

    Raises:
        ExperimentError: it cannot be read, is a rehearsal's or of another format, its numbers do not follow from its
            predictions, its labels are not the data set's, its run, its settings or its name not the experiment's.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in KINDS if key not in record]
    except (OSError, ValueError, TypeError) as error:
        raise ExperimentError(f"{path.name} cannot be read: {' '.join(str(error).split())}.") from None
    refuse = lambda why: ExperimentError(f"{path.name}: {why}.")
    if missing:
        raise refuse(f"it has no {', '.join(missing)}")
    if record["format"] != FORMAT:
        raise refuse(f"its format is {record['format']!r}, and {FORMAT} is read here")
    if record["rehearsed"] is not False:
        raise refuse("it is a rehearsal, whose numbers are no results")
    try:
        point = points.Point(**record["run"])
        experiment = settings.load(point.experiment)
        points.check(point, experiment)
        formed(record, point)
        value, error = accuracy(record["predictions"])
    except (KeyError, TypeError, ValueError) as wrong:
        raise refuse(f"it is malformed: {' '.join(str(wrong).split()).rstrip('.')}") from None
    for name, told, found in (
        ("accuracy", record["metric"]["value"], value),
        ("error", record["metric"]["error"], error),
    ):
        if not math.isclose(told, found, rel_tol=1e-12, abs_tol=1e-15):
            raise refuse(f"its {name} is {told:.6g}, and from its predictions follows {found:.6g}")
    _counted(record["predictions"], point.task, refuse)
    wanted = points.values(experiment)
    other = sorted(name for name in wanted | record["settings"] if wanted.get(name) != record["settings"].get(name))
    if other:
        raise refuse(f"it was run under other settings: {', '.join(other)}")
    if path.stem != point.name(wanted):
        raise refuse(f"the name of this run is {point.name(wanted)}.json")
    return record


def formed(record: dict, point: points.Point) -> None:
    """Raise ValueError where a part of a record is of another kind than what is read of it."""
    for key, kind in (KINDS | PERHAPS).items():
        if key in record and not isinstance(record[key], kind):
            raise ValueError(f"its {key} has to be a {kind.__name__}")
    columns = COLUMNS.get(point.task, {"labels", "scores"})
    if set(record["predictions"]) != columns or not all(
        isinstance(one, list) for one in record["predictions"].values()
    ):
        raise ValueError(f"its predictions have to be lists, {' and '.join(sorted(columns))}")
    part = "start" if point.method in points.STEPPED else "train"
    for key, names in (("seconds", {part}), ("metric", {"value", "error"})):
        if not _numbers({name: record[key].get(name) for name in names}):
            raise ValueError(f"its {key} needs numbers, {' and '.join(sorted(names))}")
    if not all(isinstance(entry, dict) and _numbers(entry) for entry in record["curve"]):
        raise ValueError("its curve has to be of numbers by name")
    for names in ({"rank", "first_value_rank", "norm"}, {"loss"}) if point.method in NUCLEAR else ():
        if not any(names <= set(entry) for entry in record["curve"]):
            raise ValueError(f"its curve has no {', '.join(sorted(names))}")


def _numbers(named: dict) -> bool:
    return all(isinstance(one, (int, float)) for one in named.values())


def _counted(predictions: dict, task: str, refuse: Any) -> None:
    """The labels in number against GLUE's validation sets and CIFAR's test sets, and problems against theirs."""
    for row in published.read("llama_evaluation"):
        if row["dataset"].lower() == task:
            if len(predictions["texts"]) != row["examples"]:
                raise refuse(f"it has {len(predictions['texts'])} problems; {row['dataset']} has {row['examples']:.0f}")
            return
    labels = predictions["labels"]
    kinds = images.SETS[task][1] if task in images.SETS else len(tasks.TASKS[task].words)
    if any(len(row) != kinds for row in predictions["scores"]):
        raise refuse(f"its scores are not of the {kinds} labels of {task}")
    for row in [*published.read("glue_validation"), *CIFAR]:
        if row["dataset"].lower().replace("-", "") == task:
            larger = max(labels.count(label) for label in set(labels))
            if (len(labels), larger) != (row["examples"], row["larger_class"]):
                raise refuse(
                    f"of its {len(labels)} labels {larger} are of one class; {row['dataset']} has "
                    f"{row['examples']:.0f} and {row['larger_class']:.0f}"
                )


def table(records: Iterable[dict]) -> figures.Table:
    """What there is: runs, accuracy with the error of the test set, device, and who contributed them."""
    rows = []
    for one in records:
        run, metric = one["run"], one["metric"]
        kind = ", ".join(str(run[key]) for key in ("rank", "decay", "start") if run[key] is not None)
        rows.append(
            (run["task"], run["method"], kind or "–", run["seed"], f"{run['rate']:g}")
            + (f"{100 * metric['value']:.2f} ± {100 * metric['error']:.2f}", one.get("device", "–"))
            + (one.get("contributed_by", "this book"),)
        )
    header = ["task", "method", "rank, decay or start", "seed", "rate", "accuracy, per cent", "device"]
    return figures.table([*header, "by (not verified by us)"], rows)
