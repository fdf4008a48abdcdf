"""Saved adapters side by side: how far their updates are from each other, and whether they act in the same directions.

For the updates X and Y of a module, neither of which is formed.  A module that only one adapter has counts as 0 in the
other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePath

from torch import Tensor

from lorabook.adapters import products, updates
from lorabook.adapters.folder import Adapter, survey
from lorabook.adapters.outside import Outside, compare_outside
from lorabook.adapters.peft_config import AdapterError, printable

Term = tuple[float, Tensor, Tensor]  # scale, B (m, r), A (r, n) as they are stored


@dataclass(frozen=True)
class Compared:
    """Two updates X and Y of the same weight, or of all weights together."""

    name: str
    shape: tuple[int, int] | None  # (m, n); none for all together
    norms: tuple[float, float]  # ||X||_F, ||Y||_F
    distance: float  # ||X - Y||_F
    cosine: float  # <X, Y> / (||X||_F ||Y||_F), NaN where one is 0
    directions: tuple[int, int]  # k and l: how many singular directions of each carry the share of the energy
    # ||P^T Q||_F^2 / min(k, l) for bases P (m, k), Q (m, l) of these: 1 if one span holds the other
    left: float
    right: float  # the same on the side of the inputs
    chance: tuple[float, float]  # left and right on average, for spans that know nothing of each other

    @property
    def relative(self) -> float:
        """``||X - Y||_F`` over the longer of the two, 0 where both are 0."""
        return self.distance / max(self.norms) if any(self.norms) else 0.0

    @property
    def ratio(self) -> float:
        """``||Y||_F / ||X||_F``, infinite for X = 0 alone, 1 where both are 0."""
        return self.norms[1] / self.norms[0] if self.norms[0] else math.inf if self.norms[1] else 1.0


@dataclass(frozen=True)
class Comparison:
    """Two adapters of a comparison, by their places in it."""

    first: int
    second: int
    modules: list[Compared]  # those that both have
    total: Compared  # all modules of either; overlaps over those of both
    only: tuple[list[str], list[str]]  # modules of the first alone, of the second alone
    faults: dict[str, str]  # modules that cannot be measured in one of them, and why; they count nowhere
    outside: Outside = field(default_factory=Outside)  # what they hold beside their factors


def compare_folders(
    paths: Sequence[str | Path],
    *,
    energy: float = 0.9,
    any_base: bool = False,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Adapter], list[Comparison]]:
    """Every two of several saved adapters against each other.

    Args:
        paths: two folders or more.
        energy: share of ``||X||_F^2`` that the directions carry whose overlap is measured.
        any_base: take adapters whose configurations name different base models.
        progress: is called with a line after every module.

    Raises:
        AdapterError: a folder that cannot be read, adapters of different bases, or a module of different shapes.
        ValueError: fewer than two folders, or a share outside (0, 1].
    """
    if len(paths) < 2:
        raise ValueError("Give two adapters or more.")
    if not 0 < energy <= 1:
        raise ValueError(f"The share of the energy must be in (0, 1]; got {energy}.")
    adapters = [survey(path) for path in paths]
    same_base(adapters, any_base)
    pairs = [_Pair(i, j, energy) for i, j in combinations(range(len(adapters)), 2)]
    for name, row in together(adapters, progress):
        decomposed = [products.svd(*products.joined(one)) if isinstance(one, tuple) else None for one in row]
        for pair in pairs:
            pair.add(name, row, decomposed)
    results = [pair.result() for pair in pairs]
    beside = (compare_outside(adapters[one.first], adapters[one.second]) for one in results)
    return adapters, [replace(one, outside=outside) for one, outside in zip(results, beside)]


def same_base(adapters: list[Adapter], any_base: bool = False) -> None:
    """Raise if two configurations name different base models; a folder and a repository of one name are the same."""
    named = [(one, str(one.config.get("base_model_name_or_path") or "")) for one in adapters]
    named = [(one, name) for one, name in named if name]
    for one, name in [] if any_base else named[1:]:
        first, base = named[0]
        if PurePath(name).name.lower() != PurePath(base).name.lower():
            raise AdapterError(
                f"{first.folder} was trained on {printable(base)} and {one.folder} on {printable(name)}: their updates "
                "belong to different weights (--any-base takes them all the same)."
            )


def together(
    adapters: list[Adapter], progress: Callable[[str], None] | None = None
) -> Iterator[tuple[str, list[Term | str | None]]]:
    """Module by module, and expert by expert: what each adapter has there.

    Returns:
        scale, B and A; a sentence where they cannot be used; None where there is nothing.

    Raises:
        AdapterError: a module has different shapes.
    """
    for name, row in updates.together(adapters, progress):
        found: list[dict[str, Term | str]] = []
        for one, here in zip(adapters, row):
            found.append({name: one.faults[name].sentence} if name in one.faults else {})
            if here:
                part, given = here
                found[-1] |= {label: updates.trouble(label, B, A) or (part.scale, B, A) for label, B, A in given}
        for label in dict.fromkeys(label for one in found for label in one):
            terms = [one.get(label) for one in found]
            _same_shape(label, terms, adapters)
            yield label, terms


def _same_shape(label: str, row: list[Term | str | None], adapters: list[Adapter]) -> None:
    known = [(one, (term[1].shape[0], term[2].shape[1])) for one, term in zip(adapters, row) if isinstance(term, tuple)]
    for other, shape in known[1:]:
        first, wanted = known[0]
        if shape != wanted:
            raise AdapterError(
                f"The update of {printable(label)} is {wanted} in {first.folder} and {shape} in {other.folder}: they "
                "belong to different models."
            )


class _Pair:
    """Collects the modules of two adapters."""

    def __init__(self, first: int, second: int, energy: float):
        self.first, self.second, self.energy = first, second, energy
        self.modules: list[Compared] = []
        self.only: tuple[list[str], list[str]] = ([], [])
        self.faults: dict[str, str] = {}
        self.norms: tuple[list[float], list[float]] = ([], [])
        self.distances: list[float] = []

    def add(self, name: str, row: list[Term | str | None], decomposed: list[products.Svd | None]) -> None:
        one, other = row[self.first], row[self.second]
        X, Y = decomposed[self.first], decomposed[self.second]
        if isinstance(one, str) or isinstance(other, str):
            self.faults[name] = one if isinstance(one, str) else str(other)
            return
        if one is None and other is None:
            return
        sizes = products.length(X.s.tolist()) if X else 0.0, products.length(Y.s.tolist()) if Y else 0.0
        for kept, size in zip(self.norms, sizes):
            kept.append(size)
        if one and other and X and Y:
            distance = products.norm(*products.joined(one, (-other[0], *other[1:])))
            self.modules.append(compared(name, X, Y, sizes, distance, self.energy))
            self.distances.append(distance)
        else:
            self.only[0 if X else 1].append(name)
            self.distances.append(max(sizes))

    def result(self) -> Comparison:
        norms = products.length(self.norms[0]), products.length(self.norms[1])
        cosine = sum(one.cosine * (one.norms[0] / norms[0]) * (one.norms[1] / norms[1]) for one in self._nonzero())
        low = sum(min(one.directions) for one in self._nonzero())
        # the span of all modules together is the direct sum of theirs
        mean = lambda value: sum(min(one.directions) * value(one) for one in self._nonzero()) / low if low else math.nan
        total = Compared(
            "all",
            None,
            norms,
            products.length(self.distances),
            cosine if all(norms) else math.nan,
            (sum(one.directions[0] for one in self.modules), sum(one.directions[1] for one in self.modules)),
            mean(lambda one: one.left),
            mean(lambda one: one.right),
            (mean(lambda one: one.chance[0]), mean(lambda one: one.chance[1])),
        )
        return Comparison(self.first, self.second, self.modules, total, self.only, self.faults)

    def _nonzero(self) -> Iterator[Compared]:
        return (one for one in self.modules if min(one.directions))


def compared(
    name: str, X: products.Svd, Y: products.Svd, norms: tuple[float, float], distance: float, energy: float
) -> Compared:
    """The measures of one module from the decompositions of both updates."""
    m, n = X.U.shape[0], X.Vh.shape[1]
    k, l = (products.energy_rank(one.s, energy) for one in (X, Y))
    if not k or not l:
        return Compared(name, (m, n), norms, distance, math.nan, (k, l), math.nan, math.nan, (math.nan, math.nan))
    inner = (X.s / norms[0]) @ ((X.U.mT @ Y.U) * (X.Vh @ Y.Vh.mT)) @ (Y.s / norms[1])
    return Compared(
        name,
        (m, n),
        norms,
        distance,
        float(inner),
        (k, l),
        products.overlap(X.U[:, :k], Y.U[:, :l]),
        products.overlap(X.Vh[:k].mT, Y.Vh[:l].mT),
        (max(k, l) / m, max(k, l) / n),
    )
