"""The experiments of the pages on Xu et al.: each draws its starts, runs one batch and returns the numbers compared.

No formula stands here: those tested are in problem.py, observables.py, scalar.py, selection.py and exponents.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lorabook import measure
from lorabook.device import DTYPE
from lorabook.mallada import exponents, selection
from lorabook.mallada.dynamics import flow
from lorabook.mallada.observables import observe
from lorabook.mallada.planted import isotropic, starts
from lorabook.mallada.problem import Factors, TwoLayer, growth_rates, loss, mode, velocity
from lorabook.mallada.scalar import scalar_product


def _with_ratios(base: TwoLayer, ratios: torch.Tensor) -> TwoLayer:
    """The problems (ratio, 1, seed) whose W1 is that of ``base`` times each ratio."""
    return replace(base, W1=ratios[:, None, None, None, None] * base.W1)


def clock_exponents(
    sizes, rank: int, ratios, c, scales, sigma: float, weight: float, count: int, source: torch.Generator
) -> exponents.Exponents:
    """Median exponents (c, ratio) at the times ``c log(1/alpha) / s1``, isotropic weights, in one batch."""
    ratios, c, scales = (torch.as_tensor(x, dtype=DTYPE) for x in (ratios, c, scales))
    base = isotropic(sizes, source, 1.0, sigma, weight, count=count)
    A1, A2 = starts(base, rank, scales.to(base.W1.device), source)
    clock = (-torch.log(scales))[:, None] / (sigma * weight)
    problem = _with_ratios(base, ratios.to(base.W1.device))
    order = c.argsort()
    run = flow(problem, A1, A2, c[order].to(base.W1.device), rtol=1e-9, clock=clock.to(base.W1.device))
    seen, back = observe(problem, run), order.argsort()
    return exponents.Exponents(
        *(
            exponents.fit(scales.to(x.device), x, 2).median(-1).values[back]
            for x in (seen.misalignment, seen.norm, seen.imbalance)
        )
    )


def plateau_exponents(
    base: TwoLayer, rank: int, ratios: torch.Tensor, scales: torch.Tensor, source: torch.Generator, c: float = 6.0
) -> tuple[torch.Tensor, Factors, tuple[torch.Tensor, torch.Tensor]]:
    """Exponents (ratio, seed) of the plateau's height in alpha at ``c log(1/alpha) / s1``; factors there; the starts.

    Args:
        base: (seed) problems of one s1; W1 is multiplied by each of the ``ratios``.
        scales: sizes of the start; two neighbours give a local exponent.
    """
    A1, A2 = starts(base, rank, scales, source)
    clock = -torch.log(scales)[:, None] / growth_rates(base)[0][0]
    problem = _with_ratios(base, ratios)
    at = torch.tensor([c], dtype=DTYPE, device=scales.device)
    run = flow(problem, A1, A2, at, rtol=1e-12, clock=clock)
    end = Factors(*(part[-1] for part in run[:4]))
    return exponents.fit(scales, loss(problem, end), 1), end, (A1, A2)


def stage_two(times: torch.Tensor, losses: torch.Tensor, s1: float) -> torch.Tensor:
    """``s1`` times the time from nine tenths to one tenth of the loss (...) at the start, of ``losses`` (T, ...)."""
    share = losses / losses[:1]
    return s1 * (measure.first_passage(times, share, 0.1) - measure.first_passage(times, share, 0.9))


def late_negative(
    sizes, rank: int, ratio: float, count: int, source: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last ``s1 t`` with a negative speed of selection, of the draws that have one, and the law's for the same draws.

    The times have a grid of 0.0025 up to 30.
    """
    base = isotropic(sizes, source, ratio, 1.0, 1.0, count=count)
    first, second = selection.tangents(base, *starts(base, rank, 1.0, source))
    fine = torch.linspace(0.1, 30.0, 11961, dtype=DTYPE, device=first.device)
    x = torch.cat([torch.logspace(-3, -1.01, 40, dtype=DTYPE, device=first.device), fine])
    negative = selection.speed(x[:, None], ratio, first, second) < 0
    last = torch.where(negative, x[:, None], 0.0).amax(0)
    return last[last > 0], selection.last_negative(first, ratio)[last > 0]


def scalar_distances(problem: TwoLayer, rank: int, alpha: float, times: torch.Tensor, source: torch.Generator) -> dict:
    """How far the first singular value and its half-time are from the scalar dynamics, medians over seeds.

    Returns:
        ``curve``, largest difference over sigma, and ``crude``, the same with ``||A1(0)||^2`` for ``|A1(0) v|^2``;
        ``late``, s1 times the half-time minus that of ``log(4 sigma / (sigma_W2 |a0|^2)) / 2``; ``six`` with 6 for 4.
    """
    A1, A2 = starts(problem, rank, alpha, source)
    seen = mode(problem)
    sigma, s1 = seen.sigma, seen.s1
    value = observe(problem, flow(problem, A1, A2, times, rtol=1e-11)).sigma[..., 0]
    found = {}
    own = (A1 @ seen.v[..., None]).square().sum((-2, -1))
    for name, size in (("curve", own), ("crude", A1.square().sum((-2, -1)))):
        closed = s1 / sigma * scalar_product(times, sigma, s1 / sigma, size)
        found[name] = float(((closed - value).abs().amax(0) / sigma).median())
    half = measure.first_passage(times, value / sigma, 0.5, upwards=True)
    for name, factor in (("late", 4), ("six", 6)):
        predicted = torch.log(factor * sigma**2 / (s1 * own)) / (2 * s1)
        found[name] = float((s1 * (half - predicted)).median())
    return found


def start_speeds(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms (...) at t = 0 of the speed of F and of the speed of the factors."""
    seen = (problem.W1, problem.W2, problem.shift)
    B1, B2 = (
        A1.new_zeros(*A1.shape[:-2], problem.W1.shape[-2], A1.shape[-2]),
        A1.new_zeros(*A2.shape[:-2], problem.W2.shape[-2], A2.shape[-2]),
    )
    dB1, dA1, dB2, dA2 = velocity((B1, A1, B2, A2), *seen)
    moved = problem.W2 @ (dB1 @ A1) + dB2 @ A2 @ problem.W1
    return moved.norm(dim=(-2, -1)), sum(x.square().sum((-2, -1)) for x in (dB1, dA1, dB2, dA2)).sqrt()


def pretrained_distance(target: torch.Tensor, hidden: int) -> float:
    """Relative distance of ``W2 W1``, least squares with ``hidden`` units, from the target of pretraining."""
    U, s, Vh = torch.linalg.svd(target, full_matrices=False)
    W2, W1 = U[:, :hidden] * s[:hidden].sqrt(), s[:hidden].sqrt()[:, None] * Vh[:hidden]
    return float((W2 @ W1 - target).norm() / target.norm())
