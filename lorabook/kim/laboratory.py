"""Problems with known answers.

- :func:`instance` names the members of the decoy family that the chapter uses;
- :func:`random_quadratic` draws a loss of given condition whose nuclear-norm minimiser is known;
- :func:`coupled` makes two members of the family one problem in two matrices (Theorem 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook import checks
from lorabook.device import normal
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

    solution: Tensor


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
    """Two problems as one, coupled by ``strength <X1 - X1*, X2 - X2*>``; the pair of known minimisers stays.

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
    """Quadratics solved as one batch: ``H (S, p, p)``, targets ``M (S, n, n)``, one ``lam`` for all, or (S, 1, 1)."""

    H: Tensor
    M: Tensor
    lam: float | Tensor = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one X."""
        return tuple(self.M.shape[-2:])

    def gradient(self, X: Tensor) -> Tensor:
        """(S, n, n)."""
        return (self.H @ (X - self.M).flatten(1)[..., None]).reshape(X.shape)


def random_batch(
    count: int, n: int, condition: float, rank: int, source: torch.Generator, device: torch.device | str = "cpu"
) -> Batch:
    """``count`` quadratics with Haar eigenvectors, eigenvalues 1 to ``condition``, Gaussian targets of a given rank.

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
