"""Exponents in the size of the start: how they are fitted, and what the linearised solution predicts.

At ``T_c = c log(1/alpha) / s1`` with ``d = s2 / s1 < 1`` and isotropic weights,
``1 - cos ~ alpha^min(2c, 4 (1 - c d))``, ``||F|| ~ alpha^(2 - 2c)``, ``imbalance ~ alpha^(-4c (1 - d))``.
The second entry of the minimum is not in the linearised solution: it is the trace that the losing
adapter leaves in ``W2 + B2 A2``, of relative size ``alpha^(2 (1 - c d))``, and it matters for c > 2 / (1 + 2 d) only.

The talk's theorem wants ``(1 + d) / (3 + d)``, 1 and ``-4 (1 - d) / (5 - d)``.  All three hold together
for ``1 / (5 - d) <= c <= 1/2``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lorabook import measure


class Exponents(NamedTuple):
    """Powers of alpha; one number each, or one per entry of a broadcast shape."""

    misalignment: torch.Tensor
    norm: torch.Tensor
    imbalance: torch.Tensor


def fit(scales: torch.Tensor, values: torch.Tensor, dim: int) -> torch.Tensor:
    """Least-squares slope of ``log values`` against ``log scales`` along ``dim``.

    Args:
        scales: (K,) positive.
        values: (..., K, ...) positive, with K entries along ``dim``.

    Returns:
        the slopes, ``dim`` removed; NaN where a value is not positive.

    Raises:
        ValueError: fewer than two scales, or a dimension that does not fit.
    """
    if len(scales) < 2 or values.shape[dim] != len(scales):
        raise ValueError(
            f"A slope needs two scales or more and one value for each; got {len(scales)} scales and "
            f"{values.shape[dim]} values."
        )
    return measure.log_slope(scales, torch.movedim(values, dim, -1))


def predicted(c: torch.Tensor, ratio: torch.Tensor) -> Exponents:
    """Exponents at ``T_c`` for isotropic weights with ``ratio = d < 1``; both broadcast."""
    zero = torch.zeros_like(c * ratio)
    return Exponents(torch.minimum(2 * c + zero, 4 * (1 - c * ratio)), 2 - 2 * c + zero, -4 * c * (1 - ratio))


def printed(ratio: torch.Tensor) -> Exponents:
    """The exponents of the talk's theorem: lower bounds on the first two, an upper bound on the third."""
    return Exponents((1 + ratio) / (3 + ratio), torch.ones_like(ratio), -4 * (1 - ratio) / (5 - ratio))


def window(ratio):
    """The edges of c between which all three statements of the theorem hold: ``1 / (5 - d)`` and ``1/2``."""
    return 1 / (5 - ratio), 0.5 + 0 * ratio


def at(times: torch.Tensor, values: torch.Tensor, when: torch.Tensor) -> torch.Tensor:
    """``values`` (T, ...) at one time per column, ``when`` (...), by linear interpolation; NaN where ``when`` is."""
    k = torch.searchsorted(times, when.nan_to_num().contiguous()).clamp(1, len(times) - 1)
    y0, y1 = values.gather(0, k[None] - 1)[0], values.gather(0, k[None])[0]
    return y0 + (when - times[k - 1]) / (times[k] - times[k - 1]) * (y1 - y0)
