"""The few measures that every notebook takes of a run: relative distance, slopes, first passages, rates."""

from __future__ import annotations

import torch


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest entry of ``|found - wanted|`` over the largest of ``|wanted|``; both finite, same shape, wanted not 0.

    Raises:
        ValueError: NaN or infinite entries, shapes that differ, or nothing but zeros wanted: each would make a
            distance look small, or no distance at all.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"Shapes {tuple(found.shape)} and {tuple(wanted.shape)} differ.")
    if not bool(torch.isfinite(found).all() and torch.isfinite(wanted).all()):
        raise ValueError("A distance to NaN or infinity means nothing.")
    if not bool((wanted != 0).any()):
        raise ValueError("A relative distance to zero means nothing.")
    return float((found - wanted).abs().max() / wanted.abs().max())


def slope(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Least-squares slopes (...) of ``y (..., K)`` against ``x (..., K)``."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return (x * y).sum(-1) / x.square().sum(-1)


def log_slope(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Order (...) of a power law: the slope of ``log y`` against ``log x``."""
    return slope(x.log(), y.log())


def first_passage(
    at: torch.Tensor, values: torch.Tensor, level, upwards: bool = False, between: bool = True
) -> torch.Tensor:
    """Where each column of ``values`` (T, ...) first comes down to ``level``, or up to it.

    Args:
        at: (T,) increasing times or iterations.
        values: (T, ...) samples; a NaN has reached nothing.
        level: a number, or a tensor that broadcasts with one sample (...).
        between: interpolate linearly from the sample before; else the first sample that is there.

    Returns:
        (...); ``at[0]`` where a column starts there, NaN where it never gets there.
    """
    at, there = at.to(values.dtype), values >= level if upwards else values <= level
    t = at.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
    k = there.to(torch.int8).argmax(0, keepdim=True)
    found = t.gather(0, k)[0]
    if between:
        t0, y0 = (x.gather(0, (k - 1).clamp(min=0))[0] for x in (t, values))
        share = (level - y0) / (values.gather(0, k)[0] - y0)
        # from a sample that is not finite there is nothing to interpolate
        found = torch.where((k[0] > 0) & y0.isfinite(), t0 + share * (found - t0), found)
    return torch.where(there.any(0), found, torch.nan)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a binomial rate."""
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"A rate needs 0 <= hits <= count and a count >= 1; got {hits} of {count}.")
    centre, spread = hits + z**2 / 2, z * (hits * (count - hits) / count + z**2 / 4) ** 0.5
    return max(0.0, (centre - spread) / (count + z**2)), min(1.0, (centre + spread) / (count + z**2))
