"""Where the factors start: Gaussian, spectral, LoRA-GA, PiSSA, and Algorithm 1 as it is published.

G (d, k) is the negative gradient of the loss at W.  All starts return ``B0`` (..., d, r), ``A0`` (..., r, k).
The three published forms of LoRA-One's start do not agree:

- ``slides``: Algorithm 1 of the talk; SVD of +grad, singular values dropped, product taken off W;
- ``readme``: the formula in the README of the released code; SVD of -grad, S on both factors;
- ``code``: the released code; SVD of -grad, ``sqrt(S / S_1)`` on both factors, no offset.

Products are compared, never singular vectors: those are fixed only up to sign or rotation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorabook import checks
from lorabook.device import normal

FORMS = ("slides", "readme", "code")


def lora_init(
    shape: tuple[int, ...], rank: int, init_scale, source: torch.Generator, device=None
) -> tuple[Tensor, Tensor]:
    """(LoRA-init) in house letters: B Gaussian with standard deviation ``init_scale``, A = 0.

    Args:
        shape: (..., d, k) of the update.
        init_scale: the source's alpha, a number or a tensor that broadcasts with the leading shape.
        source: generator of :func:`lorabook.device.generator`.

    Raises:
        ValueError: a shape of fewer than two dimensions, a rank that does not fit, an init_scale that is no number.
    """
    if not isinstance(shape, (list, tuple)) or len(shape) < 2:
        raise ValueError(f"shape must be (..., d, k), the shape of the update; got {shape!r}.")
    (*lead, d, k) = shape
    check_rank(rank, d, k)
    draw = normal((*lead, d, rank), source, device)
    scale = checks.number(init_scale, "init_scale", draw)
    return scale[..., None, None] * draw, torch.zeros(*lead, rank, k, dtype=draw.dtype, device=draw.device)


def spectral_init(G: Tensor, rank: int, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """(Spectral-initialization): ``B0 = sqrt(gamma) U_r S_r^{1/2}``, ``A0 = sqrt(gamma) S_r^{1/2} V_r^T``.

    The product is ``gamma`` times the best rank-r approximation of G; the start is balanced.

    Raises:
        ValueError: a rank below 1 or above min(d, k), gamma that is not positive, NaN.
    """
    U, s, Vh = _svd(G, rank, gamma)
    root = (gamma * s[..., :rank]).sqrt()
    return U[..., :rank] * root[..., None, :], root[..., :, None] * Vh[..., :rank, :]


def lora_ga_init(G: Tensor, rank: int, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """(LoRA-GA): ``B0 = sqrt(gamma) U_{1..r}``, ``A0 = sqrt(gamma) V_{r+1..2r}^T``.

    Source: Wang, Yu & Li 2024, as quoted in the slides; their scale is ``gamma`` here.

    Raises:
        ValueError: as :func:`spectral_init`, and 2 rank above min(d, k).
    """
    U, _, Vh = _svd(G, rank, gamma)
    if 2 * rank > Vh.shape[-2]:
        raise ValueError(f"LoRA-GA takes 2 rank = {2 * rank} singular vectors; G has only {Vh.shape[-2]}.")
    return math.sqrt(gamma) * U[..., :rank], math.sqrt(gamma) * Vh[..., rank : 2 * rank, :]


def pissa_init(W: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """PiSSA: the spectral start of the pretrained weights themselves (Meng, Wang & Zhang 2024); goes with an offset."""
    return spectral_init(W, rank)


def algorithm_start(G: Tensor, rank: int, gamma: float, form: str) -> tuple[Tensor, Tensor, bool]:
    """LoRA-One's start in one of its published forms, with LoRA's own factor alpha / sqrt(r) set to 1.

    Args:
        G: (..., d, k) negative gradient at W.
        gamma: the form's own scale.  slides: the start is ``sqrt(gamma)`` times orthonormal factors;
            readme and code divide both factors by ``sqrt(gamma)``.
        form: one of FORMS.

    Returns:
        ``B0``, ``A0``, and whether the form takes ``B0 A0`` off W.

    Raises:
        ValueError: an unknown form, a zero G, or as :func:`spectral_init`.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r}.")
    U, s, Vh = _svd(G, rank, gamma)
    if not checks.is_fake(s) and not bool((s[..., 0] > 0).all()):
        raise ValueError("G is zero: it has no directions to start from.")
    U, s, Vh = U[..., :rank], s[..., :rank], Vh[..., :rank, :]
    if form == "slides":
        # the SVD of +grad = -G turns the sign of one of the two bases
        return -math.sqrt(gamma) * U, math.sqrt(gamma) * Vh, True
    weight = s if form == "readme" else (s / s[..., :1]).sqrt()
    return U * weight[..., None, :] / math.sqrt(gamma), weight[..., :, None] * Vh / math.sqrt(gamma), False


def least_constant(x: Tensor, samples: int, factor: float, d: int) -> Tensor:
    """ln C with ``P(||(Sigma - I) u|| > epsilon) = C exp(-factor epsilon^2 N)`` at ``x = epsilon^2 N``, u of norm 1.

    For a shift of rank one this is the chance that the spectral start misses ``epsilon``; no C below will do.  With
    ``s = chi2_N / N`` along u, the squared error is ``(s - 1)^2 + s chi2_(d-1) / N``, the two chi-squares independent.

    Args:
        x: any shape, positive, with ``epsilon < 1``.
        samples: N.
        factor: of the exponent.
        d: dimension, at least 2.

    Error: 1e-4 in ln C for N from 100 d on, by the trapezoidal rule over s.
    """
    epsilon = (x / samples).sqrt()[..., None]
    width = epsilon + 12 * math.sqrt(2 / samples)
    s = 1 + width * torch.linspace(-1, 1, 20001, dtype=x.dtype, device=x.device)
    s = s.clamp(min=torch.finfo(x.dtype).tiny)
    half = x.new_tensor(samples / 2)
    density = (half * half.log() - torch.lgamma(half) + (half - 1) * s.log() - half * s).exp()
    left = (epsilon.square() - (s - 1).square()).clamp(min=0) * half / s
    miss = torch.special.gammaincc(x.new_tensor((d - 1) / 2), left) * density
    return torch.trapezoid(miss, s).log() + factor * x


def check_rank(rank: int, d: int, k: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(d, k):
        raise ValueError(f"The rank {rank!r} must be a whole number between 1 and the smaller dimension {min(d, k)}.")


def _svd(G, rank, gamma):
    check_rank(rank, *checks.matrix(G, "G").shape[-2:])
    checks.positive(gamma, "gamma")
    return torch.linalg.svd(G, full_matrices=False)
