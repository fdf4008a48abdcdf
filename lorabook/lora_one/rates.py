"""Rates: what the linearised dynamics predicts, and what a run shows.

Near the solution, ``E = B A - Delta`` lies in the tangent space {B0 X + Y A0} of the rank-r matrices and
one step is ``E <- E - step (S(E) M_A + M_B S(E))``.  ``S(E)`` is ``Sigma E`` for the linear model and,
column by column, ``(1/N) X^T 1[X w~_j > 0] X e_j`` for ReLU.  Descent from a balanced start has
``M_A = A^T A = |Delta|`` and ``M_B = B B^T``; the preconditioned step has the projectors onto Delta's
row and column spaces instead, and with them every dependence on Delta's singular values goes.

Not here: how far from the solution the linearisation is good.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook.lora_one.problem import Regression


def curvatures(problem: Regression, preconditioned: bool = False) -> Tensor:
    """Eigenvalues mu (D,) of the linearised operator at Delta, ascending real parts; D = r* (d + k) - r*^2.

    One step with ``step`` multiplies the slowest direction by ``1 - step * mu[0]``; descent is stable
    while ``step * mu[-1] < 2``.

    Holds when: the factors' rank is r* and, for plain descent, they end balanced.
    Error: 1e-12 of the largest.

    Raises:
        ValueError: a batch of problems; there is one operator per problem.
    """
    if problem.shift.ndim != 2:
        raise ValueError(f"curvatures takes one problem; got a batch of shape {tuple(problem.shift.shape[:-2])}.")
    rank = problem.rank
    U, s, Vh = torch.linalg.svd(problem.shift)
    weights = torch.ones_like(s[:rank]) if preconditioned else s[:rank]
    M_B, M_A = (U[:, :rank] * weights) @ U[:, :rank].mT, (Vh[:rank].mT * weights) @ Vh[:rank]
    # orthonormal basis of the tangent space: u_i v_j^T with i or j among the first r*
    d, k = problem.shift.shape
    rows, columns = torch.arange(d, device=U.device), torch.arange(k, device=U.device)
    inside = (rows[:, None] < rank) | (columns[None, :] < rank)
    i, j = inside.nonzero(as_tuple=True)
    basis = U.mT[i][:, :, None] * Vh[j][:, None, :]
    image = sensed(problem, basis)
    image = image @ M_A + M_B @ image
    operator = basis.flatten(1) @ image.flatten(1).mT
    return torch.linalg.eigvals(operator).real.sort().values


def sensed(problem: Regression, E: Tensor) -> Tensor:
    """``S(E)`` (..., d, k): the gradient's linear response at the solution to an error E."""
    if problem.activation == "linear":
        return problem.covariance @ E
    if problem.X is None:
        return E / 2
    N = problem.X.shape[-2]
    masks = (problem.X @ (problem.W + problem.shift) > 0).to(E.dtype)
    grams = torch.einsum("na,nj,nb->jab", problem.X, masks, problem.X) / N
    return torch.einsum("jab,...bj->...aj", grams, E)


def fitted_factor(error: Tensor, at: Tensor, high: float = 1e-4, low: float = 1e-10) -> Tensor:
    """Factor per iteration (S) fitted to the late part of ``error`` (R, S), ``low <= error / error[0] <= high``.

    Returns NaN where fewer than five observations lie in that window.  Source: least squares on logarithms.
    """
    flat = (error / error[0]).reshape(len(at), -1)
    answers = torch.full_like(flat[0], torch.nan)
    for system, curve in enumerate(flat.mT):
        late = (curve <= high) & (curve >= low)
        if int(late.sum()) >= 5:
            t, y = at[late].to(curve.dtype), curve[late].log()
            t = t - t.mean()
            answers[system] = torch.exp((t * y).sum() / (t * t).sum())
    return answers.reshape(error.shape[1:])


def iterations_to(error: Tensor, at: Tensor, level: float) -> Tensor:
    """First observed iteration (S) at which ``error / error[0]`` (R, S) is at most ``level``; NaN where it never is."""
    below = error / error[0] <= level
    first = below.to(torch.int64).argmax(0)
    return torch.where(below.any(0), at[first].to(error.dtype), torch.nan)


def slope(x: Tensor, y: Tensor) -> Tensor:
    """Least-squares slope of y (..., n) against x (n,) or (..., n)."""
    x = x - x.mean(-1, keepdim=True)
    return (x * y).sum(-1) / (x * x).sum(-1)
