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
from lorabook.experiments.points import STARTS
from lorabook.experiments.settings import load
from lorabook.inputs import published

SEEDS = 3  # of a cell that counts
KIM = ("sst2", "cifar100")
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


def cells(records: list[dict], experiment: str = "glue") -> dict[tuple, Cell]:
    """By method, rank and task the runs of a cell of a table of LoRA-One that has enough of them."""
    found: dict[tuple, dict[float, list]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        run = one["run"]
        if run["experiment"] == experiment:
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
    return _table(cells(records), "glue_t5base", ("mrpc", "cola"))


def table_llama(records: list[dict]) -> Found | None:
    """The same of Llama's table, where GSM8K is enough."""
    return _table(cells(records, "llama"), "llama2_7b", ("gsm8k",))


def _table(ours: dict[tuple, Cell], table: str, tasks: tuple[str, ...]) -> Found | None:
    """A table of LoRA-One once LoRA and LoRA-One of rank 8 are there for the tasks."""
    if not {(method, 8, task) for method in ("lora", "lora_one") for task in tasks} <= set(ours):
        return None
    printed = {
        (NAMES[row["method"]], row["rank"] and int(row["rank"]), row["dataset"].lower().replace("-", "")): row
        for row in published.read(table)
        if row["mean"] is not None
    }

    def distance(key: tuple, other: tuple) -> float:
        cell, row = ours[key], printed[other]
        return abs(cell.mean - row["mean"]) / math.hypot(row["std"] or 0.0, cell.test, cell.error)

    shared = [key for key in ours if key in printed]
    swapped = [distance(("lora_one", 8, task), ("lora", 8, task)) for task in tasks]
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


def figure_1(records: list[dict]) -> Found | None:
    """How far the rank of the first value matrix falls during training, in powers of two: the least over the decays of
    Table 1 above 0; the probe is the most without decay."""
    falls: dict[tuple, list[float]] = defaultdict(list)
    for one in records:
        if one["run"]["method"] == "proximal":
            # of a change that vanished the rank is 0
            course = [max(entry["first_value_rank"], 0.5) for entry in one["curve"] if "first_value_rank" in entry]
            falls[one["run"]["task"], one["run"]["decay"]].append(math.log2(max(course) / course[-1]))
    wanted = [(row["task"].lower(), row["decay"]) for row in published.read("kim_table_1")]
    if not all(falls[key] for key in wanted):
        return None
    least = min(mean(falls[key]) for key in wanted if key[1] > 0)
    return Found(least, max(mean(falls[key]) for key in wanted if key[1] == 0), f"{len(wanted)} decays")


def accuracy_against_decay(records: list[dict]) -> Found | None:
    """How far decay harms on CIFAR-100 and does not on SST-2; the probe takes the largest decay of SST-2.

    A harm is the fall of the accuracy from decay 0 to the mean of the decays above 0, of SST-2 without the largest, in
    joint errors of the two test sets' accuracies.  Two of them separate harm from none.
    """
    found: dict[tuple, list[dict]] = defaultdict(list)
    for one in records:
        if one["run"]["method"] == "proximal":
            found[one["run"]["task"], one["run"]["decay"]].append(one["metric"])
    grids = {task: sorted(r["decay"] for r in published.read("kim_grids") if r["task"].lower() == task) for task in KIM}
    if not all(found[task, decay] for task, grid in grids.items() for decay in grid):
        return None
    centre = lambda key, name: mean(one[name] for one in found[key])

    def harm(task: str, decays: list[float]) -> float:
        fall = centre((task, 0.0), "value") - mean(centre((task, one), "value") for one in decays)
        return fall / math.hypot(centre((task, decays[0]), "error"), centre((task, 0.0), "error"))

    (_, *small, large), (_, *others) = (grids[task] for task in KIM)
    harmed = harm("cifar100", others) - 2
    apart = lambda decays: min(harmed, 2 - harm("sst2", decays))
    return Found(apart(small), apart([large]), f"{sum(map(len, grids.values()))} decays")


def _ends(records: list[dict]) -> dict[str, list[float]]:
    """By start on SST-2 the means of norm, rank, accuracy and its error at the end, where there are enough seeds."""
    ends: dict[str, list[tuple]] = defaultdict(list)
    for one in records:
        if one["run"]["experiment"] == "sst2" and one["run"]["method"] == "factored":
            last = [entry for entry in one["curve"] if "rank" in entry][-1]
            ends[one["run"]["start"]].append(
                (last["norm"], last["rank"], one["metric"]["value"], one["metric"]["error"])
            )
    return {start: [mean(column) for column in zip(*rows)] for start, rows in ends.items() if len(rows) >= SEEDS}


def figure_2(records: list[dict]) -> Found | None:
    """How loudly the large start fails: the least of three measures; the probe takes the third small start for it."""
    ends = _ends(records)
    if not {"zero", "small_3", "large"} <= set(ends):
        return None

    def loud(start: str) -> float:
        norm, rank, value, error = ends[start]
        norm_0, rank_0, value_0, error_0 = ends["zero"]
        return min(math.log(norm / norm_0), rank - rank_0, (value_0 - value) / math.hypot(error, error_0))

    return Found(loud("large"), loud("small_3"), f"{len(ends)} starts on SST-2")


def appendix_c3(records: list[dict]) -> Found | None:
    """How far a small start ends from the zero start: the largest of the powers of two between the norms and half the
    joint errors between the accuracies; the probe is the large start."""
    ends = _ends(records)
    if not set(STARTS) <= set(ends):
        return None

    def apart(start: str) -> float:
        (norm, _, value, error), (norm_0, _, value_0, error_0) = ends[start], ends["zero"]
        return max(abs(math.log2(norm / norm_0)), abs(value - value_0) / math.hypot(error, error_0) / 2)

    small = [apart(start) for start in STARTS if start.startswith("small")]
    return Found(max(small), apart("large"), f"{len(ends)} starts on SST-2")


def vit_figure(records: list[dict]) -> Found | None:
    """How much lower the training loss ends at the next smaller start, in errors of the means over seeds: the least;
    the probe exchanges the two sizes in the middle."""
    ends: dict[float, list[float]] = defaultdict(list)
    for one in records:
        if one["run"]["experiment"] == "cifar10":
            ends[float(one["run"]["start"])].append([entry["loss"] for entry in one["curve"] if "loss" in entry][-1])
    sizes = sorted(size for size, losses in ends.items() if len(losses) >= SEEDS)
    if set(sizes) != set(load("cifar10")["starts"]):
        return None
    error = lambda size: stdev(ends[size]) / math.sqrt(len(ends[size]))
    lower = lambda a, b: (mean(ends[b]) - mean(ends[a])) / math.hypot(error(a), error(b), 1e-12)
    least = lambda order: min(lower(a, b) for a, b in zip(order, order[1:]))
    first, second, third, *others = sizes
    over = f"{len(sizes)} sizes, {sum(map(len, ends.values()))} runs"
    return Found(least(sizes), least([first, third, second, *others]), over)


JUDGES: dict[str, Callable[[list[dict]], Found | None]] = {
    "lora_one.table-glue": table_glue,
    "lora_one.table-llama": table_llama,
    "lora_one.table-time": table_time,
    "kim.table-1-published": table_1,
    "kim.figure-1-ranks": figure_1,
    "kim.figure-2-published": figure_2,
    "kim.appendix-c3-published": appendix_c3,
    "kim.accuracy-against-decay": accuracy_against_decay,
    "mallada.vit-figure": vit_figure,
}
