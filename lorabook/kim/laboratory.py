"""Instances with known answers, and the rate at which random starts end in a trap.

- :func:`instance` names the members of the decoy family that the chapter uses;
- :func:`random_quadratic` draws a loss of given condition whose nuclear-norm minimiser is known;
- :func:`coupled` makes two members of the family one problem in two matrices (Theorem 2);
- :func:`trap_rate` counts, with a binomial interval, and keeps apart what did not converge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from lorabook import checks
from lorabook.device import generator, normal
from lorabook.kim.descent import DONE, SADDLE, UNCONVERGED, Descended, starts, train
from lorabook.kim.landscape import full_objective
from lorabook.kim.problem import DecoyFamily, Quadratic, decoy_family

INSTANCES = {
    # one decoy, rank 1: an isolated spurious minimum
    "strict": dict(n=3, rank=1, a=2.0, b=1.0, c=1.0, h=6.0, lam=0.1, decoys=1),
    # three decoys that rotate into each other: a Grassmannian of spurious minima
    "degenerate": dict(n=5, rank=2, a=3.0, b=1.0, c=0.9, h=6.0, lam=0.1, decoys=3, h2=1.0),
    # a spurious minimum closer to 0 than the truth is
    "quiet": dict(n=3, rank=1, a=1.0, b=1.0, c=0.35, h=5.0, lam=0.05, decoys=1),
    # three decoys that settle far out: here "large magnitude" is the right word
    "loud": dict(n=5, rank=3, a=5.0, b=0.25, c=0.6, h=6.0, lam=0.1, decoys=3),
    # at 0 the decoys pull harder than the truth (c > a)
    "magnet": dict(n=4, rank=2, a=1.0, b=10.0, c=2.0, h=11.0, lam=0.05, decoys=2),
    # rank and decay thin the traps out
    "fading": dict(n=6, rank=1, a=4.0, b=1.0, c=0.9, h=8.0, lam=0.1, decoys=4, h2=1.0),
}


def instance(name: str, device: torch.device | str = "cpu", **changes) -> DecoyFamily:
    """The named member of the family, with some of its parameters changed.

    Raises:
        ValueError: an unknown name, or changes that the family refuses.
    """
    if name not in INSTANCES:
        raise ValueError(f"There is no instance {name!r}; the names are {', '.join(INSTANCES)}.")
    return decoy_family(**INSTANCES[name] | changes, device=device)


@dataclass(frozen=True)
class Known(Quadratic):
    """A quadratic whose nuclear-norm minimiser is known by construction."""

    solution: torch.Tensor


def random_quadratic(
    n: int,
    rank_star: int,
    condition: float,
    lam: float,
    source: torch.Generator,
    device: torch.device | str = "cpu",
    tail: float = 0.0,
) -> Known:
    """``H = Q diag(d) Q^T`` with eigenvalues from 1 to ``condition`` and a minimiser of rank r* known by construction.

    ``M = X* + lambda H^{-1} (U V^T + W)`` with ``W`` orthogonal to the spaces of X* and ``||W||_2 = 1/2``, so that
    ``-grad L(X*) / lambda`` is a subgradient of the nuclear norm at ``X*``.

    Args:
        tail: size of n - r* - 1 further singular values of X*, from 0 to 1, next to r* of size 1 (Theorem 3).

    Raises:
        ValueError: a rank, condition, tail or decay out of range.
    """
    if not (1 <= rank_star < n and 1 <= condition < float("inf") and 0 <= tail <= 1):
        raise ValueError(
            "A random quadratic needs 1 <= r* < n, a finite condition >= 1 and a tail from 0 to 1; got "
            f"{rank_star}, {n}, {condition} and {tail}."
        )
    Q = torch.linalg.qr(normal((n * n, n * n), source, device)).Q
    d = torch.linspace(1, condition, n * n, dtype=torch.float64, device=device)
    H = (Q * d) @ Q.mT
    H = (H + H.mT) / 2
    U, V = (torch.linalg.qr(normal((n, n), source, device)).Q for _ in range(2))
    s = torch.zeros(n, dtype=torch.float64, device=device)
    s[:rank_star] = 1
    s[rank_star:-1] = tail
    g = torch.where(s > 0, 1.0, 0.5)
    X = (U * s) @ V.mT
    M = X + lam * torch.linalg.solve(H, ((U * g) @ V.mT).flatten()).reshape(n, n)
    return Known(H, M, lam, X)


def coupled(first, second, strength: float) -> Known:
    """Two problems with known solutions as one, coupled by ``strength <X1 - X1*, X2 - X2*>``; the pair of minimisers
    stays.

    Raises:
        ValueError: shapes or decays differ, or the coupled H is not positive definite.
    """
    if first.shape != second.shape or first.lam != second.lam:
        raise ValueError("Coupled members need equal shapes and equal decay.")
    size = first.H.shape[0]
    H = torch.block_diag(first.H, second.H)
    off = strength * torch.eye(size, dtype=H.dtype, device=H.device)
    H[:size, size:] += off
    H[size:, :size] += off
    X = torch.stack([first.solution, second.solution])
    # the gradient at the pair of solutions must stay what it was, a subgradient of the decay in each layer
    push = torch.cat([-problem.gradient(problem.solution).flatten() for problem in (first, second)])
    return Known(H, X + torch.linalg.solve(H, push).reshape(X.shape), first.lam, X)


@dataclass(frozen=True)
class Batch:
    """Quadratics with targets of their own, solved as one batch: ``H (S, p, p)``, ``M (S, n, n)``, one ``lam`` for
    all."""

    H: torch.Tensor
    M: torch.Tensor
    lam: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one X."""
        return tuple(self.M.shape[-2:])

    def gradient(self, X: torch.Tensor) -> torch.Tensor:
        """(S, n, n)."""
        return (self.H @ (X - self.M).flatten(1)[..., None]).reshape(X.shape)


def random_batch(
    count: int, n: int, condition: float, rank: int, source: torch.Generator, device: torch.device | str = "cpu"
) -> Batch:
    """``count`` quadratics with Haar eigenvectors, eigenvalues 1 to ``condition``, and Gaussian targets of the given
    rank.

    Raises:
        ValueError: no problems, a rank above the side, or a condition below 1.
    """
    checks.count(count, "count", 1), checks.count(rank, "rank", 1)
    if not (rank <= n and 1 <= condition < float("inf")):
        raise ValueError(
            f"A random batch needs a rank up to the side and a finite condition >= 1; got {rank}, {n} and {condition}."
        )
    Q = torch.linalg.qr(normal((count, n * n, n * n), source, device)).Q
    d = torch.logspace(0, 1, n * n, base=condition, dtype=torch.float64, device=device)
    M = normal((count, n, rank), source, device) @ normal((count, rank, n), source, device)
    H = (Q * d) @ Q.mT
    return Batch((H + H.mT) / 2, M)


class Rate(NamedTuple):
    """Outcome of a batch of starts."""

    rate: float  # spurious minima among the starts
    low: float  # Wilson interval, 95 %
    high: float
    unconverged: int  # starts about which nothing is said
    saddles: int
    trained: Descended
    spurious: torch.Tensor  # (S,) bool


def spurious(problem, trained: Descended, optimum: float, tolerance: float = 1e-6) -> torch.Tensor:
    """(S,) converged second-order stationary points whose objective lies above the optimum."""
    return (trained.status == DONE) & (trained.objective > optimum + tolerance * (1 + abs(optimum)))


def trap_rates(problem, rank: int, count: int, settings, seed: int = 0, **options) -> list[Rate]:
    """Share of ``count`` random starts that end in a spurious minimum, for each (kind, scale) in ``settings``, all in
    one batch.

    Every setting draws from the same seed, so that curves against the scale are smooth.

    The rank may lie below that of the solution; then no start can reach it, and every end counts as spurious.

    Raises:
        ValueError: no settings, a problem whose solution is not known, and as :func:`starts` and :func:`train` do.
    """
    _known(problem)
    if not len(settings):
        raise ValueError("Rates need at least one setting, a kind and a scale of start; got none.")
    drawn = [starts(problem, rank, count, scale, generator(seed), kind, problem.M.device) for kind, scale in settings]
    everything = train(problem, *(torch.cat(parts) for parts in zip(*drawn, strict=True)), **options)
    optimum = float(full_objective(problem, problem.solution))
    answers = []
    for part in zip(*(field.split(count) for field in everything), strict=True):
        trained = Descended(*part)
        found = spurious(problem, trained, optimum)
        low, high = wilson(int(found.sum()), count)
        answers.append(
            Rate(
                float(found.double().mean()),
                low,
                high,
                int((trained.status == UNCONVERGED).sum()),
                int((trained.status == SADDLE).sum()),
                trained,
                found,
            )
        )
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


def _known(problem) -> torch.Tensor:
    if not hasattr(problem, "solution"):
        raise ValueError(
            f"A rate of traps needs a problem whose solution is known; a {type(problem).__name__} has none."
        )
    return problem.solution


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a binomial rate."""
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"A rate needs 0 <= hits <= count and a count >= 1; got {hits} of {count}.")
    centre, spread = hits + z**2 / 2, z * (hits * (count - hits) / count + z**2 / 4) ** 0.5
    return max(0.0, (centre - spread) / (count + z**2)), min(1.0, (centre + spread) / (count + z**2))


def family_ratio(rank: int) -> float:
    """Least beta/alpha at which the family has a trap of rank r, for small lambda: ``1 + 2 sqrt(r)``.

    From ``alpha beta <= beta c`` and ``2 sqrt(r) c <= beta - alpha`` at ``h = beta`` and ``lambda -> 0``.
    """
    return 1 + 2 * rank**0.5


def tightest(rank: int, ratio: float, lam: float = 1e-3, device: torch.device | str = "cpu") -> DecoyFamily:
    """The member with alpha = 1 and beta = ``ratio`` that comes closest to having a trap of rank r.

    The block ``[[a, c sqrt(r)], [c sqrt(r), b]]`` has the eigenvalues 1 and ``ratio`` and equal diagonal entries.
    """
    middle = (1 + ratio) / 2
    return decoy_family(
        rank + 2, rank, middle, middle, (ratio - 1) / (2 * rank**0.5), ratio, lam, h2=middle, device=device
    )
