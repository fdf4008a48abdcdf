"""Many starts on many instances, and the theorem held against every point they reach."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lorabook.kim.constants import exact_constants
from lorabook.kim.descent import DONE
from lorabook.kim.laboratory import Rate, instance, trap_rates
from lorabook.kim.problem import DecoyFamily
from lorabook.kim.theorem import Spine, bound, least_norm, spine


class Surveyed(NamedTuple):
    """One batch of starts."""

    name: str
    kind: str
    scale: float
    problem: DecoyFamily
    rate: Rate


def survey(
    names, kinds, scales, count: int, seed: int, device: torch.device | str = "cpu", **options
) -> list[Surveyed]:
    """``count`` starts for every instance, kind of start and scale; each at the instance's own rank."""
    settings, runs = [(kind, scale) for kind in kinds for scale in scales], []
    for name in names:
        problem = instance(name, device)
        rates = trap_rates(problem, problem.rank, count, settings, seed, **options)
        runs += [Surveyed(name, *setting, problem, rate) for setting, rate in zip(settings, rates, strict=True)]
    return runs


def worst_ratio(runs) -> float:
    """Largest right side over left side of Theorem 1's inequality at the spurious points, with the exact constants."""
    worst = 0.0
    for run in runs:
        X = run.rate.trained.X[run.rate.spurious]
        if len(X):
            right = bound(_kappa(run), torch.linalg.svdvals(X), run.problem.rank, 1)
            worst = max(worst, float((right / (X - run.problem.solution).square().sum((-2, -1))).max()))
    return worst


def worst_norm_ratio(runs) -> float:
    """Largest ratio of Corollary 1's least norm to the norm, at the spurious points of rank above r* = 1."""
    worst = -float("inf")
    for run in runs:
        X = run.rate.trained.X[run.rate.spurious]
        if len(X) and run.problem.rank > 1:
            least = least_norm(_kappa(run), torch.linalg.svdvals(X), 1.0, run.problem.rank, 1)
            worst = max(worst, float((least / X.square().sum((-2, -1)).sqrt()).max()))
    return worst


def corollary_violations(runs) -> tuple[int, int, float]:
    """Second-order stationary points with ``sigma_r <= kappa sigma_1`` that are spurious, how many had it (r > 1),
    their largest sigma_r."""
    wrong, seen, largest = 0, 0, 0.0
    for run in runs:
        if run.problem.rank > 1:
            s = torch.linalg.svdvals(run.rate.trained.X)
            low = (run.rate.trained.status == DONE) & (s[:, run.problem.rank - 1] <= _kappa(run) * s[:, 0])
            wrong, seen = wrong + int((low & run.rate.spurious).sum()), seen + int(low.sum())
            largest = max([largest, *s[low, run.problem.rank - 1].tolist()])
    return wrong, seen, largest


def slacks(runs) -> dict[str, torch.Tensor]:
    """Slack of each inequality of the proof at every second-order stationary point reached, (points,) each.

    Infinite where the inequality says nothing: that of Eckart and Young at points of lower rank.
    """
    found = []
    for run in runs:
        trained, done = run.rate.trained, run.rate.trained.status == DONE
        found.append(
            spine(
                run.problem,
                trained.B[done],
                trained.A[done],
                run.problem.solution,
                *exact_constants(run.problem),
                rank_star=1,
            )
        )
    return {name: torch.cat(parts) for name, parts in zip(Spine._fields, zip(*found, strict=True), strict=True)}


def late(runs, steps: int) -> int:
    """Number of starts that used up all ``steps`` gradient steps, so that Newton steps finished them from farther
    away."""
    return sum(int((run.rate.trained.steps == steps).sum()) for run in runs)


def points(runs) -> int:
    """Number of second-order stationary points reached."""
    return sum(int((run.rate.trained.status == DONE).sum()) for run in runs)


def _kappa(run: Surveyed) -> float:
    alpha, beta = exact_constants(run.problem)
    return 2 * alpha / beta
