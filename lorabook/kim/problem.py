"""Problems of the landscape: a loss L(X), its decay lambda, and a family in which everything is known.

The source studies ``L(B A) + (lambda/2)(||B||^2 + ||A||^2)`` over the factors and
``L(X) + lambda ||X||_*`` over all matrices.  The routines of this package ask a problem for ``shape``,
``lam``, ``loss(X)``, ``gradient(X)``, ``hessian(X)`` and ``curvature(X, Z) = <Z, Hess L(X) Z>``.

Several matrices at once (Theorem 2) are one tensor X of shape (L, m, n): the matrix product is
taken for every layer and norms are summed.

Not here: networks (``network.py``).
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook import checks


def vec(X: Tensor, ndim: int) -> Tensor:
    """The last ``ndim`` dimensions as one, in row-major order."""
    return X.flatten(X.ndim - ndim)


def squared_norm(X: Tensor, ndim: int = 2) -> Tensor:
    """Sum of squares over the last ``ndim`` dimensions."""
    return vec(X, ndim).square().sum(-1)


@dataclass(frozen=True)
class Quadratic:
    """``L(X) = (1/2) <X - M, H (X - M)>`` with ``vec`` in row-major order.

    Args:
        H: (p, p) float64, symmetric positive definite, p the number of entries of M.
        M: (m, n), or (L, m, n) for L matrices at once.
        lam: weight decay lambda >= 0.

    Raises:
        ValueError: H is not symmetric positive definite, a shape does not fit, lambda is negative.
    """

    H: Tensor
    M: Tensor
    lam: float

    def __post_init__(self):
        checks.matrix(self.H, "H"), checks.matrix(self.M, "M")
        if self.H.shape != (self.M.numel(), self.M.numel()):
            raise ValueError(
                f"H {tuple(self.H.shape)} does not act on M {tuple(self.M.shape)}, which has {self.M.numel()} entries."
            )
        decay(self.lam)
        if not checks.is_fake(self.H) and bool((self.H - self.H.mT).abs().max() > 1e-12 * self.H.abs().max()):
            raise ValueError("H must be symmetric.")
        _definite(self.H)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of X."""
        return tuple(self.M.shape)

    def loss(self, X: Tensor) -> Tensor:
        """L (...) at X (..., *shape)."""
        return ((X - self.M) * self.gradient(X)).flatten(X.ndim - self.M.ndim).sum(-1) / 2

    def gradient(self, X: Tensor) -> Tensor:
        """``H (X - M)``, (..., *shape)."""
        return (vec(X - self.M, self.M.ndim) @ self.H).reshape(X.shape)

    def curvature(self, X: Tensor, Z: Tensor) -> Tensor:
        """``<Z, H Z>``, (...)."""
        Z = vec(Z, self.M.ndim)
        return (Z * (Z @ self.H)).sum(-1)

    def hessian(self, X: Tensor) -> Tensor:
        """H (..., p, p), the same at every X."""
        return self.H.expand(*X.shape[: X.ndim - self.M.ndim], *self.H.shape)


def decay(lam: float) -> float:
    """``lam`` if it is a weight decay; ValueError else."""
    if isinstance(lam, bool) or not isinstance(lam, numbers.Real) or not 0 <= lam < math.inf:
        raise ValueError(f"The weight decay lambda must not be negative; got {lam!r}.")
    return lam


def top_curvature(problem, smoothness: float | None = None) -> float:
    """The bound on ``||Hess L||_2`` that is given, or that of a quadratic, from its H.

    Raises:
        ValueError: none is given and the loss is not quadratic, or it is not positive and finite.
    """
    if smoothness is None:
        if not hasattr(problem, "H"):
            raise ValueError("A loss that is not quadratic needs a bound on its smoothness.")
        smoothness = float(torch.linalg.eigvalsh(problem.H)[..., -1].max())
    return checks.positive(smoothness, "The smoothness")


def _definite(H: Tensor) -> None:
    """Raise ValueError unless H is positive definite.  Tensors without data pass."""
    least = 1.0 if checks.is_fake(H) else float(torch.linalg.eigvalsh(H)[0])
    if least <= 0:
        raise ValueError(f"H must be positive definite; its least eigenvalue is {least:.3g}.")


@dataclass(frozen=True)
class DecoyFamily(Quadratic):
    """One true direction and several decoys: global minimiser and spurious minimum in closed form.

    With ``M = E_00 + lambda H^{-1} E_00`` the matrix ``E_00`` solves the nuclear-norm problem for every
    lambda.  A factorisation of rank r <= decoys has the candidate ``X = s diag(0, 1_r, 0)`` with
    ``s = (c - lambda) / b``: it is stationary, and a second-order stationary point iff
    ``a - r c s <= h s`` (and ``h2 >= b`` if decoys > r).
    """

    rank: int
    a: float
    b: float
    c: float
    h: float
    decoys: int
    h2: float

    @property
    def solution(self) -> Tensor:
        """X* = E_00, (n, n)."""
        X = torch.zeros_like(self.M)
        X[0, 0] = 1
        return X

    @property
    def size(self) -> float:
        """s = (c - lambda) / b, the singular value of the candidate."""
        return (self.c - self.lam) / self.b

    @property
    def margin(self) -> float:
        """``h s - (a - r c s)``: curvature at the candidate towards the truth, >= 0 iff it is a trap."""
        return (self.h + self.rank * self.c) * self.size - self.a

    @property
    def threshold(self) -> float:
        """The lambda above which the candidate is no trap: ``c - a b / (r c + h)``."""
        return self.c - self.a * self.b / (self.rank * self.c + self.h)

    def spurious_factors(self) -> tuple[Tensor, Tensor]:
        """Balanced factors B (n, r), A (r, n) of the candidate ``s diag(0, 1_r, 0)``."""
        B = self.M.new_zeros(self.M.shape[0], self.rank)
        B[1 : self.rank + 1] = math.sqrt(self.size) * torch.eye(self.rank, dtype=B.dtype, device=B.device)
        return B, B.mT.clone()


def decoy_family(
    n: int,
    rank: int,
    a: float,
    b: float,
    c: float,
    h: float,
    lam: float,
    decoys: int | None = None,
    h2: float | None = None,
    device: torch.device | str = "cpu",
) -> DecoyFamily:
    """The family in which everything is known.

    H acts on the diagonal entries 0 ... decoys as ``[[a, c 1^T], [c 1, b I]]``, with eigenvalue ``h`` on the
    symmetric pairs ``E_0i + E_i0``, ``h2`` on ``E_ij + E_ji`` (i, j decoys), and as 1 elsewhere.

    Args:
        n: side of the matrices.  rank: r of the factorisation, <= decoys.
        a, b, c, h, h2: entries of H, as above; ``h2`` defaults to ``max(b, 1)``.
        lam: weight decay, 0 <= lam < c.
        decoys: number of decoys, default ``rank``; n > decoys.

    Returns:
        :class:`DecoyFamily`.

    Raises:
        ValueError: counts that do not fit, lambda out of range, or H not positive definite
            (which needs ``a b > decoys c^2``).
    """
    decoys = rank if decoys is None else decoys
    for name, value in (("n", n), ("rank", rank), ("decoys", decoys)):
        checks.count(value, name, 1)
    for name, value in (("a", a), ("b", b), ("c", c), ("h", h), ("h2", 1.0 if h2 is None else h2)):
        checks.positive(value, f"The {name}")
    h2 = max(b, 1.0) if h2 is None else h2
    if not 1 <= rank <= decoys < n:
        raise ValueError(f"The family needs 1 <= rank <= decoys < n; got rank {rank}, decoys {decoys}, n {n}.")
    if not decay(lam) < c:
        raise ValueError(f"The decoys survive only a decay below c = {c:g}; got lambda {lam!r}.")
    entry = torch.eye(n * n, dtype=torch.float64, device=device).reshape(n, n, n, n)
    H = torch.eye(n * n, dtype=torch.float64, device=device)

    def add(left, right, weight):
        product = torch.outer(left.flatten(), right.flatten())
        H.add_(weight * (product + product.mT) / 2)

    add(entry[0, 0], entry[0, 0], a - 1)
    for i in range(1, decoys + 1):
        add(entry[i, i], entry[i, i], b - 1)
        add(entry[0, 0], entry[i, i], 2 * c)
        for j in range(i):
            pair = (entry[i, j] + entry[j, i]) / math.sqrt(2)
            add(pair, pair, (h if j == 0 else h2) - 1)
    truth = entry[0, 0].flatten()
    _definite(H)
    M = (truth + lam * torch.linalg.solve(H, truth)).reshape(n, n)
    return DecoyFamily(H, M, lam, rank, a, b, c, h, decoys, h2)
