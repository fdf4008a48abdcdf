"""Problems with a planted shift, in batches over seeds.

``planted`` draws data, weights and singular directions; the singular values of Delta are given, so that
its condition number is exact.  Draws are the same on every device.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lorabook.device import DTYPE, default_device, generator, normal
from lorabook.linalg import random_orthonormal
from lorabook.lora_one.problem import Regression


def spectrum(rank: int, kappa, device=None) -> Tensor:
    """Geometric singular values (..., rank) from 1 down to 1 / kappa; kappa a number or a list."""
    device = default_device() if device is None else device
    kappa = torch.as_tensor(kappa, dtype=DTYPE, device=device)
    return kappa[..., None] ** -torch.linspace(0, 1, rank, dtype=DTYPE, device=device)


def left_vectors(d: int, rank: int, seeds: int, seed: int, device=None) -> Tensor:
    """U (seeds, d, rank), left singular vectors of Delta in :func:`planted` with this seed.

    A decomposition of Delta has them up to signs, or a rotation where singular values are equal, which differ from
    one processor to another.
    """
    return _frames(d, rank, seeds, generator(seed), device)


def _frames(rows: int, rank: int, seeds: int, source: torch.Generator, device) -> Tensor:
    return torch.stack([random_orthonormal(rows, rank, source, device) for _ in range(seeds)])


def planted(
    d: int,
    k: int,
    samples: int | None,
    singular: Tensor,
    seeds: int,
    seed: int,
    activation: str = "linear",
    weight_scale: float | None = None,
    noise: float = 0.0,
    concentrated: bool = False,
) -> Regression:
    """A batch of problems, X (seeds, samples, d), shift (..., seeds, d, k) for ``singular`` (..., r*).

    Args:
        samples: N; None for the population.
        singular: singular values of Delta; leading dimensions stand before the seeds.
        weight_scale: standard deviation of W's entries, default ``1 / sqrt(d)``.
        noise: standard deviation of the label noise.
        concentrated: the rows of Delta live on its first r* columns alone.
    """
    source, where, rank = generator(seed), singular.device, singular.shape[-1]
    U, V = _frames(d, rank, seeds, source, where), _frames(k, rank, seeds, source, where)
    if concentrated:
        V = torch.eye(k, rank, dtype=DTYPE, device=where).expand_as(V)
    W = normal((d, k), source, where) * (1 / math.sqrt(d) if weight_scale is None else weight_scale)
    X = None if samples is None else normal((seeds, samples, d), source, where)
    disturbance = noise * normal((seeds, samples, k), source, where) if noise else None
    return Regression(X, W, (U * singular[..., None, None, :]) @ V.mT, activation, disturbance)


def single(problem: Regression, seed: int) -> Regression:
    """One problem of a batch over seeds."""
    return Regression(
        None if problem.X is None else problem.X[seed], problem.W, problem.shift[seed], problem.activation
    )


def with_noise(problem: Regression, size: float, source: torch.Generator) -> Regression:
    """The same problem with Gaussian label noise."""
    N, k = problem.X.shape[-2], problem.shift.shape[-1]
    return replace(problem, noise=size * normal((*problem.lead, N, k), source, problem.shift.device))
