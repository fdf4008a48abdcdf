"""The sources' experiments as data: ``data/experiments/*.yml``, each setting with where it is from.

A setting has a ``value`` and one of three origins:

    said     the source says it, and where
    code     released code has it: repository@commit and file
    chosen   neither does: chosen here, with the reason

Files are checked when they are read.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import yaml

import lorabook
from lorabook.experiments import ExperimentError
from lorabook.page import figures, lists

FOLDER = lorabook.DATA / "experiments"
ORIGINS = ("said", "code", "chosen")
HEAD = ("title", "source", "claims", "published", "settings")
# What a reader needs to run any of them.
NEEDED = """model model_revision tasks data data_revision splits input methods modules ranks alpha optimizer schedule
    warmup_steps rates epochs batch dropout clipping precision seeds metric evaluation hardware""".split()
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
    size: dict[str, Any]  # counts of the network and its data, of those that can be run

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
        head = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{where} cannot be read: {' '.join(str(error).split())}.") from None
    size = head.pop("size", {}) if isinstance(head, dict) else {}
    if not isinstance(head, dict) or set(head) != set(HEAD) or not isinstance(head["settings"], dict):
        raise ExperimentError(f"{where} needs {', '.join(HEAD)}, perhaps size, and nothing else.")
    if head["source"] not in lists.sources():
        raise ExperimentError(f"{where}: there is no source {head['source']!r}.")
    unknown = [claim for claim in head["claims"] if f"{head['source']}.{claim}" not in lists.load(head["source"])]
    unknown += [table for table in head["published"] if not (lorabook.DATA / f"published/{table}.csv").is_file()]
    if unknown:
        raise ExperimentError(f"{where} names what is not there: {', '.join(unknown)}.")
    missing = [one for one in NEEDED if one not in head["settings"]]
    if missing:
        raise ExperimentError(f"{where} has no {', '.join(missing)}.")
    settings = {key: _setting(f"{where}, {key}", raw) for key, raw in head["settings"].items()}
    claims = tuple(f"{head['source']}.{claim}" for claim in head["claims"])
    return Experiment(name, head["title"], head["source"], claims, tuple(head["published"]), settings, size)


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
