"""Is a merged adapter the weighted sum of the adapters that it was made from?

PEFT's ``add_weighted_adapter`` makes one adapter of several whose updates are ``X_i = c_i B_i A_i``.  Against their
weighted sum ``S = sum_i w_i X_i``:

- ``cat`` writes the factors side by side: S itself, at the sum of the ranks, but for convolutions in groups;
- ``svd`` writes the best update of the highest rank among them, and fails on convolutions but a Conv2d without groups;
- ``linear`` adds the factors, ``B = sum_i sqrt|w_i c_i| B_i`` and A likewise with the signs, and B A is not S.

Each sets alpha to the new rank R, for a scale of 1.  Under rsLoRA, which the new adapter inherits from the first, the
scale is sqrt(R) instead (PEFT's issues 3449 and 3761).  Formulas in exact arithmetic, read in PEFT 0.21.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorabook.adapters import products
from lorabook.adapters.compare import Term, same_base, together
from lorabook.adapters.folder import Adapter, survey
from lorabook.adapters.merge_limits import cat_in_groups, grouped, mergeable, obstacle, odd_convolution
from lorabook.adapters.peft_config import CONFIG, AdapterError, printable

KINDS = ("linear", "cat", "svd")
SUM = "sum"
#: Two updates are called the same up to this relative distance, or four spacings of the stored numbers if that is more.
CLOSE = 1e-4
Terms = list[Term]


@dataclass(frozen=True)
class Merge:
    """What one of PEFT's kinds of merge is, against the weighted sum S."""

    kind: str
    rank: int  # R of the new adapter
    factor: float  # its scale: sqrt(R) where PEFT lets it inherit rsLoRA, or 1
    error: float  # ||M - S||_F / ||S||_F over all modules, with this factor; NaN if there is no M
    error_at_one: float  # the same at the scale 1
    worst: str  # the module with the largest relative error at the scale 1
    worst_error: float
    trouble: str  # why PEFT does not make it, or cannot load what it made; or nothing


@dataclass(frozen=True)
class Checked:
    """A stored adapter M against the weighted sum S and against what PEFT makes."""

    norms: tuple[float, float]  # ||S||_F, ||M||_F
    distances: dict[str, float]  # by module, ||M - S||_F / ||S||_F
    distance: float  # of all modules together
    # (made, factor or the word sqrt(R)): ||M - factor made||_F / ||M||_F, the nearest first
    nearest: list[tuple[str, str, float]]
    tolerance: float
    same: str  # what of these M is: sum, linear or svd; or nothing
    factor: str  # times what: 1 or sqrt(R)


def check_merge(
    paths: Sequence[str | Path],
    weights: Sequence[float],
    merged: str | Path | None = None,
    *,
    any_base: bool = False,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Adapter], list[Merge], Checked | None]:
    """What PEFT's merges of saved adapters give, and whether a stored adapter is their weighted sum.

    Args:
        paths: the adapters, in the order in which PEFT gets them.
        weights: one for each.
        merged: folder of the adapter that should be the sum.
        any_base, progress: as for :func:`lorabook.adapters.compare.compare_folders`.

    Raises:
        AdapterError: a folder that cannot be read, adapters of different bases, or a module of different shapes.
        ValueError: weights that do not fit the adapters.
    """
    if len(weights) != len(paths) or not paths or not all(0 < abs(one) < 1e100 for one in weights):
        raise ValueError(f"Give one weight for each of the {len(paths)} adapters, neither 0 nor infinite.")
    adapters = [mergeable(survey(path)) for path in paths]
    stored = [] if merged is None else [mergeable(survey(merged))]
    same_base(adapters + stored, any_base)
    plan, check, sums = _Plan(adapters), _Check(), {}
    # PEFT applies B A of an embedding transposed; signs go to its A
    turned = {name for one in adapters for name, part in one.parts.items() if part.transposed}
    for name, row in together(adapters + stored, progress):
        found: list[Term | None] = []
        for one in row:
            if isinstance(one, str):
                raise AdapterError(one)
            found.append((one[0], one[2].mT, one[1].mT) if one and name in turned else one)
        terms = [(weight * one[0], one[1], one[2]) for weight, one in zip(weights, found) if one]
        sums[name] = _norm(terms)
        plan.add(name, terms)
        if stored:
            check.add(name, terms, found[-1])
    return adapters, plan.merges(sums), check.result(sums) if stored else None


def linear(terms: Terms) -> Terms:
    """The product that ``linear`` writes, nothing where the ranks differ."""
    if len({A.shape[0] for _, _, A in terms}) > 1:
        return []
    B = torch.stack([math.sqrt(abs(c)) * B.double() for c, B, _ in terms]).sum(0)
    A = torch.stack([math.copysign(math.sqrt(abs(c)), c) * A.double() for c, _, A in terms]).sum(0)
    return [(1.0, B, A)]


def svd(terms: Terms, rank: int) -> Terms:
    """The product that ``svd`` writes."""
    U, s, Vh = products.svd(*products.joined(*terms))
    return [(1.0, U[:, :rank] * s[:rank], Vh[:rank])]


class _Plan:
    """Collects what each kind of merge would give."""

    def __init__(self, adapters: list[Adapter]):
        configs = [one.config for one in adapters]
        ranks = [max([one["r"], *(one.get("rank_pattern") or {}).values()]) for one in configs]
        self.rank = {"linear": ranks[0], "cat": sum(ranks), "svd": max(ranks)}
        self.rslora = bool(configs[0].get("use_rslora"))
        self.trouble = dict.fromkeys(KINDS, obstacle(adapters))
        self.missing: set[str] = set()
        if len(set(ranks)) > 1:
            self._refuse("linear", "PEFT refuses it, as the ranks differ")
        if len(adapters) == 1:
            self.trouble |= dict.fromkeys(("cat", "svd"), "PEFT makes linear of a single adapter")
        odd = next(filter(None, map(odd_convolution, adapters)), "") if len(adapters) > 1 else ""
        if odd:
            self._refuse("svd", f"PEFT fails on it, as {odd}: of convolutions it knows those in two dimensions")
        self.groups = grouped(adapters) if len(adapters) > 1 else {}
        self.errors: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
        self.scaled: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def add(self, name: str, terms: Terms) -> None:
        if not terms:
            return
        made = {"linear": linear(terms), "cat": terms, "svd": svd(terms, self.rank["svd"])}
        if name in self.groups:
            made["cat"] = self._in_groups(name, terms)
        if not made["linear"]:
            self._refuse("linear", f"PEFT refuses it, as the ranks differ in {printable(name)}")
        elif terms[0][2].shape[0] != self.rank["linear"]:
            self.trouble["linear"] = self.trouble["linear"] or (
                f"PEFT cannot load what it saves, as {printable(name)} has rank {terms[0][2].shape[0]} in it and "
                f"{CONFIG} says {self.rank['linear']}"
            )
        for kind in KINDS:
            self.errors[kind][name] = _apart(1.0, made[kind], terms)
            self.scaled[kind].append(_apart(self._factor(kind), made[kind], terms) if self.rslora else 0.0)

    def merges(self, sums: dict[str, float]) -> list[Merge]:
        whole, found = products.length(list(sums.values())), []
        for kind in KINDS:
            plain = {name: _share(error, sums[name]) for name, error in self.errors[kind].items()}
            worst = max(plain, key=plain.__getitem__, default="")
            total = _share(products.length(list(self.errors[kind].values())), whole)
            scaled = _share(products.length(self.scaled[kind]), whole) if self.rslora else total
            if kind in self.missing:
                total = scaled = math.nan
                plain, worst = {"": math.nan}, ""
            found.append(
                Merge(
                    kind,
                    self.rank[kind],
                    self._factor(kind),
                    scaled,
                    total,
                    worst,
                    plain.get(worst, 0.0),
                    self.trouble[kind],
                )
            )
        return found

    def _in_groups(self, name: str, terms: Terms) -> Terms:
        """What ``cat`` makes of a convolution in groups."""
        groups, what = self.groups[name], f"{printable(name)}, a convolution in groups"
        self._refuse("svd", f"PEFT fails on it, as {printable(name)} is a convolution in groups")
        for kind in KINDS:
            if self.rank[kind] % groups:
                self._refuse(kind, f"PEFT fails on it, as the rank R is no multiple of the {groups} groups of {what}")
        if self.rank["cat"] % groups:
            return terms
        self.trouble["cat"] = self.trouble["cat"] or (
            f"PEFT's merge is wrong in {what}, and PEFT says nothing: it puts factors into other groups than theirs"
        )
        return cat_in_groups(terms, groups, self.rank["cat"])

    def _refuse(self, kind: str, why: str) -> None:
        if kind not in self.missing:
            self.trouble[kind] = why
            self.missing.add(kind)

    def _factor(self, kind: str) -> float:
        return math.sqrt(self.rank[kind]) if self.rslora else 1.0


class _Check:
    """Collects how far a stored adapter is from the sum and from what PEFT makes of it."""

    def __init__(self):
        self.norms: list[float] = []
        self.apart: dict[str, float] = {}
        self.missing: set[str] = set()
        self.beside: dict[tuple[str, str], list[float]] = {
            (made, factor): [] for made in (SUM, "linear", "svd") for factor in ("1", "sqrt(R)")
        }
        self.eps = 0.0

    def add(self, name: str, terms: Terms, stored: Term | None) -> None:
        M = [stored] if stored else []
        self.norms.append(_norm(M))
        self.eps = max([self.eps, *(torch.finfo(half.dtype).eps for _, *halves in terms + M for half in halves)])
        rank = M[0][2].shape[0] if M else 1
        made = {
            SUM: terms,
            "linear": linear(terms) if terms else [],
            "svd": svd(terms, rank) if terms and rank else [],
        }
        if terms and not made["linear"]:
            self.missing.add("linear")
        for (kind, factor), kept in self.beside.items():
            kept.append(_apart(math.sqrt(rank) if factor != "1" else 1.0, made[kind], M))
        self.apart[name] = self.beside[SUM, "1"][-1]

    def result(self, sums: dict[str, float]) -> Checked:
        whole, size = products.length(list(sums.values())), products.length(self.norms)
        nearest = sorted(
            (
                (kind, factor, _share(products.length(kept), size))
                for (kind, factor), kept in self.beside.items()
                if kind not in self.missing
            ),
            key=lambda one: one[2],
        )
        tolerance = max(CLOSE, 4 * self.eps)
        # of two that are both near, the sum is the one to name
        right = [one for one in nearest if one[2] <= tolerance]
        right.sort(key=lambda one: (one[0] != SUM, one[1] != "1", one[2]))
        same, factor = right[0][:2] if right else ("", "")
        return Checked(
            (whole, size),
            {name: _share(error, sums[name]) for name, error in self.apart.items()},
            _share(products.length(list(self.apart.values())), whole),
            nearest,
            tolerance,
            same,
            factor,
        )


def _norm(terms: Terms) -> float:
    return products.norm(*products.joined(*terms)) if terms else 0.0


def _apart(factor: float, one: Terms, other: Terms) -> float:
    """Frobenius norm of ``factor`` times one sum of products minus another."""
    return _norm([(factor * c, B, A) for c, B, A in one] + [(-c, B, A) for c, B, A in other])


def _share(error: float, size: float) -> float:
    return error / size if size else (math.inf if error else 0.0)
