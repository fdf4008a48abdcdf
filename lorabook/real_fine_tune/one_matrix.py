"""One matrix of the network, all others frozen: ``min over X of L(W + X) + lambda ||X||_*``, or over factors of X.

It speaks the protocol of the problems on Kim, Kim & Ryu's pages (``shape``, ``M``, ``lam``, ``gradient``,
``curvature``), so that their proximal gradient, their sampling and their certificate run on a transformer.
The loss is not convex in X.  Beside the sampling stand the ends of the Hessian's spectrum, by Lanczos'
method on Hessian-vector products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorabook import checks, kim
from lorabook.device import normal
from lorabook.real_fine_tune.task import Task


@dataclass(frozen=True)
class OneMatrix:
    """The loss of ``task`` as a function of the update X of one matrix."""

    task: Task
    stack: Tensor  # (L, m, n) float64 open matrices
    which: int  # index of the one that moves
    lam: float  # decay

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.stack.shape[-2:]
        return m, n

    @property
    def M(self) -> Tensor:
        """The zero update, where every solve starts."""
        return torch.zeros_like(self.stack[self.which])

    def moved(self, X: Tensor) -> Tensor:
        """All open matrices (L, m, n) with the update X (m, n)."""
        shift = torch.zeros_like(self.stack)
        shift[self.which] = X
        return self.stack + shift

    def loss(self, X: Tensor) -> Tensor:
        """(...) for X (..., m, n)."""
        return self._each(lambda x: self.task.loss(self.moved(x)), X)

    def gradient(self, X: Tensor) -> Tensor:
        """(..., m, n) gradient of the loss, without the decay."""
        return self._each(lambda x: -self.task.negative_gradient(self.moved(x))[self.which], X)

    def hessian(self, X: Tensor, Z: Tensor) -> Tensor:
        """Hessian at X (m, n) applied to Z (m, n)."""
        direction = torch.zeros_like(self.stack)
        direction[self.which] = Z
        return self.task.curvature(self.moved(X), direction)[self.which]

    def curvature(self, X: Tensor, Z: Tensor) -> Tensor:
        """``<Z, Hess L(X) Z>`` (...) for X, Z (..., m, n)."""
        pairs = zip(X.reshape(-1, *self.shape), Z.reshape(-1, *self.shape), strict=True)
        return torch.stack([(z * self.hessian(x, z)).sum() for x, z in pairs]).reshape(X.shape[:-2])

    def _each(self, function: Callable, X: Tensor) -> Tensor:
        found = torch.stack([function(x) for x in X.reshape(-1, *self.shape)])
        return found.reshape((*X.shape[:-2], *found.shape[1:]))


def settle(problem: OneMatrix, B: Tensor, A: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Factors after ``steps`` steps of L-BFGS on :func:`lorabook.kim.landscape.objective`, which never rises.

    Args:
        B: (m, r), A: (r, n) float64.

    Source: Liu & Nocedal 1989, with a line search by Wolfe's strong conditions; Nocedal & Wright 2006, chapter 7.
    """
    checks.factors(B, A)
    B, A = B.clone().requires_grad_(), A.clone().requires_grad_()
    checks.count(steps, "steps", 1)
    exact: dict[str, Any] = dict(tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe")
    optimiser = torch.optim.LBFGS([B, A], max_iter=steps, max_eval=3 * steps, history_size=20, **exact)

    @torch.no_grad()
    def closure():
        B.grad, A.grad = kim.landscape.factored_gradient(problem, B, A)
        return kim.landscape.objective(problem, B, A)

    optimiser.step(closure)
    return B.detach(), A.detach()


def tangent(X: Tensor, rank: int) -> Callable[[Tensor], Tensor]:
    """Projection onto the directions in which X's best approximation of rank r can move without leaving that rank."""
    U, _, Vh = torch.linalg.svd(checks.matrix(X, "X"), full_matrices=False)
    P, Q = U[:, :rank] @ U[:, :rank].mT, Vh[:rank].mT @ Vh[:rank]
    return lambda Z: P @ Z + Z @ Q - P @ Z @ Q


def spectrum_ends(
    product: Callable[[Tensor], Tensor], shape, steps: int, source: torch.Generator, device=None
) -> tuple[float, float]:
    """Least and largest Ritz value of a symmetric operator after ``steps`` products: inside its ends, near them.

    Args:
        product: (m, n) -> (m, n).
        steps: size of the Krylov space, 1 or more; every vector is orthogonalised against all others.

    Source: Lanczos 1950; Golub & Van Loan 2013, chapter 10.
    """
    checks.count(steps, "steps", 1)
    basis = [normal(shape, source, device)]
    basis[0] = product(basis[0])  # a first product brings the start into the operator's range
    basis[0] = basis[0] / basis[0].norm()
    images = []
    for _ in range(steps):
        image = product(basis[-1])
        images.append(image)
        rest = image
        for _ in range(2):  # once is not enough in floating point
            for vector in basis:
                rest = rest - (vector * rest).sum() * vector
        if float(rest.norm()) < 1e-7 * float(image.norm()):
            break
        basis.append(rest / rest.norm())
    Q, H = torch.stack(basis[: len(images)]).flatten(1), torch.stack(images).flatten(1)
    small = Q @ H.mT
    values = torch.linalg.eigvalsh((small + small.mT) / 2)
    return float(values[0]), float(values[-1])
