"""The experiments of the LoRA-One pages: each draws its starts, runs one batch and returns the numbers compared.

No formula stands here: those tested are in problem.py, starts.py, dynamics.py, alignment.py, rates.py and toys.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lorabook import descent, measure
from lorabook.device import DTYPE, default_device, generator, normal
from lorabook.linalg import truncate
from lorabook.lora_one import alignment, rates, toys
from lorabook.lora_one.dynamics import (
    descend,
    largest_sine,
    leading_left,
    linear_phase,
    linear_residual,
    row_leak,
    trajectory,
)
from lorabook.lora_one.planted import planted, single, spectrum
from lorabook.lora_one.problem import Regression, act, mean_relu_gradient, negative_gradient, offset
from lorabook.lora_one.starts import algorithm_start, lora_ga_init, lora_init, spectral_init

# Alignment: what a page on alignment draws and compares; the formulas stand in alignment.py and dynamics.py.


def linear_checks(
    problem: Regression, rank: int, step_B: float, step_A: float, steps: int, seed: int
) -> tuple[float, ...]:
    """Relative distances: one step to the printed two terms, and to the first alone; closed form to ``H^t``, and with
    the mean step."""
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
    closed, wrong = (
        torch.cat([b, a.mT])
        for b, a in (linear_phase(G, B, A, step_B, step_A, steps), linear_phase(G, B, A, mean, mean, steps))
    )
    return tuple(
        _distance(x, y) for x, y in ((after, H @ before - block), (after, H @ before), (closed, power), (wrong, power))
    )


def leak_along(problem: Regression, B0: Tensor, A0: Tensor, step: float, iterations: int) -> list[float]:
    """Largest row leak over the batch after 1 step, a twentieth, half and all of the iterations, in full
    coordinates."""
    G, found = negative_gradient(problem), []
    for count in (1, iterations // 20, iterations // 2, iterations):
        # a rule is given so that the run does not use the reduced coordinates, in which the leak is 0 by construction
        run = descend(problem, B0, A0, step, step, count, rule=descent.plain, every=count)
        found.append(float(row_leak(run.A, G, problem.rank).max()))
    return found


def scaling_law(
    problem: Regression, rank: int, alphas: Tensor, step: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Power of alpha in the best sine, (K, S) fitted and predicted; best sines (a, K, S); condition numbers of G (K,
    S)."""
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


def sine_ratio_at_times(
    problem: Regression, rank: int, alpha: float, smaller: float, step: float, seed: int
) -> tuple[float, float]:
    """Sine after the smaller start over sine after the other: both at ``ln d / (step s_r*)``; each at its own
    ``ln(1/epsilon) / l_r*``."""
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


def residual_time(
    problem: Regression,
    rank: int,
    alphas: Tensor,
    large: Tensor,
    step: float,
    starts: int,
    seed: int,
    level: float = 0.1,
) -> tuple[float, float, float]:
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


def imbalanced_times(
    problem: Regression, rank: int, alpha: float, step: float, ratio: float, starts: int, level: float, seed: int
) -> dict[str, float]:
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


def imbalance_defect(
    problem: Regression, rank: int, alpha: float, step: float, ratio: float, iterations: int, seed: int
) -> tuple[float, float]:
    """Relative distance of the products of unequal steps to equal ones, with the start rescaled and without."""
    B0, A0 = lora_init(tuple(problem.shift.shape), rank, alpha, generator(seed), problem.shift.device)
    root = math.sqrt(ratio)
    c = ratio**-0.25  # step_B / step_A = 1 / ratio
    uneven = descend(problem, B0, A0, step / root, step * root, iterations, every=iterations)
    rescaled, plain = (
        descend(problem, B, A, step, step, iterations, every=iterations) for B, A in ((B0 / c, c * A0), (B0, A0))
    )
    target = uneven.B @ uneven.A
    return _distance(rescaled.B @ rescaled.A, target), _distance(plain.B @ plain.A, target)


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
    """LoRA-GA's final loss over its floor, median; and over the same floor the loss of the same start without the
    offset."""
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
    return replace(
        problem,
        noise=size * normal((*shape, problem.X.shape[-2], problem.shift.shape[-1]), source, problem.shift.device),
    )


def _distance(x: Tensor, y: Tensor) -> float:
    return float((torch.linalg.matrix_norm(x - y) / torch.linalg.matrix_norm(y)).max())


# Convergence: rates against the condition number and the number of samples, and the toys; the formulas stand in
# rates.py and toys.py.


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
        first = descend(
            one,
            *spectral_init(negative_gradient(one), rank),
            step,
            step,
            count,
            preconditioned=preconditioned,
            every=every,
        )
        second = descend(one, first.B, first.A, step, step, count, preconditioned=preconditioned, every=every)
        linear = rates.forecast(one, first.B, first.A, step, second.at, preconditioned)
        error, at = torch.cat([first.error, second.error[1:]]), torch.cat([first.at, count + second.at[1:]])
        found["fitted"].append(-measure.slope(second.at.to(DTYPE), second.error.log()))
        found["predicted"].append(-measure.slope(second.at.to(DTYPE), linear.log()))
        found["edge"].append(torch.tensor(-math.log1p(-step * mu), dtype=DTYPE, device=shift.device))
        found["iterations"].append(rates.iterations_to(error, at, 1e-6))
        found["curves"].append((at, error / error[0]))
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
    for index, ratio in enumerate(ratios):
        problem = planted(d, k, ratio * d, spectrum(rank, kappas), seeds, seed + index, "relu")
        half = iterations // 2
        first = descend(
            problem, *spectral_init(negative_gradient(problem, masked=False), rank, 2.0), step, step, half, **options
        )
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
    """Where the increasing y passes the level, interpolated linearly in ln x; the ends where it does not pass
    inside."""
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


def ridge_errors(
    d: int,
    k: int,
    rank: int,
    ratio: int,
    kappa: float,
    ridge: float,
    step: float,
    iterations: int,
    seeds: int,
    seed: int,
) -> dict[str, float]:
    """Largest relative error after the run with twice the rank needed: preconditioned with a ridge, and plain."""
    problem = planted(d, k, ratio * d, spectrum(rank, kappa), seeds, seed)
    B0, A0 = spectral_init(negative_gradient(problem), 2 * rank)
    runs = {
        "ridge": descend(problem, B0, A0, step, step, iterations, preconditioned=True, ridge=ridge, every=iterations),
        "plain": descend(problem, B0, A0, step, step, iterations, every=iterations),
    }
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
    B, A = trajectory(problem, b0 * U[:, :1], a0 * Vh[:1], step, iterations)
    b, a = toys.plane_map(b0, a0, s, step, iterations)
    expected = b[:, :, None] * a[:, :, None] * (U[:, :1] @ Vh[:1])
    return float((B @ A - expected).abs().max()) / s


def _first(error: Tensor, level: float) -> Tensor:
    reached = error <= level
    return torch.where(reached.any(0), reached.to(torch.int64).argmax(0).to(error.dtype), torch.nan)


# The start: how near it is to the shift, and which gradient it is made from; the formulas stand in problem.py and
# starts.py.


def start_errors(d: int, k: int, rank: int, samples, seeds: int, seed: int, spread: float = 0.0) -> Tensor:
    """``||B0 A0 - Delta||^2 N / ||Delta||_F^2`` (samples, seeds) for the linear model, gamma = 1; variances of X
    between 1 -+ spread."""
    found = []
    for index, N in enumerate(samples):
        problem = planted(d, k, N, spectrum(rank, 1.0), seeds, seed + index)
        if spread:
            problem = replace(
                problem,
                X=problem.X * torch.linspace(1 - spread, 1 + spread, d, dtype=DTYPE, device=problem.X.device).sqrt(),
            )
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
    """``||J(W_t) + E/2|| / (sqrt(d/N) ||E||)`` (ratios, sizes, seeds) at ``B A = Delta + E`` with errors E of rank 1
    and given sizes."""
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

    return {
        "gradient": off(means[True], half),
        "GLM form": off(means[False], half),
        "gradient, closed form": off(means[True], closed),
        "GLM form, closed form": off(half, closed),
    }


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
    size = torch.linalg.matrix_norm
    return float(size(printed - truth) / size(truth)), float(size(ours - truth) / size(truth))


def slides_start_error(
    d: int, k: int, rank: int, gamma: float, step: float, iterations: int, seed: int, turned: bool
) -> float:
    """Relative error after plain descent from Algorithm 1's printed start with its offset, in the population.

    ``turned``: with the singular vectors of the negative gradient instead.
    """
    problem = single(planted(d, k, None, spectrum(rank, 2.0), 1, seed), 0)
    B0, A0, _ = algorithm_start(negative_gradient(problem), rank, gamma, "slides")
    B0 = -B0 if turned else B0
    run = descend(offset(problem, B0, A0), B0, A0, step, step, iterations, every=iterations)
    return float(run.error[-1] / torch.linalg.matrix_norm(problem.shift))


def adam_arrival(
    d: int,
    k: int,
    rank: int,
    gamma: float,
    step: float,
    iterations: int,
    seed: int,
    turned: bool,
    ridge: float | None = None,
) -> float:
    """First iteration at a relative error of 1e-3 under Adam in the place of plain descent, else as
    :func:`slides_start_error`.

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
