"""Runs of the pages: many starts on many instances, their share in traps, the theorem at every point they reach."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import flow, measure
from lorabook.device import generator
from lorabook.kim import proximal
from lorabook.kim.constants import exact_constants
from lorabook.kim.descent import SADDLE, UNCONVERGED, Descended, starts, train
from lorabook.kim.laboratory import Batch, instance
from lorabook.kim.landscape import factored_gradient, full_objective
from lorabook.kim.problem import DecoyFamily
from lorabook.kim.theorem import Spine, bound, least_norm, spine


class Rate(NamedTuple):
    """Outcome of a batch of starts."""

    rate: float  # spurious minima among the starts
    low: float  # Wilson interval, 95 %
    high: float
    unconverged: int  # starts about which nothing is said
    saddles: int
    trained: Descended
    spurious: Tensor  # (S,) bool


def spurious(problem, trained: Descended, optimum: float, tolerance: float = 1e-6) -> Tensor:
    """(S,) second-order stationary points whose objective lies above the optimum."""
    return trained.done & (trained.objective > optimum + tolerance * (1 + abs(optimum)))


def trap_rates(problem, rank: int, count: int, settings, seed: int = 0, **options) -> list[Rate]:
    """Share of ``count`` starts that end in a spurious minimum, by (kind, scale) of ``settings``, all in one batch.

    Every setting draws from the same seed, so that curves against the scale are smooth.

    The rank may lie below that of the solution; then no start can reach it, and every end counts as spurious.

    Raises:
        ValueError: no settings, a problem whose solution is not known, and as :func:`starts` and :func:`train` do.
    """
    optimum = float(full_objective(problem, _known(problem)))
    if not len(settings):
        raise ValueError("Rates need at least one setting, a kind and a scale of start; got none.")
    drawn = [starts(problem, rank, count, scale, generator(seed), kind, problem.M.device) for kind, scale in settings]
    B0, A0 = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    everything = train(problem, B0, A0, **options)
    answers = []
    for part in zip(*(field.split(count) for field in everything), strict=True):
        trained = Descended(*part)
        found = spurious(problem, trained, optimum)
        hits = int(found.sum())
        lost, saddles = (int((trained.status == kind).sum()) for kind in (UNCONVERGED, SADDLE))
        answers.append(Rate(hits / count, *measure.wilson(hits, count), lost, saddles, trained, found))
    return answers


def trap_rate(problem, rank: int, count: int, scale: float, seed: int = 0, kind: str = "gaussian", **options) -> Rate:
    """:func:`trap_rates` for one kind and scale of start.

    Raises:
        ValueError: a rank below that of the solution, and as :func:`trap_rates` does.
    """
    rank_star = int(torch.linalg.matrix_rank(_known(problem), rtol=1e-9).max())
    if rank < rank_star:
        raise ValueError(
            f"A start can only be trapped if it could arrive: the rank {rank} is below r* = {rank_star}, the "
            "rank of the solution."
        )
    return trap_rates(problem, rank, count, [(kind, scale)], seed, **options)[0]


def _known(problem) -> Tensor:
    if not hasattr(problem, "solution"):
        raise ValueError(
            f"A rate of traps needs a problem whose solution is known; a {type(problem).__name__} has none."
        )
    return problem.solution


class Surveyed(NamedTuple):
    """One batch of starts on a member of the family, of which r* = 1."""

    name: str
    kind: str
    scale: float
    problem: DecoyFamily
    rate: Rate

    @property
    def kappa(self) -> float:
        """2 alpha / beta, exact."""
        alpha, beta = exact_constants(self.problem)
        return 2 * alpha / beta


def survey(names, kinds, scales, count: int, seed: int, device="cpu", **options) -> list[Surveyed]:
    """``count`` starts for every instance, kind of start and scale; each at the instance's own rank."""
    settings, runs = [(kind, scale) for kind in kinds for scale in scales], []
    for name in names:
        problem = instance(name, device)
        rates = trap_rates(problem, problem.rank, count, settings, seed, **options)
        runs += [Surveyed(name, *setting, problem, rate) for setting, rate in zip(settings, rates, strict=True)]
    return runs


def worst_ratio(runs) -> float:
    """Largest right side over left side of Theorem 1's inequality at the spurious points, with the exact constants."""
    distance = lambda run, X: (X - run.problem.solution).square().sum((-2, -1))
    return _worst(runs, lambda run, X, s: bound(run.kappa, s, run.problem.rank, 1) / distance(run, X), 0.0)


def worst_norm_ratio(runs) -> float:
    """Largest ratio of Corollary 1's least norm to the norm, at the spurious points of rank above r* = 1."""
    least = lambda run, s: least_norm(run.kappa, s, 1.0, run.problem.rank, 1)
    wide = [run for run in runs if run.problem.rank > 1]
    return _worst(wide, lambda run, X, s: least(run, s) / X.square().sum((-2, -1)).sqrt(), -float("inf"))


def _worst(runs, ratio, least: float) -> float:
    """The largest ``ratio(run, X, s)`` over the spurious points X (S, m, n) with singular values s, or ``least``."""
    ends = ((run, run.rate.trained.X[run.rate.spurious]) for run in runs)
    return max([least, *(float(ratio(run, X, torch.linalg.svdvals(X)).max()) for run, X in ends if len(X))])


def least_over_threshold(runs) -> tuple[float, int]:
    """Smallest ``sigma_r/(kappa sigma_1)`` over the spurious points of rank above r* = 1, and their number."""
    least, seen = float("inf"), 0
    for run in (run for run in runs if run.problem.rank > 1):
        s = torch.linalg.svdvals(run.rate.trained.X[run.rate.spurious])
        seen += len(s)
        least = min([least, *(s[:, run.problem.rank - 1] / (run.kappa * s[:, 0])).tolist()])
    return least, seen


def slacks(runs) -> dict[str, Tensor]:
    """Slack of each inequality of the proof at every second-order stationary point reached, (points,) each.

    Infinite where the inequality says nothing: that of Eckart and Young at points of lower rank.
    """
    found = []
    for run in runs:
        B, A = (factor[run.rate.trained.done] for factor in run.rate.trained[:2])
        found.append(spine(run.problem, B, A, run.problem.solution, *exact_constants(run.problem), rank_star=1))
    return {name: torch.cat(parts) for name, parts in zip(Spine._fields, zip(*found, strict=True), strict=True)}


def moved_base(problem, W: Tensor, rank: int, part: str, horizon: float = 100.0) -> tuple[Tensor, Tensor]:
    """Where the flow of F ends from a start at a part of the pretrained weights, which is taken off them.

    The factors start at ``B0 A0 = P``, balanced: the leading singular directions of W0 for "pissa", the least for
    "milora".  ``W0 - P`` is frozen, so the weights change by ``B A - P``.  Decay acts on the factors and so on ``B A``.

    Args:
        problem: a :class:`Quadratic` in the change of one matrix (n, n).
        W: (S, n, n) float64 pretrained weights, one for each run.
        rank: r of the factors.

    Returns:
        The changes ``B A - P`` (S, n, n) at the end, and r* (S,), the rank of the minimiser of the full problem that
        these factors pose: ``L(X - P) + lambda ||X||_*``.

    Source: Meng, Wang & Zhang 2024 (PiSSA); Wang et al. 2025 (MiLoRA).

    Raises:
        ValueError: an unknown part.
    """
    if part not in ("pissa", "milora"):
        raise ValueError(f"part must be pissa or milora; got {part!r}.")
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    kept = slice(rank) if part == "pissa" else slice(-rank, None)
    root = s[:, kept].sqrt()
    B, A = U[..., kept] * root[:, None], root[..., None] * Vh[:, kept]
    P = B @ A
    velocity = lambda state, M: tuple(-g for g in factored_gradient(Batch(problem.H, M, problem.lam), *state))
    ends = flow.integrate(velocity, (B, A), [horizon], rtol=1e-4, parameters=(problem.M + P,)).states
    full = proximal.solve(Batch(problem.H, problem.M + P, problem.lam), tolerance=1e-8)
    return (ends[0] @ ends[1])[0] - P, proximal.numerical_rank(full.X)


def basin_border(problem: DecoyFamily, sizes, horizon: float = 60.0, rounds: int = 6, wide: int = 16) -> Tensor:
    """Ratio ``|A_1|/|A_0|`` at which zero starts ``A = size (A_0, A_1, 0, ...)`` of rank one change their end.

    Below it the flow ends at the truth, above it at the decoy.  Each round looks at ``wide`` ratios in what is left of
    [1, 1e12] for every size at once; six rounds of 16 leave a relative width of 1e-5.

    Returns:
        (sizes,) the border for each size of start, by the norm of A.
    """
    sizes = torch.as_tensor(sizes, dtype=problem.M.dtype, device=problem.M.device)
    low, high = torch.zeros_like(sizes), torch.full_like(sizes, 27.6)  # logarithms
    rows = problem.shape[0]

    velocity = lambda state: tuple(-gradient for gradient in factored_gradient(problem, *state))
    for _ in range(rounds):
        grid = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, wide, dtype=sizes.dtype, device=sizes.device)
        A = sizes.new_zeros(grid.numel(), 1, rows)
        A[:, 0, 0], A[:, 0, 1] = 1.0, grid.flatten().exp()
        A = sizes.repeat_interleave(wide)[:, None, None] * A / A.norm(dim=(1, 2), keepdim=True)
        B, A = flow.integrate(velocity, (torch.zeros_like(A.mT), A), [horizon], rtol=1e-8).states
        X = (B @ A)[0]
        decoy = (X[:, 1, 1] > X[:, 0, 0]).reshape(len(sizes), wide)
        first = decoy.to(torch.int8).argmax(1)
        low, high = (grid.gather(1, (first - k)[:, None])[:, 0] for k in (1, 0))
    return ((low + high) / 2).exp()
