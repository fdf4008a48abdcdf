"""The runs of an experiment: each a task, a method, a rank, a seed, a rate; with a nuclear norm a decay or a start.

Not here: what a run does (``run``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from lorabook import checks
from lorabook.experiments import ExperimentError
from lorabook.experiments.settings import Experiment

ADAPTED = ("lora", "lora_plus", "p_lora", "pissa", "lora_ga", "lora_one", "lora_one_plain")  # with LoRA's factors
STEPPED = ("one_step", "one_step_low_rank")
METHODS = ("pretrained", *STEPPED, "full", *ADAPTED)  # of LoRA-One's tables and of their kind
STARTS = ("zero", "small_1", "small_2", "small_3", "large")  # of Kim, Kim and Ryu's factors
#: What a rehearsal takes less of: steps and rows in a step.
REHEARSED = {"epochs": 2, "head_epochs": 2, "warmup_steps": 2, "batch": 16, "monte_carlo": 20, "new_tokens": 8}
STILL = ("pretrained", *STEPPED)  # nothing is drawn
#: The setting without which a method is not one of an experiment.
ASKS = {"p_lora": "ridge", "lora_one_plain": "ridge", "lora_plus": "lora_plus_ratio"}
ASKS |= dict.fromkeys(STEPPED, "step_sizes")
DECAYED = ("proximal", "constants")  # with a nuclear norm
RANKED = (*ADAPTED, "one_step_low_rank", "factored")
SEEDS = 2**32  # numpy draws from a smaller seed alone


@dataclass(frozen=True)
class Point:
    """One training, or one measurement without a training; ValueError for a seed, a rate or a rank that is none."""

    experiment: str
    task: str
    method: str
    seed: int
    rate: float
    rank: int | None = None
    decay: float | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if checks.count(self.seed, "seed", 0) >= SEEDS:
            raise ExperimentError(f"seed must be below 2^32; got {self.seed}.")
        checks.positive(self.rate, "rate")
        if self.rank is not None:
            checks.count(self.rank, "rank", 1)

    def name(self, values: dict[str, Any]) -> str:
        """A name for files: what it is, and a hash of it with the settings it is run under."""
        told = json.dumps([asdict(self), values], sort_keys=True)
        parts = [self.experiment, self.task, self.method][self.experiment == self.task :]
        parts += [f"r{self.rank}"] if self.rank else []
        parts += [f"d{self.decay:g}"] if self.decay is not None else []
        parts += [self.start] if self.start else []
        return "-".join([*parts, f"s{self.seed}", hashlib.sha256(told.encode()).hexdigest()[:8]])


def values(experiment: Experiment, rehearse: bool = False) -> dict[str, Any]:
    """The settings by name, as a run uses them."""
    found = {name: one.value for name, one in experiment.settings.items()}
    if not rehearse:
        return found
    return (
        found | {name: min(most, found[name]) for name, most in REHEARSED.items() if name in found} | {"checkpoints": 4}
    )


def methods(experiment: Experiment) -> tuple[str, ...]:
    """The methods that can be run: those of the source and, for LoRA-One's tables, further ones of the same kind."""
    own = tuple(experiment["methods"])
    further = METHODS if experiment.source == "lora_one" else ()
    able = [one for one in further if ASKS.get(one, "tasks") in experiment.settings]
    return tuple(dict.fromkeys([*own, *able]))


def runs(experiment: Experiment, everything: bool = False, rehearse: bool = False, **given: Any) -> list[Point]:
    """The runs that are asked for.

    Args:
        experiment: which.
        everything: all values of what is not given; otherwise its first one, and one task and method have to be named.
        rehearse: of seeds and ranks the first will do: another one goes the same way.
        given: ``task``, ``method``, ``rank``, ``seed``, ``rate``, ``decay``, ``start``; None where not given.

    Raises:
        ExperimentError: an unknown value, a choice that is missing, one that no method has, too large a rank or seed.
        ValueError: a seed, a rate or a rank that is none.
    """
    known = methods(experiment)
    tasks = _chosen("task", experiment["tasks"], given.pop("task", None), everything)
    chosen = _chosen("method", known, given.pop("method", None), everything, experiment["methods"])
    given = {name: one for name, one in given.items() if one is not None}
    found = []
    for method, task in itertools.product(chosen, tasks):
        lists = {}
        for name, usual in _choices(experiment, task, method).items():
            whole = everything and not (name == "seed" and method in STILL or rehearse and name in ("seed", "rank"))
            lists[name] = [given[name]] if name in given else usual if whole else usual[:1]
            if name in ("decay", "start") and lists[name][0] not in usual:
                raise ExperimentError(f"{name} {given[name]!r} is not one of {_or(usual)}.")
        fixed = {"rate": _rate(experiment, task, method)}
        fixed |= {"decay": experiment["factored_decay"]} if method == "constants" else {}
        for one in itertools.product(*lists.values()):
            found.append(Point(experiment.name, task, method, **fixed | dict(zip(lists, one))))
    for name in given:
        if not any(name in _choices(experiment, tasks[0], method) for method in chosen):
            raise ExperimentError(f"No {name} can be chosen for {_or(chosen)}.")
    if given.get("rank", 0) > experiment.size["width"]:
        raise ExperimentError(f"rank {given['rank']} is above {experiment.size['width']}, the width of the network.")
    return found


def check(point: Point, experiment: Experiment) -> None:
    """Raise ExperimentError where an experiment has no such run, at any rate, rank and seed."""
    given = {name: getattr(point, name) for name in ("task", "method", "rank", "seed")}
    if all(replace(one, rate=point.rate) != point for one in runs(experiment, everything=True, **given)):
        kind = ", ".join(f"{name} {getattr(point, name)!r}" for name in ("rank", "decay", "start"))
        raise ExperimentError(f"{experiment.name} has no run of {point.method} with {kind}.")


def _choices(experiment: Experiment, task: str, method: str) -> dict[str, list]:
    """What can be chosen for a method, with the experiment's own values, the usual one first."""
    usual = {
        "seed": (experiment["seeds"], True),
        "rank": (experiment["ranks"], method in RANKED),
        "decay": (experiment["decays"] if method == "proximal" else [], method == "proximal"),
        "start": (list(starts(experiment)), method == "factored"),
        "rate": ([_rate(experiment, task, method)], method not in (*STILL, "probe")),
    }
    return {name: own for name, (own, counts) in usual.items() if counts}


def starts(experiment: Experiment) -> tuple[str, ...]:
    """The starts of factored training: Kim, Kim and Ryu's five by name, or the sizes of a Gaussian one."""
    if "large_start" in experiment.settings:
        return STARTS
    return tuple(f"{size:g}" for size in experiment.settings["starts"].value) if "starts" in experiment.settings else ()


def _rate(experiment: Experiment, task: str, method: str) -> float:
    """The rate of a run that names none: the configuration's, or the first of the grid."""
    own = {"full_rates": method == "full", "code_rates": task == "humaneval", "rates": True}
    usual = next(name for name, counts in own.items() if counts and name in experiment.settings)
    return experiment["rate"] if "rate" in experiment.settings else experiment[usual][0]


def _chosen(what: str, known: Any, asked: Any, everything: bool, usual: Any = None) -> list:
    if asked is not None:
        if asked not in known:
            raise ExperimentError(f"There is no {what} {asked!r}; there are {', '.join(map(str, known))}.")
        return [asked]
    if everything or len(known) == 1:
        return list(usual or known)
    raise ExperimentError(f"Name a {what} (--{what}): {', '.join(map(str, known))}; or --all.")


def _or(names: Any) -> str:
    *first, last = map(str, names)
    return f"{', '.join(first)} or {last}" if first else last
