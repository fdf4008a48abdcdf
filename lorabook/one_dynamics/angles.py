"""Where the early direction points: the angle between the gradient and what is to be learnt.

A regression with inputs of covariance Sigma has the gradient ``Sigma Delta``; the first of two layers moves the output
along ``W2 W2^T Delta``.  So both turn the target's columns by one positive definite matrix M, and leave its rows.
ReLU turns them by another amount.  Only where M is a multiple of the identity are gradient and target aligned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorabook import checks, lora_one
from lorabook.device import normal


def sine(x: Tensor, u: Tensor) -> Tensor:
    """Sine (...) of the angle between the vectors x and u (..., d), accurate where it is tiny."""
    x, u = (w / w.norm(dim=-1, keepdim=True) for w in (x, u))
    return (x - (x * u).sum(-1, keepdim=True) * u).norm(dim=-1)


def square_root(M: Tensor) -> Tensor:
    """The symmetric square root (..., d, d) of symmetric M (..., d, d) with no negative eigenvalue."""
    values, vectors = torch.linalg.eigh(checks.matrix(M, "M"))
    return (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT


def mean_sampled_sine_squared(d: int, samples: int) -> float:
    """``(d - 1) / (N + d - 1)``: mean of sin^2 between ``X^T X u`` and u for N standard normal rows in d dimensions.

    Source: ours.  ``tan^2`` is the quotient of independent chi-squared variables with d - 1 and N degrees of freedom.
    """
    checks.count(d, "d", 1), checks.count(samples, "samples", 1)
    return (d - 1) / (samples + d - 1)


def sampled_sine_squared(d: int, samples: int, draws: int, source: torch.Generator, device=None) -> Tensor:
    """sin^2 (draws,) between ``X^T X u`` and the first axis u, one for each X of ``samples`` normal rows in R^d."""
    checks.count(d, "d", 1), checks.count(samples, "samples", 1), checks.count(draws, "draws", 1)
    X = normal((draws, samples, d), source, device)
    return sine((X.mT @ X[..., :1])[..., 0], torch.eye(d, dtype=X.dtype, device=X.device)[0]) ** 2


def exact_relu_sine(ratio, angle) -> Tensor:
    """Sine (...) between a neuron's mean ReLU gradient and its shift: ``ratio = ||shift|| / ||w||``, angle of the two.

    Source: :func:`lorabook.lora_one.mean_relu_gradient`, in the plane of the two.
    """
    ratio, angle = torch.broadcast_tensors(*checks.together(ratio, angle))
    shift = ratio * torch.stack([angle.cos(), angle.sin()])
    w = torch.stack([torch.ones_like(angle), torch.zeros_like(angle)])
    w, shift = (part.reshape(2, -1) for part in (w, shift))
    return sine(lora_one.mean_relu_gradient(w, shift).mT, shift.mT).reshape(angle.shape)


def relu_sine(ratio, angle) -> Tensor:
    """Sine between the mean ReLU gradient of one neuron and its shift, to first order in ``ratio = ||shift|| / ||w||``.

    ``ratio sin^2(angle) cos(angle) / pi`` with the angle between w and the shift; at most ``2 ratio / (3 sqrt(3) pi)``,
    where ``cos(angle) = 1 / sqrt(3)``.  Source: ours, the first order of :func:`exact_relu_sine`.
    """
    ratio, angle = checks.together(ratio, angle)
    return ratio * angle.sin() ** 2 * angle.cos().abs() / math.pi
