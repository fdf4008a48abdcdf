"""Rates: what the linearised dynamics predicts, and what a run shows.

Near the solution, ``E = B A - Delta`` lies in the tangent space {B0 X + Y A0} of the rank-r matrices and
one step is ``E <- E - step (S(E) M_A + M_B S(E))`` to first order.  ``S(E)`` is ``Sigma E`` for the linear model and,
column by column, ``(1/N) X^T 1[X w~_j > 0] X e_j`` for ReLU.  Descent from a balanced start has
``M_A = A^T A = |Delta|`` and ``M_B = B B^T``; the preconditioned step has the projectors onto Delta's
row and column spaces instead, and with them every dependence on Delta's singular values goes.

Not here: how far from the solution the linearisation is good.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook.lora_one.problem import Regression
from lorabook.lora_one.starts import spectral_init


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
        lead = tuple(problem.shift.shape[:-2])
        raise ValueError(f"There is one linearised operator per problem; got a batch of shape {lead}.")
    _, operator = _operator(problem, *spectral_init(problem.shift, problem.rank), preconditioned)
    return torch.linalg.eigvals(operator).real.sort().values


def forecast(
    problem: Regression, B: Tensor, A: Tensor, step: float, at: Tensor, preconditioned: bool = False
) -> Tensor:
    """``||E_t||`` (R,) that the linearised dynamics predicts after ``at`` further steps from (B, A) near the solution.

    Holds when: ``E = B A - Delta`` is small beside Delta's smallest singular value; what is dropped is of second order.
    """
    basis, operator = _operator(problem, B, A, preconditioned)
    values, vectors = torch.linalg.eig(operator)
    coordinates = torch.linalg.solve(vectors, (basis.flatten(1) @ (B @ A - problem.shift).flatten()).to(vectors.dtype))
    powers = (1 - step * values)[None, :] ** at.to(values.dtype)[:, None]
    return torch.linalg.vector_norm((powers * coordinates) @ vectors.mT, dim=-1)


def _operator(problem: Regression, B: Tensor, A: Tensor, preconditioned: bool) -> tuple[Tensor, Tensor]:
    """Orthonormal basis (D, d, k) of the tangent space at B A, and the operator ``S(E) M_A + M_B S(E)`` in it."""
    rank = B.shape[-1]
    U, V = torch.linalg.svd(B).U, torch.linalg.svd(A).Vh
    M_B, M_A = (U[:, :rank] @ U[:, :rank].mT, V[:rank].mT @ V[:rank]) if preconditioned else (B @ B.mT, A.mT @ A)
    # u_i v_j^T with i or j among the first r
    d, k = problem.shift.shape
    rows, columns = torch.arange(d, device=U.device), torch.arange(k, device=U.device)
    i, j = ((rows[:, None] < rank) | (columns[None, :] < rank)).nonzero(as_tuple=True)
    basis = U.mT[i][:, :, None] * V[j][:, None, :]
    image = sensed(problem, basis)
    return basis, basis.flatten(1) @ (image @ M_A + M_B @ image).flatten(1).mT


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


def sketch_bounds(problem: Regression, B: Tensor, A: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Bounds (...) on the error after a preconditioned step from (B, A): the sketch's, and with its mixed parts.

    Source: the slides' "Proof of sketch" of Theorem 4.3, in the population; the mixed parts are ours.
    """
    norm, E = torch.linalg.matrix_norm, B @ A - problem.shift
    P_U, P_V = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
    Q_U, Q_V = (torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - P for P in (P_U, P_V))
    printed = (1 - step) * norm(P_U @ E @ P_V) + norm(Q_U @ E @ Q_V)
    return printed, printed + (1 - step / 2) * (norm(P_U @ E @ Q_V) + norm(Q_U @ E @ P_V))
