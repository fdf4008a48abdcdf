"""The experiments on the start: how near it is to the shift, and which gradient it is made from.

The formulas they test stand in problem.py and starts.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lorabook import descent
from lorabook.device import DTYPE, default_device, generator, normal
from lorabook.lora_one.dynamics import descend, largest_sine, leading_left
from lorabook.lora_one.problem import Regression, act, mean_relu_gradient, negative_gradient, offset
from lorabook.lora_one.settings import planted, single, spectrum
from lorabook.lora_one.starts import algorithm_start, lora_init, spectral_init


def start_errors(d: int, k: int, rank: int, samples, seeds: int, seed: int, spread: float = 0.0) -> Tensor:
    """``||B0 A0 - Delta||^2 N / ||Delta||_F^2`` (samples, seeds) for the linear model, gamma = 1; variances of X between 1 -+ spread."""
    found = []
    for index, N in enumerate(samples):
        problem = planted(d, k, N, spectrum(rank, 1.0), seeds, seed + index)
        if spread:
            problem = replace(problem, X=problem.X * torch.linspace(1 - spread, 1 + spread, d, dtype=DTYPE, device=problem.X.device).sqrt())
        B0, A0 = spectral_init(negative_gradient(problem), rank)
        found.append((B0 @ A0 - problem.shift).square().sum((-2, -1)) * N / rank)
    return torch.stack(found)


def least_constants(dims, squares: Tensor, levels=(0.5, 0.1, 0.02)) -> tuple[Tensor, Tensor]:
    """ln C (D,), the smallest constants that the observed failures allow, printed and corrected.

    With ``x`` the value of ``epsilon^2 N`` at which a share ``p`` of the starts fails, ``p <= C exp(-x)`` asks for
    ``C >= p exp(x)``; the corrected exponent is ``(sqrt(x) - sqrt(d + 1))^2 / 4`` where ``x > d + 1``, else 0.

    Args:
        dims: the dimensions d.
        squares: (D, seeds) ``epsilon^2 N`` from which on each start succeeds: :func:`start_errors` at r* = 1.
        levels: shares p.
    """
    p = torch.tensor(levels, dtype=squares.dtype, device=squares.device)
    x = torch.quantile(squares, 1 - p, dim=-1).mT
    edge = torch.as_tensor(dims, dtype=x.dtype, device=x.device)[:, None] + 1
    corrected = (x.sqrt() - edge.sqrt()).clamp(min=0.0).square() / 4
    return (p.log() + x).amax(-1), (p.log() + corrected).amax(-1)


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


def slides_start_error(d: int, k: int, rank: int, gamma: float, step: float, iterations: int, seed: int, turned: bool) -> float:
    """Relative error after plain descent from Algorithm 1's printed start with its offset, in the population.

    ``turned``: with the singular vectors of the negative gradient instead.
    """
    problem = single(planted(d, k, None, spectrum(rank, 2.0), 1, seed), 0)
    B0, A0, _ = algorithm_start(negative_gradient(problem), rank, gamma, "slides")
    B0 = -B0 if turned else B0
    run = descend(offset(problem, B0, A0), B0, A0, step, step, iterations, every=iterations)
    return float(run.error[-1] / torch.linalg.matrix_norm(problem.shift))


def adam_arrival(d: int, k: int, rank: int, gamma: float, step: float, iterations: int, seed: int, turned: bool, ridge: float | None = None) -> float:
    """First iteration at a relative error of 1e-3 under Adam in the place of plain descent, else as :func:`slides_start_error`.

    ``ridge``: Adam takes the preconditioned forces instead, with this ridge.  NaN where the run does not arrive.
    """
    problem = single(planted(d, k, None, spectrum(rank, 2.0), 1, seed), 0)
    B0, A0, _ = algorithm_start(negative_gradient(problem), rank, gamma, "slides")
    scaled, entrywise = descent.plain if ridge is None else descent.preconditioned(ridge), descent.adam()

    def rule(B, A, F_B, F_A, memory):
        F_B, F_A, _ = scaled(B, A, F_B, F_A, None)
        return entrywise(B, A, F_B, F_A, memory)

    B0 = -B0 if turned else B0
    run = descend(offset(problem, B0, A0), B0, A0, step, step, iterations, rule=rule)
    reached = run.error <= 1e-3 * torch.linalg.matrix_norm(problem.shift)
    return float(run.at[reached][0]) if bool(reached.any()) else math.nan


def angle_to_truncation(G: Tensor, rank: int, form: str) -> float:
    """Largest sine between ``B0 A0`` of a published form and the best rank-r approximation of G, as vectors."""
    B0, A0, _ = algorithm_start(G, rank, 1.0, form)
    B, A = spectral_init(G, rank)
    x, y = (M.flatten(-2) / torch.linalg.matrix_norm(M)[..., None] for M in (B0 @ A0, B @ A))
    return float(torch.linalg.vector_norm(x - (x * y).sum(-1, keepdim=True) * y, dim=-1).max())
