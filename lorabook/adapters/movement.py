"""Several adapters of one base, such as a Trainer's checkpoints: how the update of every module moves.

``||X_k - X_(k-1)||_F`` is exact and needs no m x n matrix: the difference of two products is the product of the stacked
factors, ``[c_k B_k, -c_(k-1) B_(k-1)] [A_k; A_(k-1)]``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorabook.adapters import products
from lorabook.adapters.folder import Adapter, inner_adapters
from lorabook.adapters.inspect import Measured, inspect_folder
from lorabook.adapters.outside import Outside, compare_outside, sentences
from lorabook.adapters.parts import natural
from lorabook.adapters.peft_config import CONFIG, AdapterError
from lorabook.adapters.updates import together

CHECKPOINT = re.compile(r"checkpoint-\d+")  # what transformers' Trainer calls its folders


@dataclass(frozen=True)
class Moved:
    """One module in every folder; None where it is not, or where the shapes differ."""

    name: str
    norms: tuple[float | None, ...]  # ||X_k||_F
    stable_ranks: tuple[float | None, ...]
    changes: tuple[float | None, ...]  # ||X_k - X_j||_F, j the place before in the same run; None for its first


@dataclass(frozen=True)
class Series:
    """Folders, one run after the other, what is in each, and how the modules move within a run."""

    adapters: tuple[Adapter, ...]
    measured: tuple[list[Measured], ...]
    moved: tuple[Moved, ...]
    failed: tuple[str, ...]  # sentences about folders that cannot be read
    runs: tuple[tuple[int, ...], ...]  # places of the folders of each: one adapter at one time after the other
    outside: tuple[Outside | None, ...] = ()  # beside the factors, against the place before in the same run

    def total(self, place: int) -> float:
        """``||X_k||_F`` of all modules together."""
        return math.hypot(*(one.norm for one in self.measured[place]))

    def changed(self, place: int) -> float | None:
        """``||X_k - X_j||_F / ||X_k||_F``, j the place before in the same run, of all modules that are in both."""
        both = [(one.changes[place], one.norms[place]) for one in self.moved if one.changes[place] is not None]
        size = math.hypot(*(norm for _, norm in both)) if both else 0.0
        return math.hypot(*(change for change, _ in both)) / size if size else None

    def beside(self, labels: Sequence[str]) -> Iterable[str]:
        """Sentences about what differs beside the factors from one folder to the next, with names for all folders."""
        for j, k in (pair for run in self.runs for pair in zip(run, run[1:])):
            found = self.outside[k] if self.outside else None
            for sentence in sentences(found, labels[j], labels[k]) if found else ():
                yield f"from {labels[j]} to {labels[k]}: {sentence}"

    def labels(self, run: tuple[int, ...]) -> tuple[str, list[str]]:
        """What the folders of a run have in common, and what tells them apart."""
        folders = [self.adapters[k].folder for k in run]
        names = {folder.name for folder in folders}
        alike = len(folders) > 1 and len(names) == 1  # then where they lie tells them apart
        rooms = [str(folder.parent if alike else folder) for folder in folders]
        room = (os.path.commonpath(rooms) if len(rooms) > 1 else os.path.dirname(rooms[0])) or "."
        return (names.pop() if alike else room), [os.path.relpath(one, room) for one in rooms]


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The folders that are meant: one with several adapters in it, such as a Trainer's output, stands for these.

    Checkpoints may hold named adapters in folders of their own.
    """
    found = []
    for path in map(Path, paths):
        inner = []
        if path.is_dir() and not (path / CONFIG).is_file():
            rooms = sorted((one for one in path.iterdir() if one.is_dir()), key=lambda one: natural(one.name))
            for room in rooms:
                inner += [room] if (room / CONFIG).is_file() else inner_adapters(room)
        found += inner if len(inner) > 1 else [path]
    return found


def runs(paths: Sequence[Path]) -> list[list[Path]]:
    """Which folders follow each other: checkpoints of one output, or of one named adapter where names repeat.

    Folders no two of which belong together so are one run, in the order in which they were given.
    """
    names = [path.name for path in paths]
    found: dict[str, list[Path]] = {}
    for path in paths:
        own = names.count(path.name) > 1 and not CHECKPOINT.fullmatch(path.name)
        found.setdefault(path.name if own else str(path.parent) + "/", []).append(path)
    return list(found.values()) if len(found) < len(paths) else [list(paths)]


def inspect_folders(paths: Sequence[str | Path], progress: Callable[[str], None] | None = None) -> Series:
    """Measure every folder, and the way from one to the next.

    Raises:
        AdapterError: none of the folders can be measured.
    """
    adapters, measured, failed = [], [], []
    groups = runs([Path(path) for path in paths])
    for path in (path for group in groups for path in group):
        try:
            adapter, found = inspect_folder(path, progress)
        except AdapterError as error:
            if len(paths) == 1:
                raise
            failed.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        adapters.append(adapter)
        measured.append(found)
    if not adapters:
        raise AdapterError(" ".join(failed))
    read = [[k for k, one in enumerate(adapters) if one.folder in group] for group in groups]
    places = tuple(tuple(group) for group in read if group)
    before = {k: j for group in places for j, k in zip(group, group[1:])}
    moved = tuple(_moved(adapters, measured, before, progress))
    outside = tuple(
        compare_outside(adapters[before[k]], one) if k in before else None for k, one in enumerate(adapters)
    )
    return Series(tuple(adapters), tuple(measured), moved, tuple(failed), places, outside)


def distance(left: tuple[float, Tensor, Tensor], right: tuple[float, Tensor, Tensor]) -> float:
    """``||c B A - c' B' A'||_F`` from (c, B (m, r), A (r, n)) and (c', B', A')."""
    (c, B, A), (d, C, D) = left, right
    return products.norm(*products.joined((c, B, A), (-d, C, D)))


def _moved(
    adapters: list[Adapter], measured: list[list[Measured]], before: dict[int, int], progress
) -> Iterable[Moved]:
    known = [{one.name: one for one in found} for found in measured]
    for _, row in together(adapters, progress, "changes: "):
        now = [{label: (here[0].scale, B, A) for label, B, A in here[1]} if here else {} for here in row]
        for label in sorted({label for one in now for label in one}, key=natural):
            said = [own.get(label) for own in known]
            if any(said):
                changes: list[float | None] = [None] * len(now)
                for k, j in before.items():
                    if said[k] and said[j] and said[k].shape == said[j].shape:
                        changes[k] = distance(now[k][label], now[j][label])
                yield Moved(
                    label,
                    tuple(one.norm if one else None for one in said),
                    tuple(one.stable_rank if one else None for one in said),
                    tuple(changes),
                )
