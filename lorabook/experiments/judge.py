"""What records say of a published table or figure: the numbers for a verdict, once enough runs are there.

Each published number has an interval: its printed spread, the test set's error, and the error of the mean of our runs,
added in squares.  Where runs of several rates are there, a cell has the rate of the largest mean: no source says how
its rate was chosen, and this is the kindest reading.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import mean, stdev
from typing import NamedTuple

from lorabook.experiments import results
from lorabook.inputs import published

SEEDS = 3  # of a cell that counts
NAMES = {  # of the methods, in the slides' table
    "Full": "full",
    "Pre-trained": "pretrained",
    "One-step GD": "one_step",
    "LoRA": "lora",
    "LoRA+": "lora_plus",
    "P-LoRA": "p_lora",
    "LoRA-GA": "lora_ga",
    "LoRA-One": "lora_one",
}
CORE = [(method, 8, task) for method in ("lora", "lora_one") for task in ("mrpc", "cola")]


class Found(NamedTuple):
    """For :func:`lorabook.page.claims.from_runs`."""

    value: float
    probe: float
    over: str


class Cell(NamedTuple):
    """The runs of one entry of a table, in per cent."""

    mean: float
    error: float  # of the mean, over seeds; 0 where nothing is drawn
    test: float  # of the test set
    runs: int


def judge(claim: str, records: Iterable[dict] | None = None) -> Found | None:
    """The numbers for the verdict on a claim, or None while there are too few runs.

    Args:
        claim: one of JUDGES.
        records: of :func:`lorabook.experiments.results.read`, which is the default.
    """
    return JUDGES[claim](list(results.read() if records is None else records))


def cells(records: list[dict]) -> dict[tuple, Cell]:
    """By method, rank and task the runs of a cell of GLUE's table that has enough of them."""
    found: dict[tuple, dict[float, list]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        run = one["run"]
        if run["experiment"] == "glue":
            found[run["method"], run["rank"], run["task"]][run["rate"]].append(one["metric"])
    made = {}
    for key, rates in found.items():
        still = key[0] in ("pretrained", "one_step")
        enough = [metrics for metrics in rates.values() if still or len(metrics) >= SEEDS]
        if enough:
            best = max(enough, key=lambda metrics: mean(one["value"] for one in metrics))
            values = [100 * one["value"] for one in best]
            error = 0.0 if still else stdev(values) / math.sqrt(len(values))
            made[key] = Cell(mean(values), error, 100 * mean(one["error"] for one in best), len(values))
    return made


def table_glue(records: list[dict]) -> Found | None:
    """The farthest cell from its printed number, in joint errors; the probe takes LoRA's number for LoRA-One's."""
    ours = cells(records)
    if not set(CORE) <= set(ours):
        return None
    printed = {
        (NAMES[row["method"]], row["rank"] and int(row["rank"]), row["dataset"].lower().replace("-", "")): row
        for row in published.read("glue_t5base")
        if row["mean"] is not None
    }

    def distance(key: tuple, other: tuple) -> float:
        cell, row = ours[key], printed[other]
        return abs(cell.mean - row["mean"]) / math.hypot(row["std"] or 0.0, cell.test, cell.error)

    shared = [key for key in ours if key in printed]
    swapped = [distance(("lora_one", 8, task), ("lora", 8, task)) for task in ("mrpc", "cola")]
    runs = sum(ours[key].runs for key in shared)
    return Found(max(distance(key, key) for key in shared), max(swapped), f"{len(shared)} cells, {runs} runs")


def table_time(records: list[dict]) -> Found | None:
    """The least of LoRA's seconds over those of one step, in units of the printed quotient's lower end."""
    spent: dict[tuple, list[float]] = defaultdict(list)
    for one in records:
        run = one["run"]
        if run["experiment"] == "glue" and run["method"] in ("lora", "one_step") and run["rank"] in (8, None):
            part = "train" if run["method"] == "lora" else "start"
            spent[run["task"], run["method"], one.get("device")].append(one["seconds"][part])
    printed = {(row["dataset"].lower(), row["method"]): row["seconds"] for row in published.read("time_cost")}
    quotients, repeated = [], []
    for task in ("cola", "mrpc"):
        for device in {key[2] for key in spent if key[0] == task}:
            lora, step = spent.get((task, "lora", device)), spent.get((task, "one_step", device))
            if lora and step:
                least = printed[task, "LoRA"] / printed[task, "one-step"]
                quotients.append(mean(lora) / mean(step) / least)
                repeated.append(mean(lora) / min(lora) / least)
                break
    if len(quotients) < 2:
        return None
    return Found(min(quotients), max(repeated), "CoLA and MRPC, each on one device")


def table_1(records: list[dict]) -> Found | None:
    """The farthest largest rank from the printed one, in powers of two; the probe reads the next decay's number."""
    printed = [(row["task"].lower(), row["decay"], row["max_rank"]) for row in published.read("kim_table_1")]
    found: dict[tuple, list[int]] = defaultdict(list)
    for one in records:
        run = one["run"]
        if run["method"] == "proximal":
            found[run["task"], run["decay"]].append([entry["rank"] for entry in one["curve"] if "rank" in entry][-1])
    wanted = [(task, decay, rank) for task, decay, rank in printed if decay > 0]
    if not all(found.get((task, decay)) for task, decay, _ in wanted):
        return None
    # a change that vanished has rank 0, which is nearest to 1
    off = lambda task, decay, rank: abs(math.log2(max(mean(found[task, decay]), 0.5) / rank))
    after = [off(task, decay, other[2]) for (task, decay, _), other in zip(wanted, wanted[1:]) if other[0] == task]
    return Found(max(off(*one) for one in wanted), max(after), f"{len(wanted)} decays above 0")


def figure_2(records: list[dict]) -> Found | None:
    """How loudly the large start fails: the least of three measures; the probe takes the third small start for it."""
    ends: dict[str, list[tuple]] = defaultdict(list)
    for one in records:
        if one["run"]["method"] == "factored":
            last = [entry for entry in one["curve"] if "rank" in entry][-1]
            ends[one["run"]["start"]].append(
                (last["norm"], last["rank"], one["metric"]["value"], one["metric"]["error"])
            )
    if min(len(ends[start]) for start in ("zero", "small_3", "large")) < SEEDS:
        return None
    centre = {start: [mean(column) for column in zip(*rows)] for start, rows in ends.items()}

    def loud(start: str) -> float:
        norm, rank, value, error = centre[start]
        norm_0, rank_0, value_0, error_0 = centre["zero"]
        return min(math.log(norm / norm_0), rank - rank_0, (value_0 - value) / math.hypot(error, error_0))

    return Found(loud("large"), loud("small_3"), f"{sum(map(len, ends.values()))} runs on SST-2")


JUDGES: dict[str, Callable[[list[dict]], Found | None]] = {
    "lora_one.table-glue": table_glue,
    "lora_one.table-time": table_time,
    "kim.table-1-published": table_1,
    "kim.figure-2-published": figure_2,
}
