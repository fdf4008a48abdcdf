"""The two small examples of the talk.

Toy I: one output, ``y = x^T beta`` with ``beta = (2, 1)``, B in R^2, A in R.  The minimisers are the curve
``B = beta / t``, ``A = t``.

Toy II, a phase portrait.  The slides do not say which plane is drawn; here it is the plane of one
aligned pair ``B = b u``, ``A = a v^T`` with ``Delta = s u v^T``.  Descent keeps that plane when u is an
eigenvector of Sigma, ``Sigma u = lambda u``, and there it reads
``b <- b + step lambda (s - b a) a``, ``a <- a + step lambda (s - b a) b``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorabook.device import DTYPE, default_device, tensor
from lorabook.lora_one.problem import Regression

BETA = (2.0, 1.0)


def toy_problem(device=None) -> Regression:
    """Toy I on four fixed rows: ``Sigma = [[1.25, 0.25], [0.25, 0.75]]``, not the identity.

    The rows are ours, fixed by formula; the talk's own draw is not printed.
    """
    X = tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], device)
    shift = tensor(BETA, device)[:, None]
    return Regression(X, torch.zeros_like(shift), shift)


def circle(directions: int, radius: float, device=None) -> tuple[Tensor, Tensor]:
    """(LoRA-init) starts of toy I in all directions: B (directions, 2, 1) on a circle, A = 0."""
    device = default_device() if device is None else device
    turn = 2 * math.pi * torch.arange(directions, dtype=DTYPE, device=device) / directions
    B0 = radius * torch.stack([turn.cos(), turn.sin()], -1)[..., None]
    return B0, torch.zeros_like(B0[:, :1])


def path_length(B: Tensor, A: Tensor) -> Tensor:
    """Length (S) of the path that the iterates (T + 1, S, ...) describe in the space of both factors."""
    steps = [torch.diff(M, dim=0).flatten(2).square().sum(-1) for M in (B, A)]
    return (steps[0] + steps[1]).sqrt().sum(0)


def plane_map(b: Tensor, a: Tensor, s: float, step: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Toy II: iterates (T + 1, S) of the two-dimensional map with ``lambda = 1``, for starts b, a (S,)."""
    path = [(b, a)]
    for _ in range(iterations):
        rest = s - b * a
        b, a = b + step * rest * a, a + step * rest * b
        path.append((b, a))
    left, right = zip(*path, strict=True)
    return torch.stack(left), torch.stack(right)


def plane_field(b: Tensor, a: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """Direction of descent ``((s - b a) a, (s - b a) b)`` and the loss ``(s - b a)^2 / 2`` on a grid."""
    rest = s - b * a
    return rest * a, rest * b, rest.square() / 2
