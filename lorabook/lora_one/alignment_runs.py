"""The experiments of the alignment page: each draws its starts, runs one batch and returns the numbers compared.

The formulas they test stand in alignment.py and dynamics.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lorabook import descent, measure
from lorabook.device import generator, normal
from lorabook.linalg import truncate
from lorabook.lora_one import alignment
from lorabook.lora_one.dynamics import descend, linear_phase, linear_residual, row_leak
from lorabook.lora_one.problem import Regression, negative_gradient, offset
from lorabook.lora_one.settings import planted, spectrum
from lorabook.lora_one.starts import lora_ga_init, lora_init


def linear_checks(problem: Regression, rank: int, step_B: float, step_A: float, steps: int, seed: int) -> tuple[float, ...]:
    """Relative distances: one step to the printed two terms, and to the first alone; closed form to ``H^t``, and with the mean step."""
    d, k = problem.shift.shape
    draws = generator(seed)
    B, A = normal((d, rank), draws, problem.shift.device), normal((rank, k), draws, problem.shift.device)
    G, Sigma = negative_gradient(problem), problem.covariance
    run = descend(problem, B, A, step_B, step_A, 1)
    after, before = torch.cat([run.B, run.A.mT]), torch.cat([B, A.mT])

    def generator_matrix(first, second):
        H = torch.eye(d + k, dtype=G.dtype, device=G.device)
        H[:d, d:], H[d:, :d] = first * G, second * G.mT
        return H

    H, M = generator_matrix(step_B, step_A), Sigma @ B @ A
    block = torch.cat([step_B * M @ A.mT, step_A * M.mT @ B])
    power = torch.linalg.matrix_power(H, steps) @ before
    mean = (step_B + step_A) / 2
    closed, wrong = (torch.cat([b, a.mT]) for b, a in (linear_phase(G, B, A, step_B, step_A, steps), linear_phase(G, B, A, mean, mean, steps)))
    return tuple(_distance(x, y) for x, y in ((after, H @ before - block), (after, H @ before), (closed, power), (wrong, power)))


def leak_along(problem: Regression, B0: Tensor, A0: Tensor, step: float, iterations: int) -> list[float]:
    """Largest row leak over the batch after 1 step, a twentieth, half and all of the iterations, in full coordinates."""
    G, found = negative_gradient(problem), []
    for count in (1, iterations // 20, iterations // 2, iterations):
        # a rule is given so that the run does not use the reduced coordinates, in which the leak is 0 by construction
        run = descend(problem, B0, A0, step, step, count, rule=descent.plain, every=count)
        found.append(float(row_leak(run.A, G, problem.rank).max()))
    return found


def scaling_law(problem: Regression, rank: int, alphas: Tensor, step: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Power of alpha in the best sine, (K, S) fitted and predicted; best sines (a, K, S); condition numbers of G (K, S)."""
    lead, (d, k) = problem.shift.shape[:-2], problem.shift.shape[-2:]
    B0, A0 = lora_init((*lead[-1:], d, k), rank, 1.0, generator(seed), problem.shift.device)
    B0 = (alphas.reshape((-1,) + (1,) * (len(lead) + 2)) * B0).expand(len(alphas), *lead, d, rank)
    growth = alignment.growth_rates(problem, step)
    # the best sine stands near 2 ln(1/alpha) / (2 l_1 + l_r); a third more, and the time of the prefactor, is enough
    horizon = 1.35 * 2 * math.log(1 / float(alphas.min())) / float((2 * growth[..., 0] + growth[..., -1]).min())
    run = descend(problem, B0, A0, step, step, int(horizon) + 300, every=5)
    sines, _ = alignment.best(run.sine_to_gradient, run.at)
    fitted = measure.slope(alphas.log(), sines.movedim(0, -1).log())
    s = torch.linalg.svdvals(negative_gradient(problem))[..., : problem.rank]
    return fitted, alignment.best_sine_exponent(growth), sines, s[..., 0] / s[..., -1]


def sine_ratio_at_times(problem: Regression, rank: int, alpha: float, smaller: float, step: float, seed: int) -> tuple[float, float]:
    """Sine after the smaller start over sine after the other: both at ``ln d / (step s_r*)``; each at its own ``ln(1/epsilon) / l_r*``."""
    d, k = problem.shift.shape
    B0, A0 = lora_init((d, k), rank, 1.0, generator(seed), problem.shift.device)
    growth = alignment.growth_rates(problem, step)
    s = torch.linalg.svdvals(negative_gradient(problem))[problem.rank - 1]
    fixed = round(math.log(d) / (step * float(s)))
    power = float(alignment.best_sine_exponent(growth))
    own = [round(power * math.log(1 / a) / float(growth[-1])) for a in (alpha, smaller)]
    run = descend(problem, torch.stack([alpha * B0, smaller * B0]), A0, step, step, max(fixed, *own))
    sine = run.sine_to_gradient
    return float(sine[fixed, 1] / sine[fixed, 0]), float(sine[own[1], 1] / sine[own[0], 0])


def residual_time(problem: Regression, rank: int, alphas: Tensor, large: Tensor, step: float, starts: int, seed: int,
                  level: float = 0.1) -> tuple[float, float, float]:
    """When the residual reaches ``level`` times the linear part.

    Returns:
        The factor ``1 / (2 l_1)``; the fitted slope of that time in ``ln(||G|| / ||B0||^2)`` over the factor,
        median over starts, for small starts; the same for large ones.
    """
    d, k = problem.shift.shape
    G = negative_gradient(problem)
    B0, A0 = lora_init((starts, d, k), rank, 1.0, generator(seed), G.device)
    growth = float(alignment.growth_rates(problem, step)[0])

    def fitted(sizes: Tensor) -> float:
        B = sizes.to(B0)[:, None, None, None] * B0
        logs = torch.log(torch.linalg.matrix_norm(G, ord=2) / torch.linalg.matrix_norm(B, ord=2).square())
        horizon = int(2 + 1.2 * max(0.0, float(logs.max())) / (2 * growth)) + 60
        # every tenth of an e-folding is enough, and large starts may leave their first steps within one
        every = max(1, int(0.1 / growth)) if horizon > 200 else 1
        time = every * alignment.crossing(*linear_residual(problem, B, A0, step, horizon, every), level)
        return float(measure.slope(logs.mT, time.mT).median()) * 2 * growth

    return 1 / (2 * growth), fitted(alphas), fitted(large)


def imbalanced_times(problem: Regression, rank: int, alpha: float, step: float, ratio: float, starts: int, level: float, seed: int) -> dict[str, float]:
    """Iterations until the sine is at most ``level``, over those of equal steps, median over starts.

    ``product``: step_A / step_B = ratio at the same product; ``mirrored``: the inverse ratio;
    ``raised``: step_B kept, step_A raised by ratio.
    """
    d, k = problem.shift.shape
    B0, A0 = lora_init((starts, d, k), rank, alpha, generator(seed), problem.shift.device)
    root = math.sqrt(ratio)
    steps_B = torch.tensor([step, step / root, step * root, step], dtype=B0.dtype, device=B0.device)[:, None]
    steps_A = torch.tensor([step, step * root, step / root, step * ratio], dtype=B0.dtype, device=B0.device)[:, None]
    run = descend(problem, B0.expand(4, *B0.shape), A0, steps_B, steps_A, int(12 * math.log(1 / alpha) / step / 4))
    times = alignment.first_below(run.sine_to_gradient, run.at, level)
    ratios = (times[1:] / times[0]).nanmedian(-1).values
    return dict(zip(("product", "mirrored", "raised"), ratios.tolist(), strict=True))


def imbalance_defect(problem: Regression, rank: int, alpha: float, step: float, ratio: float, iterations: int, seed: int) -> tuple[float, float]:
    """Relative distance of the products of unequal steps to equal ones, with the start rescaled and without."""
    B0, A0 = lora_init(tuple(problem.shift.shape), rank, alpha, generator(seed), problem.shift.device)
    root = math.sqrt(ratio)
    c = ratio**-0.25  # step_B / step_A = 1 / ratio
    uneven = descend(problem, B0, A0, step / root, step * root, iterations, every=iterations)
    rescaled, plain = (descend(problem, B, A, step, step, iterations, every=iterations) for B, A in ((B0 / c, c * A0), (B0, A0)))
    target = uneven.B @ uneven.A
    return tuple(_distance(run.B @ run.A, target) for run in (rescaled, plain))


def row_overlap(A: Tensor, G: Tensor, rank: int) -> Tensor:
    """Largest cosine (...) between A's row space and G's leading ``rank`` right singular vectors."""
    V = torch.linalg.svd(G, full_matrices=False).Vh[..., :rank, :].mT
    rows = torch.linalg.qr(A.mT).Q
    return torch.linalg.matrix_norm(rows.mT @ V, ord=2)


def first_change_distance(G: Tensor, B0: Tensor, A0: Tensor, rank: int) -> Tensor:
    """Relative distance (...) of ``G A0^T A0 + B0 B0^T G`` to the best approximation of G of that rank."""
    best = truncate(G, rank)
    change = G @ A0.mT @ A0 + B0 @ (B0.mT @ G)
    return torch.linalg.matrix_norm(change - best) / torch.linalg.matrix_norm(best)


def floor_of(problem: Regression, rank: int) -> Tensor:
    """Smallest loss (...) that a product of ``rank`` can have: half the squared tail of ``Sigma^{1/2} Delta``."""
    values, basis = torch.linalg.eigh(problem.covariance)
    root = basis * values.clamp(min=0).sqrt()[..., None, :] @ basis.mT
    return torch.linalg.svdvals(root @ problem.shift)[..., rank:].square().sum(-1) / 2


def offset_floor(problem: Regression, rank: int, gamma: float, iterations: int, step: float = 0.25) -> dict[str, float]:
    """LoRA-GA's final loss over its floor, median; and over the same floor the loss of the same start without the offset."""
    B0, A0 = lora_ga_init(negative_gradient(problem), rank, gamma)
    moved = offset(problem, B0, A0)
    floor, answers = floor_of(moved, rank), {}
    for name, task in (("loss", moved), ("no offset", problem)):
        run = descend(task, B0, A0, step, step, iterations, every=iterations)
        E = run.B @ run.A - task.shift
        final = (E * (problem.covariance @ E)).sum((-2, -1)) / 2
        answers[name] = float((final / floor).median())
    return answers


def floor_only(d: int, k: int, ratio: int, rank: int, gamma: float, seeds: int) -> float:
    """Median over seeds of :func:`floor_of` for LoRA-GA's target with N = ratio * d samples and r = r* = rank."""
    problem = planted(d, k, ratio * d, spectrum(rank, 1.0), seeds, seed=11)
    return float(floor_of(offset(problem, *lora_ga_init(negative_gradient(problem), rank, gamma)), rank).median())


def with_noise(problem: Regression, size: float, source: torch.Generator) -> Regression:
    """The same problem with Gaussian label noise."""
    shape = torch.broadcast_shapes(problem.X.shape[:-2], problem.shift.shape[:-2])
    return replace(problem, noise=size * normal((*shape, problem.X.shape[-2], problem.shift.shape[-1]), source, problem.shift.device))


def _distance(x: Tensor, y: Tensor) -> float:
    return float((torch.linalg.matrix_norm(x - y) / torch.linalg.matrix_norm(y)).max())
