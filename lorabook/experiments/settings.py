"""The sources' experiments as data: ``data/experiments/*.yml``, each setting with where it is from.

A setting has a ``value`` and one of three origins:

    said     the source says it, and where
    code     released code has it: repository@commit and file
    chosen   neither does: chosen here, with the reason

Files are checked when they are read.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

import lorabook
from lorabook.experiments import ExperimentError
from lorabook.page import figures, lists
from lorabook.sweep import grid

FOLDER = lorabook.DATA / "experiments"
ORIGINS = ("said", "code", "chosen")
HEAD = ("title", "source", "claims", "published", "settings", "size")
# What a reader needs to run any of them.
NEEDED = """model model_revision tasks data data_revision splits input methods modules ranks alpha optimizer schedule
    warmup_steps rates epochs batch dropout clipping precision seeds metric evaluation hardware""".split()
_positive = lambda one: type(one) is int and one > 0
_whole = lambda one: type(one) is int and one >= 0
_number = lambda one: type(one) in (int, float) and 0 <= one < math.inf
_text = lambda one: isinstance(one, str)
_words = lambda one: _text(one) or isinstance(one, dict) and all(map(_text, one.values()))
_list = lambda fits: lambda one: isinstance(one, list) and bool(one) and all(map(fits, one))
_or_null = lambda fits: lambda one: one is None or fits(one)
# What a run reads, by its kind; every other setting is WORDS.
READ: dict[str, tuple[Callable[[Any], bool], str]] = {
    "a text": (_text, "model model_revision optimizer schedule"),
    "a list of texts": (_list(_text), "methods modules tasks"),
    "float32 or bfloat16": (("float32", "bfloat16").__contains__, "precision"),
    "yes or no": (
        lambda one: isinstance(one, bool),
        "attention_mask lora_ga_dropout preconditioned rslora shuffle_before_selection",
    ),
    "a positive whole number": (
        _positive,
        """batch epochs evaluation_batch head_epochs length micro_batch monte_carlo monte_carlo_rows new_tokens
        power_steps question_length start_examples train_rows""",
    ),
    "a list of positive whole numbers": (_list(_positive), "table_2_ranks"),
    "a list of positive whole numbers, or null,": (_or_null(_list(_positive)), "ranks"),
    "a whole number from 0 on": (_whole, "warmup_steps"),
    "a list of whole numbers from 0 on": (_list(_whole), "seeds"),
    "a number from 0 on": (
        _number,
        """clipping dropout factored_decay gamma head_rate large_start lora_ga_gamma lora_plus_ratio momentum
        monte_carlo_distance rank_cut rate ridge weight_decay""",
    ),
    "a number from 0 on, or null,": (_or_null(_number), "alpha"),
    "a list of numbers from 0 on": (_list(_number), "code_rates decays full_rates rates starts step_sizes"),
}
KINDS = {name: (kind, fits) for kind, (fits, names) in READ.items() for name in names.split()}
WORDS = "a text for a reader, one for each task, or null", _or_null(_words)
COUNTS = {"parameters", "layers", "width", "heads", "adapted", "matrices", "data_megabytes"}
PLACE = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,40} \S+")


@dataclass(frozen=True)
class Setting:
    """A value, and where it is from."""

    value: Any
    origin: str  # one of ORIGINS
    because: str  # the place in the source, the file in the code, or the reason


@dataclass(frozen=True)
class Experiment:
    """One table or figure of a source as it was made, as far as that is known."""

    name: str
    title: str
    source: str  # a claim list
    claims: tuple[str, ...]  # the claims about what came out
    published: tuple[str, ...]  # the tables of data/published it makes
    settings: dict[str, Setting]
    size: dict[str, Any]  # counts of the network and its data

    def __getitem__(self, name: str) -> Any:
        """The value of a setting."""
        if name not in self.settings:
            raise ExperimentError(f"{self.name} has no setting {name}.")
        return self.settings[name].value

    def counts(self) -> dict[str, int]:
        """How many settings have each origin."""
        return {kind: sum(one.origin == kind for one in self.settings.values()) for kind in ORIGINS}

    def table(self) -> figures.Table:
        """Every setting with its value and where it is from."""
        rows = [
            (name.replace("_", " "), written(one.value), one.origin, one.because) for name, one in self.settings.items()
        ]
        return figures.table(["setting", "value", "from", "where, or why"], rows)


def names() -> list[str]:
    """The experiments there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yml"))


@functools.cache
def load(name: str) -> Experiment:
    """One experiment.

    Raises:
        ExperimentError: there is none of this name, its file cannot be read, or an entry is missing or malformed.
    """
    if name not in names():
        raise ExperimentError(f"There is no experiment {name!r}; there are {', '.join(names())}.")
    return parse(name, (FOLDER / f"{name}.yml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Experiment:
    """An experiment from the text of its file; see :func:`load`."""
    where = f"data/experiments/{name}.yml"
    try:
        head = grid.load(text)
    except (yaml.YAMLError, TypeError) as error:
        raise ExperimentError(f"{where} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(head, dict) or set(head) != set(HEAD) or not isinstance(head["settings"], dict):
        raise ExperimentError(f"{where} needs {', '.join(HEAD)}, and nothing else.")
    if head["source"] not in lists.sources():
        raise ExperimentError(f"{where}: there is no source {head['source']!r}.")
    if not isinstance(head["title"], str) or not all(isinstance(head[key], list) for key in ("claims", "published")):
        raise ExperimentError(f"{where}: title has to be a text, claims and published lists.")
    unknown = [claim for claim in head["claims"] if f"{head['source']}.{claim}" not in lists.load(head["source"])]
    unknown += [table for table in head["published"] if not (lorabook.DATA / f"published/{table}.csv").is_file()]
    if unknown:
        raise ExperimentError(f"{where} names what is not there: {', '.join(map(str, unknown))}.")
    missing = [one for one in NEEDED if one not in head["settings"]]
    if missing:
        raise ExperimentError(f"{where} has no {', '.join(missing)}.")
    settings = {key: _setting(f"{where}, {key}", raw) for key, raw in head["settings"].items()}
    for key, one in settings.items():
        kind, fits = KINDS.get(key, WORDS)
        if not fits(one.value):
            raise ExperimentError(f"{where}, {key}: {kind} is needed; got {one.value!r}.")
    _sized(where, head["size"], settings["tasks"].value)
    claims = tuple(f"{head['source']}.{claim}" for claim in head["claims"])
    return Experiment(name, head["title"], head["source"], claims, tuple(head["published"]), settings, head["size"])


def _setting(where: str, raw: Any) -> Setting:
    origins = [key for key in ORIGINS if isinstance(raw, dict) and key in raw]
    if len(origins) != 1 or set(raw) != {"value", *origins}:
        raise ExperimentError(f"{where}: a value and one of {', '.join(ORIGINS)} are needed.")
    because = raw[origins[0]]
    if not isinstance(because, str) or not because.strip():
        raise ExperimentError(f"{where}: {origins[0]} needs words.")
    if origins == ["code"] and not PLACE.fullmatch(because):
        raise ExperimentError(f"{where}: code is named as owner/repository@commit file; got {because!r}.")
    return Setting(raw["value"], origins[0], because)


def _sized(where: str, size: Any, tasks: list[str]) -> None:
    rows = size.get("rows") if isinstance(size, dict) else None
    counts = {**size, **rows, "rows": 1} if isinstance(rows, dict) else {}
    if not COUNTS | set(tasks) <= set(counts) or not all(map(_positive, counts.values())):
        raise ExperimentError(f"{where}: size needs positive whole numbers: rows by task, {', '.join(sorted(COUNTS))}.")


def written(value: Any) -> str:
    """A value as a reader sees it; of a long commit the first ten digits, which are enough to find it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {written(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(written, value))
    if isinstance(value, float):
        return f"{value:g}"
    return value[:10] if re.fullmatch("[0-9a-f]{40}", str(value)) else str(value)


def count_table() -> figures.Table:
    """For each experiment how many settings are said, in code, and chosen here; and all together."""
    rows = [(name, load(name).title, *load(name).counts().values()) for name in names()]
    total = [sum(column) for column in list(zip(*rows))[2:]]
    return figures.table(["experiment", "what", *ORIGINS], [*rows, ("all", "", *total)])
