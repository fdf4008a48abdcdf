"""The experiments of the convergence page: each builds its problems, runs one batch and returns the numbers compared.

The formulas they test stand in problem.py, starts.py, rates.py and toys.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lorabook import measure
from lorabook.device import DTYPE, default_device, generator, normal
from lorabook.lora_one import rates, toys
from lorabook.lora_one.dynamics import descend, largest_sine, leading_left
from lorabook.lora_one.problem import Regression, act, mean_relu_gradient, negative_gradient, offset
from lorabook.lora_one.settings import planted, single, spectrum
from lorabook.lora_one.starts import algorithm_start, lora_init, spectral_init


def start_errors(d: int, k: int, rank: int, ratios, seeds: int, seed: int, spread: float = 0.0) -> Tensor:
    """``||B0 A0 - Delta||^2 N / ||Delta||_F^2`` (ratios, seeds) for the linear model, gamma = 1; variances of X between 1 -+ spread."""
    found = []
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, 1.0), seeds, seed + index)
        scale = torch.linspace(1 - spread, 1 + spread, d, dtype=DTYPE, device=problem.X.device).sqrt()
        problem = replace(problem, X=problem.X * scale)
        B0, A0 = spectral_init(negative_gradient(problem), rank)
        found.append((B0 @ A0 - problem.shift).square().sum((-2, -1)) * ratio * d / rank)
    return torch.stack(found)


def half_success(d: int, ratio: int, seeds: int, seed: int) -> float:
    """``epsilon^2 N`` at which half of the starts have ``||B0 A0 - Delta||_F <= epsilon ||Delta||_op``, for r* = 1."""
    return float(start_errors(d, d, 1, [ratio], seeds, seed).median())


def relu_start_errors(d: int, k: int, rank: int, ratios, seeds: int, seed: int) -> dict[str, Tensor]:
    """Relative start errors (ratios, seeds) with gamma = 2: from the GLM form and from the gradient."""
    found = {"GLM form": [], "gradient": []}
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, 1.0), seeds, seed + index, "relu")
        for name, masked in (("GLM form", False), ("gradient", True)):
            B0, A0 = spectral_init(negative_gradient(problem, masked=masked), rank, 2.0)
            found[name].append(torch.linalg.matrix_norm(B0 @ A0 - problem.shift) / math.sqrt(rank))
    return {name: torch.stack(errors) for name, errors in found.items()}


def mean_distances(d: int, k: int, rank: int, ratios, seeds: int, seed: int) -> dict[str, Tensor]:
    """``||J(W_t) - (Delta - B A)/2|| / ||(Delta - B A)/2||`` (ratios, seeds) at one random B A, for both forms."""
    found = {"GLM form": [], "gradient": []}
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, 1.0), seeds, seed + index, "relu")
        draws = generator(seed + 100)
        B, A = (normal(shape, draws, problem.X.device) / math.sqrt(d) for shape in ((d, rank), (rank, k)))
        target = (problem.shift - B @ A) / 2
        for name, masked in (("GLM form", False), ("gradient", True)):
            J = negative_gradient(problem, B, A, masked)
            found[name].append(torch.linalg.matrix_norm(J - target) / torch.linalg.matrix_norm(target))
    return {name: torch.stack(errors) for name, errors in found.items()}


def concentration_constants(d: int, k: int, rank: int, ratios, sizes, seeds: int, seed: int) -> dict[str, Tensor]:
    """``||J(W_t) + E/2|| / (sqrt(d/N) ||E||)`` (ratios, sizes, seeds) at ``B A = Delta + E`` with errors E of rank 1 and given sizes."""
    found = {"GLM form": [], "gradient": []}
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, 1.0), seeds, seed + index, "relu")
        draws = generator(seed + 100)
        direction = normal((d, 1), draws, problem.X.device) @ normal((1, k), draws, problem.X.device)
        sizes_ = torch.as_tensor(sizes, dtype=DTYPE, device=problem.X.device)[:, None, None, None]
        E = sizes_ * direction / torch.linalg.matrix_norm(direction)
        # the weights W_t = W + Delta + E with the target at distance -E
        near = replace(problem, W=problem.W + problem.shift + E, shift=(-E).expand(len(sizes), seeds, d, k))
        for name, masked in (("GLM form", False), ("gradient", True)):
            J = negative_gradient(near, masked=masked)
            found[name].append(torch.linalg.matrix_norm(J + E / 2) / torch.linalg.matrix_norm(E) * math.sqrt(ratio))
    return {name: torch.stack(values) for name, values in found.items()}


def start_sines(d: int, k: int, rank: int, ratio: int, seeds: int, seed: int) -> tuple[float, float]:
    """Largest sine to Delta of spectral starts, linear and ReLU (true gradient); smallest of Gaussian starts."""
    spectral, gaussian = [], []
    for activation, gamma in (("linear", 1.0), ("relu", 2.0)):
        problem = planted(d, k, ratio * d, spectrum(rank, 2.0), seeds, seed, activation)
        target = leading_left(problem.shift, rank)
        B, _ = spectral_init(negative_gradient(problem), rank, gamma)
        random, _ = lora_init((seeds, d, k), rank, 0.1, generator(seed + 1), problem.shift.device)
        spectral.append(largest_sine(leading_left(B, rank), target).max())
        gaussian.append(largest_sine(leading_left(random, rank), target).min())
    return float(max(spectral)), float(min(gaussian))


def gradient_means(d: int, k: int, rank: int, samples: int, draws: int, seed: int) -> dict[str, float]:
    """Means of one-step gradients over many draws of X: relative distances to Delta / 2 and to the closed form."""
    first = planted(d, k, 2 * d, spectrum(rank, 1.0), 1, seed, "relu")
    W, shift, source = first.W, first.shift[0], generator(seed + 1)
    means = {True: torch.zeros_like(shift), False: torch.zeros_like(shift)}
    for _ in range(draws):
        problem = Regression(normal((samples, d), source, shift.device), W, shift, "relu")
        for masked in means:
            means[masked] = means[masked] + negative_gradient(problem, masked=masked) / draws
    closed, half = mean_relu_gradient(W, shift), shift / 2
    size = torch.linalg.matrix_norm

    def off(x, y):
        return float(size(x - y) / size(y))

    return {"gradient": off(means[True], half), "GLM form": off(means[False], half),
            "gradient, closed form": off(means[True], closed), "GLM form, closed form": off(half, closed)}


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
    return tuple(float(torch.linalg.matrix_norm(J - truth) / torch.linalg.matrix_norm(truth)) for J in (printed, ours))


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
        found["fitted"].append(-measure.slope(second.at.to(DTYPE), second.error.log()).cpu())
        found["predicted"].append(-measure.slope(second.at.to(DTYPE), linear.log()).cpu())
        found["edge"].append(torch.tensor(-math.log1p(-step * mu), dtype=DTYPE))
        found["iterations"].append(rates.iterations_to(error, at, 1e-6).cpu())
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


def slides_start_error(d: int, k: int, rank: int, gamma: float, step: float, iterations: int, seed: int, turned: bool) -> float:
    """Relative error after plain descent from Algorithm 1's printed start with its offset, in the population.

    ``turned``: with the singular vectors of the negative gradient instead.
    """
    problem = single(planted(d, k, None, spectrum(rank, 2.0), 1, seed), 0)
    B0, A0, _ = algorithm_start(negative_gradient(problem), rank, gamma, "slides")
    B0 = -B0 if turned else B0
    run = descend(offset(problem, B0, A0), B0, A0, step, step, iterations, every=iterations)
    return float(run.error[-1] / torch.linalg.matrix_norm(problem.shift))


def angle_to_truncation(G: Tensor, rank: int, form: str) -> float:
    """Largest sine between ``B0 A0`` of a published form and the best rank-r approximation of G, as vectors."""
    B0, A0, _ = algorithm_start(G, rank, 1.0, form)
    B, A = spectral_init(G, rank)
    x, y = (M.flatten(-2) / torch.linalg.matrix_norm(M)[..., None] for M in (B0 @ A0, B @ A))
    return float(torch.linalg.vector_norm(x - (x * y).sum(-1, keepdim=True) * y, dim=-1).max())


def _first(error: Tensor, level: float) -> Tensor:
    reached = error <= level
    return torch.where(reached.any(0), reached.to(torch.int64).argmax(0).to(error.dtype), torch.nan)
