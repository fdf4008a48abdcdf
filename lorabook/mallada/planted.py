"""Random problems with a planted rank-one shift, and the starts that LoRA takes on them.

Draws are the same on every device.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lorabook import checks
from lorabook.device import default_device, normal
from lorabook.linalg import random_orthonormal
from lorabook.mallada.problem import TwoLayer


def isotropic(
    sizes: tuple[int, int, int],
    source: torch.Generator,
    ratio=0.5,
    sigma: float = 1.0,
    weight: float = 1.0,
    count: int | None = None,
    device=None,
) -> TwoLayer:
    """Random problems with ``W2 W2^T = weight^2 I``, ``W1^T W1 = (ratio weight)^2 I`` and a random rank-one shift.

    Args:
        sizes: ``(m, h, n)`` with ``h >= max(m, n)``.
        source: generator; it advances.
        ratio: the talk's delta_w; a number or (count,).
        sigma: size of the shift.
        weight: the talk's sigma_W2.
        count: number of problems; None gives one without batch dimension.

    Raises:
        ValueError: a hidden layer too narrow to be isotropic, a ratio, sigma or weight that is not positive,
            ratios that do not fit the count, a size or count below 1.
    """
    m, h, n = sizes
    ratio, sigma, weight = _checked(sizes, ratio, sigma, weight, count, device)
    if h < max(m, n):
        raise ValueError(f"Isotropic weights need a hidden size of at least {max(m, n)}; got {h}.")

    def draws(rows, columns):
        many = [random_orthonormal(rows, columns, source, device) for _ in range(count or 1)]
        return torch.stack(many) if count else many[0]

    W2, W1 = weight * draws(h, m).mT, weight * draws(h, n)
    return TwoLayer(ratio[..., None, None] * W1, W2, sigma * draws(m, 1) @ draws(n, 1).mT)


def generic(
    sizes: tuple[int, int, int],
    source: torch.Generator,
    ratio=0.5,
    sigma: float = 1.0,
    weight: float = 1.0,
    count: int = 1,
    device=None,
) -> TwoLayer:
    """The same problems with Gaussian weights, rescaled so that ``||W2^T u|| = weight``, ``||W1 v|| = ratio weight``.

    So the growth rates are those of :func:`isotropic` and only isotropy is lost.

    Args: as for :func:`isotropic`; the batch dimension (count,) is always there.
    """
    m, h, n = sizes
    ratio, sigma, weight = _checked(sizes, ratio, sigma, weight, count, device)
    W2, W1 = normal((count, m, h), source, device), normal((count, h, n), source, device)
    u, v = (normal((count, size, 1), source, device) for size in (m, n))
    u, v = u / u.norm(dim=-2, keepdim=True), v / v.norm(dim=-2, keepdim=True)
    W2 = W2 * (weight / (W2.mT @ u).norm(dim=-2, keepdim=True))
    W1 = W1 * (ratio[..., None, None] * weight / (W1 @ v).norm(dim=-2, keepdim=True))
    return TwoLayer(W1, W2, sigma * u @ v.mT)


def turned_weights(base: TwoLayer, low: float, high: float, source: torch.Generator) -> TwoLayer:
    """``base`` with W2 multiplied from the left by a symmetric matrix of eigenvalues ``high`` and, along a random
    direction, ``low``."""
    m = base.W2.shape[-2]
    along = torch.stack([random_orthonormal(m, 1, source, base.W2.device) for _ in range(base.W2.shape[0])])
    eye = torch.eye(m, dtype=base.W2.dtype, device=base.W2.device)
    return replace(base, W2=(high * eye + (low - high) * along @ along.mT) @ base.W2)


def starts(
    problem: TwoLayer, rank: int, init_scale, source: torch.Generator, count: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian ``A1 (..., r, n)`` and ``A2 (..., r, h)`` of standard deviation ``init_scale``; B1 = B2 = 0 goes with
    them.

    Args:
        init_scale: a number, or a vector (K,): the K scales then share their draws and stand first.
        count: number of draws; None takes the batch of the problem.

    Raises:
        ValueError: an init_scale that is not positive, a rank that is none or above the smallest dimension.
    """
    least = min(*problem.W1.shape[-2:], problem.W2.shape[-2])
    if checks.count(rank, "rank", 1) > least:
        raise ValueError(f"The rank {rank} is above the smallest dimension {least} of the layers.")
    scale = checks.number(init_scale, "init_scale", problem.W1, positive=True)  # from a zero start nothing moves
    h, n = problem.W1.shape[-2:]
    lead = problem.batch if count is None else (count,)
    Z1, Z2 = (normal((*lead, rank, size), source, problem.W1.device) for size in (n, h))
    scale = scale.reshape(*scale.shape, *[1] * Z1.ndim)
    return scale * Z1, scale * Z2


def _checked(sizes, ratio, sigma, weight, count, device):
    """The three numbers of a random problem on its device; ValueError if they, the sizes or the count do not fit."""
    for name, size in zip(("m", "h", "n"), sizes, strict=True):
        checks.count(size, name, 1)
    if count is not None:
        checks.count(count, "count", 1)
    home = default_device() if device is None else device
    given = {"ratio": ratio, "sigma": sigma, "weight": weight}
    found = [checks.number(value, name, positive=True).to(home) for name, value in given.items()]
    if count is not None and found[0].shape not in ((), (1,), (count,)):
        raise ValueError(
            f"ratio must be a number or one for each of the {count} problems; got shape {tuple(found[0].shape)}."
        )
    return found
