"""The speed at which one adapter leaves the other behind, in the linear phase and for isotropic weights.

With layer i alone ``B_i A_i = sinh(x) p a^T ((cosh(x) - 1) v + ...)`` at ``x = s_i t``, so that
``||B_i A_i||^2`` is ``sinh(x)^2 (cosh(x)^2 + tan(angle)^2)`` times a constant, and the speed of
``log(||B1 A1||^2 / ||B2 A2||^2)`` is ``s1 g(s1 t, angle_1) - s2 g(s2 t, angle_2)`` with
``g(x, angle) = 2 coth(x) + sinh(2 x) / (cosh(x)^2 + tan(angle)^2)``.

The angle is that of ``A_1(0)^T a0`` to v, with ``a0 = A_1(0) v``, and the same of layer 2.  Nothing here is integrated.
"""

from __future__ import annotations

import torch

from lorabook.mallada.problem import TwoLayer, mode


def tangents(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared tangents (...) of the two angles at the start, for a shift of rank one."""
    seen = mode(problem)

    def squared(A, v):
        a0 = A @ v[..., None]
        return (A.mT @ a0).square().sum((-2, -1)) / a0.square().sum((-2, -1)).square() - 1

    return squared(A1, seen.v), squared(A2, seen.q)


def growth(x: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
    """``g(x, angle)``: the logarithmic speed of ``||B A||^2`` per unit of ``x = s t``; ``tangent`` is squared."""
    return 2 / torch.tanh(x) + torch.sinh(2 * x) / (torch.cosh(x).square() + tangent)


def speed(x: torch.Tensor, ratio, tangent_1: torch.Tensor, tangent_2: torch.Tensor) -> torch.Tensor:
    """``d/d(s1 t) log(||B1 A1||^2 / ||B2 A2||^2)`` at ``x = s1 t > 0``, with ``ratio = s2 / s1``."""
    return growth(x, tangent_1) - ratio * growth(ratio * x, tangent_2)


def last_negative(tangent_1: torch.Tensor, ratio) -> torch.Tensor:
    """Upper end of the times ``s1 t`` with a negative speed, ``ln tan(angle_1) + (1/2) ln(2 (2d - 1)/(1 - d))``.

    Holds when: 1/2 < d < 1.  For d <= 1/2 the speed is never negative, since ``g >= 2 coth(x)`` for layer 1 and
    ``g <= 4 coth(2 x)`` for layer 2.
    """
    ratio = torch.as_tensor(ratio, dtype=tangent_1.dtype, device=tangent_1.device)
    return (tangent_1.log() + torch.log(2 * (2 * ratio - 1) / (1 - ratio))) / 2
