"""The experiments of the LoRA-One pages that are too long for a cell, each with its draws, its batch and its numbers.

No formula stands here: those tested are in problem.py, starts.py, dynamics.py, alignment.py, rates.py and toys.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lorabook import descent, measure
from lorabook.device import DTYPE, default_device, generator, normal, tensor
from lorabook.linalg import largest_sine
from lorabook.lora_one import alignment, rates, toys
from lorabook.lora_one.dynamics import descend, leading_left, linear_phase, trajectory
from lorabook.lora_one.planted import left_vectors, planted, single, spectrum
from lorabook.lora_one.problem import Regression, act, distance, negative_gradient, offset
from lorabook.lora_one.starts import algorithm_start, lora_ga_init, lora_init, spectral_init


def linear_checks(
    problem: Regression, rank: int, step_B: float, step_A: float, steps: int, seed: int
) -> tuple[float, ...]:
    """Relative distances: one step to both printed terms, the first alone; closed form to ``H^t``, with mean step."""
    d, k = problem.shift.shape
    draws = generator(seed)
    B, A = normal((d, rank), draws, problem.shift.device), normal((rank, k), draws, problem.shift.device)
    G, M = negative_gradient(problem), problem.covariance @ B @ A
    H = torch.eye(d + k, dtype=G.dtype, device=G.device)
    H[:d, d:], H[d:, :d] = step_B * G, step_A * G.mT
    run = descend(problem, B, A, step_B, step_A, 1)
    after, before = torch.cat([run.B, run.A.mT]), torch.cat([B, A.mT])
    block = torch.cat([step_B * M @ A.mT, step_A * M.mT @ B])
    power = torch.linalg.matrix_power(H, steps) @ before
    mean = (step_B + step_A) / 2
    closed, wrong = (
        torch.cat([b, a.mT])
        for b, a in (linear_phase(G, B, A, step_B, step_A, steps), linear_phase(G, B, A, mean, mean, steps))
    )
    pairs = (after, H @ before - block), (after, H @ before), (closed, power), (wrong, power)
    return tuple(float(distance(x, y)) for x, y in pairs)


def scaling_law(problem: Regression, rank: int, alphas: Tensor, step: float, seed: int) -> tuple[Tensor, ...]:
    """Power of alpha in the best sine (K, S), fitted and predicted; best sines (a, K, S); conditions of G (K, S)."""
    S, d, k = problem.shift.shape[-3:]
    B0, A0 = lora_init((S, d, k), rank, 1.0, generator(seed), problem.shift.device)
    growth = alignment.growth_rates(problem, step)
    # the best sine stands near 2 ln(1/alpha) / (2 l_1 + l_r); a third more, and the time of the prefactor, is enough
    horizon = 1.35 * 2 * math.log(1 / float(alphas.min())) / float((2 * growth[..., 0] + growth[..., -1]).min())
    run = descend(problem, alphas[:, None, None, None, None] * B0, A0, step, step, int(horizon) + 300, every=5)
    sines, _ = alignment.best(run.sine_to_gradient, run.at)
    fitted = measure.slope(alphas.log(), sines.movedim(0, -1).log())
    s = torch.linalg.svdvals(negative_gradient(problem))[..., : problem.rank]
    return fitted, alignment.best_sine_exponent(growth), sines, s[..., 0] / s[..., -1]


def conditioned(d: int, kappas: Tensor, seeds: int, seed: int, ratio: int = 16) -> Regression:
    """Problems (K, S) whose gradient has the singular values 1 and 1 / kappa exactly, k = 4, N = ratio * d."""
    drawn = planted(d, 4, ratio * d, spectrum(2, kappas), seeds, seed)
    return replace(drawn, shift=torch.linalg.solve(drawn.covariance, drawn.shift))


def paired_starts(U: Tensor, seed: int) -> Tensor:
    """(LoRA-init) of rank 4 and size 1 (S, d, 4) whose part inside the span of U (S, d, 2) is the same for every d."""
    S, d = U.shape[:2]
    draws = generator(seed)
    inside, B0 = normal((S, 2, 4), draws, U.device), normal((S, d, 4), draws, U.device)
    return B0 + U @ (inside - U.mT @ B0)


def tolerance_map(dims, kappas, epsilons: Tensor, seeds: int, seed: int, step: float = 1 / 16) -> dict[str, Tensor]:
    """Smallest sine over epsilon from Theorem 3.2's printed start, (d, K, epsilons) medians over seeds.

    Returns:
        ``late``, up to three units of ``ln d / (step s_r*)``; ``early``, up to two; ``bare``, up to two with the
        factor ``d^(-3 kappa / 4)`` of the start left out, for the first three epsilons.
    """
    found = {"late": [], "early": [], "bare": []}
    for d in dims:
        for kappa in kappas:
            problem = conditioned(d, tensor([kappa], epsilons.device), seeds, seed)
            B0 = paired_starts(left_vectors(d, 2, seeds, seed, epsilons.device), seed + 1)
            sizes = torch.cat([alignment.printed_size(epsilons, d, kappa), epsilons[:3] * d**-0.5])
            steps = math.ceil(3 * math.log(d) * kappa / step)
            A0 = B0.new_zeros(4, 4)
            run = descend(
                problem, sizes[:, None, None, None, None] * B0, A0, step, step, steps, every=max(1, steps // 90)
            )
            sine = run.sine_to_gradient[:, :, 0]
            soon = run.at <= steps * 2 / 3
            late, early = (torch.nan_to_num(x, nan=1.0).amin(0).median(-1).values for x in (sine, sine[soon]))
            count = len(epsilons)
            for name, values in (("late", late[:count]), ("early", early[:count]), ("bare", early[count:])):
                found[name].append(values / epsilons[: len(values)])
    return {name: torch.stack(x).reshape(len(dims), len(kappas), -1) for name, x in found.items()}


def best_sine_constants(dims, kappas: Tensor, alpha: float, seeds: int, seed: int, step=1 / 16) -> Tensor:
    """Best sine of the whole run over :func:`alignment.best_sine_law` (d, K, S): K of the law, where it holds."""
    growth = torch.stack([torch.full_like(kappas, math.log1p(step)), torch.log1p(step / kappas)], -1)
    horizon = int((2.6 * math.log(1 / alpha) / (2 * growth[:, 0] + growth[:, 1]) + 2 * kappas / step).max())
    found = []
    for d in dims:
        problem = conditioned(d, kappas, seeds, seed)
        B0 = alpha * paired_starts(left_vectors(d, 2, seeds, seed, kappas.device), seed + 1)
        run = descend(problem, B0, B0.new_zeros(4, 4), step, step, horizon, every=8)
        best = alignment.best(run.sine_to_gradient, run.at)[0]
        found.append(best / alignment.best_sine_law(alpha, d, growth)[:, None])
    return torch.stack(found)


def offset_sines(d: int, gammas, singular: Tensor, with_offset: bool, steps: int, seed: int, ratio=None) -> Tensor:
    """Sine between A's rows and G's row space after descent from LoRA-GA's start (gammas), r = r*; N = ratio * d."""
    rank, found = singular.shape[-1], []
    problem = single(planted(d, d, ratio and ratio * d, singular, 1, seed), 0)
    G = negative_gradient(problem)
    for gamma in gammas:
        B0, A0 = lora_ga_init(G, rank, gamma)
        run = descend(offset(problem, B0, A0) if with_offset else problem, B0, A0, 0.2, 0.2, steps, every=steps)
        found.append(largest_sine(leading_left(run.A.mT, rank), leading_left(G.mT, rank)))
    return torch.stack(found)


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
        options: dict[str, Any] = {"preconditioned": preconditioned, "every": every}
        first = descend(one, *spectral_init(negative_gradient(one), rank), step, step, count, **options)
        second = descend(one, first.B, first.A, step, step, count, **options)
        linear = rates.forecast(one, first.B, first.A, step, second.at, preconditioned)
        error, at = torch.cat([first.error, second.error[1:]]), torch.cat([first.at, count + second.at[1:]])
        error = error / error[0]
        found["fitted"].append(-measure.slope(second.at.to(DTYPE), second.error.log()))
        found["predicted"].append(-measure.slope(second.at.to(DTYPE), linear.log()))
        found["edge"].append(tensor(-math.log1p(-step * mu), shift.device))
        found["iterations"].append(measure.first_passage(at, error, 1e-6, between=False))
        found["curves"].append((at, error))
    return {name: values if name == "curves" else torch.stack(values) for name, values in found.items()}


def relu_sweep(
    d: int,
    k: int,
    rank: int,
    ratios,
    kappas,
    seeds: int,
    step: float,
    iterations: int,
    seed: int,
    preconditioned: bool = True,
) -> dict[str, Tensor]:
    """ReLU, GLM form, spectral start with gamma = 2, r = r*, over N / d and kappa: (ratios, K, seeds) each.

    The rate is fitted over the second half of the run, and compared with the linearised dynamics over the same
    half, started from the same iterate.

    Returns:
        ``rate`` and ``predicted``, ``(1 - factor) / step``; ``edge``, the smallest eigenvalue of the linearised
        operator; ``prefactor``, the largest ``error / ((1 - step/4)^t s_r*)`` over the run.
    """
    found = {"rate": [], "predicted": [], "edge": [], "prefactor": []}
    options: dict[str, Any] = {"preconditioned": preconditioned, "masked": False, "every": 4}
    half = iterations // 2
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, kappas), seeds, seed + index, "relu")
        start = spectral_init(negative_gradient(problem, masked=False), rank, 2.0)
        first = descend(problem, *start, step, step, half, **options)
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


def plane_distance(d: int, s: float, step: float, iterations: int, eigenvector: bool, seed: int) -> float:
    """Largest distance between descent and toy II's plane map from a start in the plane, relative to s.

    ``eigenvector``: whether u is an eigenvector of Sigma (the population) or Sigma comes from samples.
    """
    problem = single(planted(d, d, None if eigenvector else 4 * d, s * spectrum(1, 1.0), 1, seed), 0)
    U, _, Vh = torch.linalg.svd(problem.shift)
    b0, a0 = tensor([0.3], U.device), tensor([-0.1], U.device)
    B, A = trajectory(problem, b0 * U[:, :1], a0 * Vh[:1], step, iterations)
    b, a = toys.plane_map(b0, a0, s, step, iterations)
    expected = b[:, :, None] * a[:, :, None] * (U[:, :1] @ Vh[:1])
    return float((B @ A - expected).abs().max()) / s


def start_errors(d: int, k: int, rank: int, samples, seeds: int, seed: int, spread: float = 0.0) -> Tensor:
    """``||B0 A0 - Delta||^2 N / ||Delta||^2`` (samples, seeds), linear, gamma = 1; variances of X in 1 -+ spread."""
    found = []
    for index, N in enumerate(samples):
        problem = planted(d, k, N, spectrum(rank, 1.0), seeds, seed + index)
        if spread:
            scales = torch.linspace(1 - spread, 1 + spread, d, dtype=DTYPE, device=problem.X.device).sqrt()
            problem = replace(problem, X=problem.X * scales)
        B0, A0 = spectral_init(negative_gradient(problem), rank)
        found.append((B0 @ A0 - problem.shift).square().sum((-2, -1)) * N / rank)
    return torch.stack(found)


def both_forms(measured: Callable, d: int, k: int, rank: int, ratios, seeds: int, seed: int) -> dict[str, Tensor]:
    """``measured(problem, masked)`` (ratios, ...) on ReLU problems, N = ratio * d: by the GLM form, by the gradient."""
    found = {"GLM form": [], "gradient": []}
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, 1.0), seeds, seed + index, "relu")
        for name, masked in (("GLM form", False), ("gradient", True)):
            found[name].append(measured(problem, masked))
    return {name: torch.stack(values) for name, values in found.items()}


def jacobian_distances(n: int, seed: int) -> tuple[float, float]:
    """Relative distance to automatic differentiation of the printed J, at N = d = k = n, and of the corrected one."""
    draws, where = generator(seed), default_device()
    X, W, shift = (normal((n, n), draws, where) for _ in range(3))
    problem = Regression(X, W, shift, "relu")
    moved = (W + 0.1 * normal((n, n), draws, where)).requires_grad_(True)
    objective = (act(X @ moved, "relu") - problem.labels).square().sum() / (2 * n)
    truth = -torch.autograd.grad(objective, moved)[0]
    W_t = moved.detach()
    printed = (X.mT / n @ (problem.labels - X.mT / n @ act(X @ W_t, "relu"))) * (X @ W_t > 0)
    ours = negative_gradient(replace(problem, W=W_t, shift=W + shift - W_t))
    return float(distance(printed, truth)), float(distance(ours, truth))


def slides_errors(
    d: int, k: int, rank: int, gamma: float, step: float, iterations: int, seed: int, turned: bool, rule=None
) -> Tensor:
    """Relative errors (iterations + 1,) from Algorithm 1's printed start with its offset, in the population.

    ``turned``: with the singular vectors of the negative gradient instead.  ``rule``: of the steps, else plain descent.
    """
    problem = single(planted(d, k, None, spectrum(rank, 2.0), 1, seed), 0)
    B0, A0, _ = algorithm_start(negative_gradient(problem), rank, gamma, "slides")
    B0 = -B0 if turned else B0
    run = descend(offset(problem, B0, A0), B0, A0, step, step, iterations, rule=rule)
    return run.error / torch.linalg.matrix_norm(problem.shift)


def adam_on_preconditioned(ridge: float) -> Callable:
    """Adam on preconditioned forces, a rule for :func:`slides_errors`: Algorithm 1 has both."""
    scaled, entrywise = descent.preconditioned(ridge), descent.adam()

    def rule(B, A, F_B, F_A, memory):
        F_B, F_A, _ = scaled(B, A, F_B, F_A, None)
        return entrywise(B, A, F_B, F_A, memory)

    return rule
