"""The few measures that every notebook takes of a run: relative distance and slopes."""

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
