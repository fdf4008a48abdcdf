"""A grid of points: what GRID.yml sets, held against the parameters of a notebook.

    fixed: {n: 48}                                          the same in every point
    cross: {rank: [1, 2, 4], scale: {log: [1e-4, 1, 9]}}    every combination; nine scales from 1e-4 to 1
    zip: [{a: [1, 2], b: [3, 4]}]                           side by side
    seeds: 5                                                seed = 0, ..., 4
    resources: {GPU: 1}                                     what a point asks of a worker

All are optional; a bare mapping of lists means ``cross``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lorabook.sweep import SweepError

WORDS = {"fixed", "cross", "zip", "seeds", "resources"}


@dataclass(frozen=True)
class Grid:
    """Points as a product of axes, never held in memory at once."""

    fixed: dict
    axes: list[dict[str, list]]  # an axis sets one parameter or, side by side, several
    resources: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return math.prod(len(next(iter(axis.values()))) for axis in self.axes)

    def __iter__(self) -> Iterator[dict]:
        names = [name for axis in self.axes for name in axis]
        for steps in itertools.product(*(zip(*axis.values()) for axis in self.axes)):
            yield self.fixed | dict(zip(names, itertools.chain(*steps)))


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, and a name that is set twice an error."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(names) > len(set(names)):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} sets a name twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load(text: str) -> Any:
    """What a text in YAML says; TypeError or YAMLError where it is none, or a name is set twice."""
    return yaml.load(text, _Loader)


def read(path: str | Path, defaults: dict) -> Grid:
    """The grid of a file, for a notebook with these ``defaults``.

    Raises:
        SweepError: the file cannot be read, a name is unknown or set twice, or an axis is empty or repeats itself.
    """
    try:
        said = load(Path(path).read_text(encoding="utf-8"))
        return parse(said, defaults)
    except OSError as error:
        raise SweepError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeError, TypeError) as error:
        raise SweepError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from None


def parse(said: dict, defaults: dict) -> Grid:
    """As :func:`read`, of what the file says."""
    said = _mapping(said, "the grid")
    if not said.keys() <= WORDS or isinstance(said.get("seeds"), list):
        said = {"cross": said}
    _known(said, defaults)
    fixed = {name: like(value, defaults.get(name)) for name, value in _mapping(said.get("fixed"), "fixed").items()}
    axes = [{name: _axis(name, values, defaults)} for name, values in _cross(said)]
    for group in _list(said.get("zip", []), "zip"):
        columns = {name: _axis(name, values, defaults) for name, values in _mapping(group, "each of zip").items()}
        if len(set(map(len, columns.values()))) != 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise SweepError(f"side by side stand lists of one length, and these differ: {lengths or 'none at all'}.")
        axes.append(columns)
    names = [*fixed, *(name for axis in axes for name in axis)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SweepError(f"{', '.join(twice)} is set in two places.")
    for axis in axes:
        again = [step for step, times in Counter(map(repr, zip(*axis.values()))).items() if times > 1]
        if again:
            raise SweepError(f"{', '.join(axis)} = {again[0].strip('(,)')} stands there twice.")
    resources = _mapping(said.get("resources"), "resources")
    if not all(type(amount) in (int, float) and amount > 0 for amount in resources.values()):
        raise SweepError(f"resources are positive numbers, such as {{GPU: 1}}; got {resources}.")
    return Grid(fixed, axes, resources)


def _known(said: dict, defaults: dict) -> None:
    """SweepError where a grid sets what is no parameter."""
    names = [*_mapping(said.get("fixed"), "fixed"), *_mapping(said.get("cross"), "cross")]
    names += [name for group in _list(said.get("zip", []), "zip") for name in _mapping(group, "each of zip")]
    names += ["seed"] if "seeds" in said else []
    unknown = sorted({str(name) for name in names if name not in defaults})
    if unknown:
        parts = ", ".join(sorted(WORDS))
        raise SweepError(
            f"it sets {', '.join(unknown)}, and the notebook knows only {', '.join(defaults)}; a grid's own parts are "
            f"{parts}."
        )


def like(value, default):
    """A whole number where the notebook has a float, as that float: 1 and 1.0 are one point."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list) and isinstance(value, list) and default:
        return [like(one, default[0]) for one in value]
    return value


def _cross(said: dict) -> Iterator[tuple[str, object]]:
    yield from _mapping(said.get("cross"), "cross").items()
    if "seeds" in said:
        if type(said["seeds"]) is not int or said["seeds"] < 1:
            raise SweepError(f"seeds is a whole number of at least 1; got {said['seeds']!r}.")
        yield "seed", list(range(said["seeds"]))


def _axis(name: str, values, defaults: dict) -> list:
    """The values of one parameter: a list, or {log: [low, high, count]}, whole numbers where the default is one."""
    if isinstance(values, dict):
        edges = values.get("log")
        if values.keys() != {"log"} or not isinstance(edges, list) or len(edges) != 3:
            raise SweepError(f"{name} is a list or {{log: [low, high, count]}}; got {values}.")
        low, high, count = edges
        plain = all(type(edge) in (int, float) and 0 < edge < math.inf for edge in (low, high))
        if not plain or type(count) is not int or count < 2 or low == high:
            raise SweepError(f"{name}: log takes two positive numbers and a count of at least 2; got {edges}.")
        values = [float(f"{low * (high / low) ** (k / (count - 1)):.12g}") for k in range(count)]
        if type(defaults.get(name)) is int:
            values = list(dict.fromkeys(map(round, values)))
    if not isinstance(values, list) or not values:
        raise SweepError(f"{name} is a list with at least one value; got {values!r}.")
    return [like(value, defaults.get(name)) for value in values]


def _mapping(said, what: str) -> dict:
    if said is not None and not isinstance(said, dict):
        raise SweepError(f"{what} is a list of `name: ...`; got {said!r}.")
    return said or {}


def _list(said, what: str) -> list:
    if not isinstance(said, list):
        raise SweepError(f"{what} is a list of mappings; got {said!r}.")
    return said
