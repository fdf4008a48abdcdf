"""Several adapters of one base, such as a Trainer's checkpoints: how the update of every module moves.

``||X_k - X_(k-1)||_F`` is exact and needs no m x n matrix: the difference of two products is the product of the stacked
factors, ``[c_k B_k, -c_(k-1) B_(k-1)] [A_k; A_(k-1)]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorabook.adapters import products
from lorabook.adapters.folder import Adapter, inner_adapters
from lorabook.adapters.inspect import Measured, inspect_folder
from lorabook.adapters.parts import natural
from lorabook.adapters.peft_config import CONFIG, AdapterError
from lorabook.adapters.updates import together


@dataclass(frozen=True)
class Moved:
    """One module in every folder; None where it is not, or where the shapes differ."""

    name: str
    norms: tuple[float | None, ...]  # ||X_k||_F
    stable_ranks: tuple[float | None, ...]
    changes: tuple[float | None, ...]  # ||X_k - X_(k-1)||_F, the first is None


@dataclass(frozen=True)
class Series:
    """Folders in their order, what is in each, and how the modules move."""

    adapters: tuple[Adapter, ...]
    measured: tuple[list[Measured], ...]
    moved: tuple[Moved, ...]
    failed: tuple[str, ...]  # sentences about folders that cannot be read

    def total(self, place: int) -> float:
        """``||X_k||_F`` of all modules together."""
        return math.hypot(*(one.norm for one in self.measured[place]))

    def changed(self, place: int) -> float | None:
        """``||X_k - X_(k-1)||_F / ||X_k||_F`` of all modules together that are in both."""
        both = [(one.changes[place], one.norms[place]) for one in self.moved if one.changes[place] is not None]
        size = math.hypot(*(norm for _, norm in both)) if both else 0.0
        return math.hypot(*(change for change, _ in both)) / size if size else None


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The folders that are meant: one with several adapters in it, such as a Trainer's output, stands for these."""
    found = []
    for path in map(Path, paths):
        inner = inner_adapters(path) if path.is_dir() and not (path / CONFIG).is_file() else []
        found += inner if len(inner) > 1 else [path]
    return found


def inspect_folders(paths: Sequence[str | Path], progress: Callable[[str], None] | None = None) -> Series:
    """Measure every folder, and the way from one to the next.

    Raises:
        AdapterError: none of the folders can be measured.
    """
    adapters, measured, failed = [], [], []
    for path in paths:
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
    return Series(tuple(adapters), tuple(measured), tuple(_moved(adapters, measured, progress)), tuple(failed))


def distance(left: tuple[float, Tensor, Tensor], right: tuple[float, Tensor, Tensor]) -> float:
    """``||c B A - c' B' A'||_F`` from (c, B (m, r), A (r, n)) and (c', B', A')."""
    (c, B, A), (d, C, D) = left, right
    return products.norm(*products.joined((c, B, A), (-d, C, D)))


def _moved(adapters: list[Adapter], measured: list[list[Measured]], progress) -> Iterable[Moved]:
    known = [{one.name: one for one in found} for found in measured]
    for _, row in together(adapters, progress, "changes: "):
        now = [{label: (here[0].scale, B, A) for label, B, A in here[1]} if here else {} for here in row]
        for label in sorted({label for one in now for label in one}, key=natural):
            said = [own.get(label) for own in known]
            if any(said):
                changes: list[float | None] = [None]
                for k in range(1, len(now)):
                    same = said[k] and said[k - 1] and said[k].shape == said[k - 1].shape
                    changes.append(distance(now[k][label], now[k - 1][label]) if same else None)
                yield Moved(
                    label,
                    tuple(one.norm if one else None for one in said),
                    tuple(one.stable_rank if one else None for one in said),
                    tuple(changes),
                )
