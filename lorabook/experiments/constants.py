"""Restricted convexity and smoothness of the last tuned block, sampled as Kim, Kim and Ryu do, beside power iteration.

One matrix moves, ``L(X) = loss at W0 + X``, all others stay where training left them, and X* is where it left this one.
Samples lie on the favourable side of both constants.  Quotients of the same sets that bound them from the other side:

    alpha <= <Z, H(X*) Z> / <Z, Z>   for Z of rank r - rank X*, since X* + t Z has rank r, at any small t
    beta  >= <Z, H(0) Z> / <Z, Z>    for Z of rank 2 and r >= 2: write Z = p a^T + b z^T with unit p and z, then
                                     t Z = U X + X V at the small X = t (e a^T + b f^T), U = p e^T, V = f z^T,
                                     with unit e orthogonal to b and unit f orthogonal to a

Z is found by Lanczos' method, a power iteration that keeps its vectors, and cut to its rank.

Source: section 4 and appendix C.2; the bounds are this book's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorabook import checks, kim
from lorabook.device import generator, normal
from lorabook.experiments.nuclear import ProximalSGD
from lorabook.experiments.one_matrix import OneMatrix
from lorabook.linalg import truncate


def ritz(
    product: Callable[[Tensor], Tensor], shape, steps: int, source: torch.Generator, device=None
) -> tuple[tuple[float, Tensor], tuple[float, Tensor]]:
    """Least and largest Ritz value of a symmetric operator with their matrices: inside its ends, near them.

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
    Q, H = torch.stack(basis[: len(images)]), torch.stack(images)
    small = Q.flatten(1) @ H.flatten(1).mT
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    least, largest = (torch.einsum("k,kmn->mn", vectors[:, k], Q) for k in (0, -1))
    return (float(values[0]), least), (float(values[-1]), largest)


def quotient(product: Callable[[Tensor], Tensor], Z: Tensor, rank: int) -> float:
    """``<Z, H Z> / <Z, Z>`` of Z (m, n) cut to a rank."""
    Z = truncate(Z, rank)
    return float((Z * product(Z)).sum() / (Z * Z).sum())


def measure(problem: OneMatrix, X_star: Tensor, settings: Any, seed: int) -> list[dict[str, float]]:
    """For each rank of Table 2 the sampled constants, also of half of the samples, and those by power iteration.

    Args:
        X_star: (m, n) where training ended.
        settings: ``table_2_ranks``, ``monte_carlo``, ``monte_carlo_distance``, ``power_steps``, ``rank_cut``.

    Returns:
        ``rank``, ``rank_star``, ``alpha`` and ``beta``, sampled; ``alpha_half`` and ``beta_half``; ``alpha_power``, NaN
        up to the rank of X*, and ``beta_power``; ``least`` and ``largest``, the Ritz values of matrices of any rank.
    """
    device, own = X_star.device, int(kim.proximal.numerical_rank(X_star, settings["rank_cut"]))
    there, here = (lambda Z: problem.hessian(X_star, Z)), (lambda Z: problem.hessian(problem.M, Z))
    (least, down), _ = ritz(there, problem.shape, settings["power_steps"], generator(seed), device)
    _, (largest, up) = ritz(here, problem.shape, settings["power_steps"], generator(seed), device)
    beta_power, found = quotient(here, up, 2), []
    for rank in settings["table_2_ranks"]:
        if rank > min(problem.shape):
            continue
        X, Z = kim.constants.sample(
            problem, X_star, rank, settings["monte_carlo_distance"], settings["monte_carlo"], generator(seed)
        )
        alpha = kim.constants.convexity_quotient(problem, X, X_star)
        beta = kim.constants.smoothness_quotient(problem, X, Z)
        half = len(X) // 2
        found.append(
            {
                "rank": rank,
                "rank_star": own,
                "alpha": float(alpha.min()),
                "alpha_half": float(alpha[:half].min()),
                "alpha_power": quotient(there, down, rank - own) if rank > own else math.nan,
                "beta": float(beta.max()),
                "beta_half": float(beta[:half].max()),
                "beta_power": beta_power,
                "least": least,
                "largest": largest,
            }
        )
    return found


def about(model: nn.Module, proximal: ProximalSGD, settings: Any, rows: Any, collate: Any, seed: int) -> dict:
    """:func:`measure` for every tuned module of the last block, about the end of a proximal training.

    Args:
        model: as it was left.
        settings: those of :func:`measure`, ``monte_carlo_rows``, ``batch`` and ``modules``.
        rows: the training set; the first ones are taken.
        collate: makes a batch of some of them.
    """
    count = min(settings["monte_carlo_rows"], len(rows))
    batches = [collate([rows[k] for k in part.tolist()]) for part in torch.arange(count).split(settings["batch"])]
    found = {}
    for module in dict.fromkeys(name.split(".")[-1] for name in settings["modules"]):
        name = [name for name in proximal.weights if name.endswith(f"{module}.weight")][-1]
        before = proximal.before[name]
        moved = (proximal.weights[name] - before).detach().double()
        found[module] = measure(OneMatrix(model, module, before, batches), moved, settings, seed)
    return found
