"""The experiments on convergence: rates against the condition number and the number of samples, and the toys.

The formulas they test stand in rates.py and toys.py; the start has start_runs.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lorabook import measure
from lorabook.device import DTYPE, default_device
from lorabook.lora_one import rates, toys
from lorabook.lora_one.dynamics import descend
from lorabook.lora_one.problem import Regression, negative_gradient
from lorabook.lora_one.settings import planted, single, spectrum
from lorabook.lora_one.starts import spectral_init


def kappa_sweep(d: int, k: int, rank: int, ratio: int, kappas, step: float, seed: int, preconditioned: bool) -> dict:
    """Linear model, spectral start, r = r*, one run per condition number.

    Each run takes ten e-foldings of its slowest mode, then ten more in which the rate is fitted, and
    compared with the rate of the linearised dynamics over the same ten, started from the same iterate.

    Returns:
        ``fitted`` and ``predicted`` rates ``-ln(factor)``, ``edge``, the slowest mode's own, ``iterations`` to a
        relative error of 1e-6, each (K,); ``curves``, K pairs of iterations and errors over the start's.
    """
    drawn = planted(d, k, ratio * d, spectrum(rank, kappas), 1, seed)
    found = {"fitted": [], "predicted": [], "edge": [], "iterations": [], "curves": []}
    for shift in drawn.shift[:, 0]:
        one = Regression(drawn.X[0], drawn.W, shift)
        mu = float(rates.curvatures(one, preconditioned)[0])
        count, every = int(10 / (step * mu)), max(1, int(0.1 / (step * mu)))
        first = descend(one, *spectral_init(negative_gradient(one), rank), step, step, count, preconditioned=preconditioned, every=every)
        second = descend(one, first.B, first.A, step, step, count, preconditioned=preconditioned, every=every)
        linear = rates.forecast(one, first.B, first.A, step, second.at, preconditioned)
        error, at = torch.cat([first.error, second.error[1:]]), torch.cat([first.at, count + second.at[1:]])
        found["fitted"].append(-measure.slope(second.at.to(DTYPE), second.error.log()))
        found["predicted"].append(-measure.slope(second.at.to(DTYPE), linear.log()))
        found["edge"].append(torch.tensor(-math.log1p(-step * mu), dtype=DTYPE, device=shift.device))
        found["iterations"].append(rates.iterations_to(error, at, 1e-6))
        found["curves"].append((at, error / error[0]))
    return {name: values if name == "curves" else torch.stack(values) for name, values in found.items()}


def relu_sweep(d: int, k: int, rank: int, ratios, kappas, seeds: int, step: float, iterations: int, seed: int,
               preconditioned: bool = True) -> dict[str, Tensor]:
    """ReLU, GLM form, spectral start with gamma = 2, r = r*, over N / d and kappa: (ratios, K, seeds) each.

    The rate is fitted over the second half of the run, and compared with the linearised dynamics over the same
    half, started from the same iterate.

    Returns:
        ``rate`` and ``predicted``, ``(1 - factor) / step``; ``edge``, the smallest eigenvalue of the linearised
        operator; ``prefactor``, the largest ``error / ((1 - step/4)^t s_r*)`` over the run.
    """
    found = {"rate": [], "predicted": [], "edge": [], "prefactor": []}
    options = {"preconditioned": preconditioned, "masked": False, "every": 4}
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, kappas), seeds, seed + index, "relu")
        half = iterations // 2
        first = descend(problem, *spectral_init(negative_gradient(problem, masked=False), rank, 2.0), step, step, half, **options)
        second = descend(problem, first.B, first.A, step, step, half, **options)
        smallest = spectrum(rank, kappas, problem.X.device)[:, -1:]
        error, at = torch.cat([first.error, second.error]), torch.cat([first.at, half + second.at]).to(DTYPE)
        found["prefactor"].append((error / ((1 - step / 4) ** at[:, None, None] * smallest)).amax(0))
        found["rate"].append((1 - measure.slope(second.at.to(DTYPE), second.error.movedim(0, -1).log()).exp()) / step)
        predicted, edge = torch.empty_like(second.error[0]), torch.empty_like(second.error[0])
        for i in range(len(kappas)):
            for s in range(seeds):
                one = Regression(problem.X[s], problem.W, problem.shift[i, s], "relu")
                linear = rates.forecast(one, first.B[i, s], first.A[i, s], step, second.at, preconditioned)
                predicted[i, s] = (1 - measure.slope(second.at.to(DTYPE), linear.log()).exp()) / step
                edge[i, s] = rates.curvatures(one, preconditioned)[0]
        found["predicted"].append(predicted)
        found["edge"].append(edge)
    return {name: torch.stack(values) for name, values in found.items()}


def predicted_edges(d: int, ratios, seeds: int, seed: int, concentrated: bool) -> Tensor:
    """Smallest eigenvalue of the linearised preconditioned ReLU operator (ratios,), mean over seeds, r* = 1, k = d."""
    rows = []
    for index, ratio in enumerate(ratios):
        problem = planted(d, d, ratio * d, spectrum(1, 1.0), seeds, seed + index, "relu", concentrated=concentrated)
        rows.append(torch.stack([rates.curvatures(single(problem, s), True)[0] for s in range(seeds)]).mean())
    return torch.stack(rows)


def level_crossing(x, y: Tensor, level: float) -> float:
    """Where the increasing y passes the level, interpolated linearly in ln x; the ends where it does not pass inside."""
    x = torch.as_tensor(x, dtype=y.dtype, device=y.device).log()
    above = y >= level
    if bool(above[0]) or not bool(above.any()):
        return float(x[0].exp() if bool(above[0]) else x[-1].exp())
    i = int(above.to(torch.int64).argmax())
    share = (level - y[i - 1]) / (y[i] - y[i - 1])
    return float((x[i - 1] + share * (x[i] - x[i - 1])).exp())


def sketch_ratios(d: int, k: int, rank: int, step: float, iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Error after a preconditioned step over the printed bound and over the completed one, along a run (iterations,).

    Population, ReLU, GLM form, from a start near the solution.
    """
    sample = single(planted(d, k, 200 * d, spectrum(rank, 2.0), 1, seed, "relu"), 0)
    B, A = spectral_init(negative_gradient(sample, masked=False), rank, 2.0)
    problem = replace(sample, X=None)
    eye_d, eye_k = (torch.eye(n, dtype=B.dtype, device=B.device) for n in (d, k))
    printed, completed = [], []
    for _ in range(iterations):
        E = B @ A - problem.shift
        P_U, P_V = B @ torch.linalg.pinv(B), torch.linalg.pinv(A) @ A
        inside, outside = P_U @ E @ P_V, (eye_d - P_U) @ E @ (eye_k - P_V)
        mixed = torch.linalg.matrix_norm(P_U @ E @ (eye_k - P_V)) + torch.linalg.matrix_norm((eye_d - P_U) @ E @ P_V)
        bound = (1 - step) * torch.linalg.matrix_norm(inside) + torch.linalg.matrix_norm(outside)
        run = descend(problem, B, A, step, step, 1, preconditioned=True, masked=False)
        B, A = run.B, run.A
        printed.append(run.error[-1] / bound)
        completed.append(run.error[-1] / (bound + (1 - step / 2) * mixed))
    return torch.stack(printed), torch.stack(completed)


def ridge_errors(d: int, k: int, rank: int, ratio: int, kappa: float, ridge: float, step: float, iterations: int, seeds: int, seed: int) -> dict[str, float]:
    """Largest relative error after the run with twice the rank needed: preconditioned with a ridge, and plain."""
    problem = planted(d, k, ratio * d, spectrum(rank, kappa), seeds, seed)
    B0, A0 = spectral_init(negative_gradient(problem), 2 * rank)
    runs = {"ridge": descend(problem, B0, A0, step, step, iterations, preconditioned=True, ridge=ridge, every=iterations),
            "plain": descend(problem, B0, A0, step, step, iterations, every=iterations)}
    size = torch.linalg.matrix_norm(problem.shift)
    return {name: float((run.error[-1] / size).max()) for name, run in runs.items()}


def toy_iterations(radius_share: float, step: float, directions: int, level: float = 1e-6) -> tuple[float, Tensor]:
    """Iterations to an error of ``level``: from the spectral start, and (directions,) from (LoRA-init) starts.

    The latter have ``radius_share`` times the spectral start's length.
    """
    problem = toys.toy_problem()
    B, A = spectral_init(negative_gradient(problem), 1)
    B0, A0 = circle(directions, radius_share * float(torch.sqrt(B.square().sum() + A.square().sum())))
    run = descend(problem, torch.cat([B[None], B0]), torch.cat([A[None], A0]), step, step, int(100 / step))
    first = _first(run.error, level)
    return float(first[0]), first[1:]


def circle(directions: int, radius: float) -> tuple[Tensor, Tensor]:
    """(LoRA-init) starts of toy I in all directions: B on a circle, A = 0."""
    turn = 2 * math.pi * torch.arange(directions, dtype=DTYPE, device=default_device()) / directions
    B0 = radius * torch.stack([turn.cos(), turn.sin()], -1)[..., None]
    return B0, torch.zeros(directions, 1, 1, dtype=DTYPE, device=B0.device)


def plane_distance(d: int, s: float, step: float, iterations: int, eigenvector: bool, seed: int) -> float:
    """Largest distance between descent and toy II's plane map from a start in the plane, relative to s.

    ``eigenvector``: whether u is an eigenvector of Sigma (the population) or Sigma comes from samples.
    """
    problem = single(planted(d, d, None if eigenvector else 4 * d, s * spectrum(1, 1.0), 1, seed), 0)
    U, _, Vh = torch.linalg.svd(problem.shift)
    b0, a0 = torch.tensor([0.3], dtype=DTYPE, device=U.device), torch.tensor([-0.1], dtype=DTYPE, device=U.device)
    B, A = toys.trajectory(problem, b0 * U[:, :1], a0 * Vh[:1], step, iterations)
    b, a = toys.plane_map(b0, a0, s, step, iterations)
    expected = b[:, :, None] * a[:, :, None] * (U[:, :1] @ Vh[:1])
    return float((B @ A - expected).abs().max()) / s


def _first(error: Tensor, level: float) -> Tensor:
    reached = error <= level
    return torch.where(reached.any(0), reached.to(torch.int64).argmax(0).to(error.dtype), torch.nan)
