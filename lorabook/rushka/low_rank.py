"""Low-rank approximation ``(1/2) ||W0 - B A||^2``: equations (36)-(54) and appendices I and J.

The flow is ``dB/dt = (W0 - B A) A^T``, ``dA/dt = B^T (W0 - B A)``, (38)-(39).  From a spectral start it
falls apart into one scalar exchange per singular value, (46)-(47), solved by
:func:`lorabook.riccati.exchange` with ``P = Q = x0^2``.  From a start that is balanced up to a multiple
of the identity it has a closed form of its own, which the paper does not have.  From a generic
start it is integrated by :mod:`lorabook.flow` in the notebook.
"""

from __future__ import annotations

import torch

from lorabook import checks, riccati
from lorabook.linalg import balance


def frobenius_gradients(W0: torch.Tensor):
    """Partial gradients (613)-(614) of the loss for ``W0 (..., m, n)``: two functions of (B, A)."""
    return (lambda B, A: -(W0 - B @ A) @ A.mT), (lambda B, A: -B.mT @ (W0 - B @ A))


def mode(s0, x0, times) -> torch.Tensor:
    """Product ``y x`` of one mode from ``y = 0``, ``x = x0``: equation (50).

    Args:
        s0: (...) singular value, >= 0.
        x0: (...) start; broadcasts with ``s0``.
        times: (T,) flow times (learning_rate x steps), >= 0, however large.

    Returns:
        (T, ...) products, float64, rising from 0 to ``s0``.

    Source: (46)-(51), (662)-(666).  Error: relative 1e-13 of ``s0``.

    Raises:
        ValueError: a negative singular value, NaN, negative times, or sizes outside 1e-75 to 1e75.
    """
    s0, x0, times = _modes(s0, x0, times)
    size = x0**2 + torch.zeros_like(s0)
    times = checks.times(times, size).reshape(-1, *[1] * size.ndim)
    return riccati.mode_product(s0, size, times)


def half_time(s0, x0) -> torch.Tensor:
    """Time at which :func:`mode` passes ``s0 / 2``; for ``x0^2 << s0`` it is ``ln(4 s0 / x0^2) / (2 s0)``.

    Args:
        s0: (...) singular value, > 0.  x0: (...) start, not 0.

    Returns:
        (...) flow times.  Error: absolute 1e-15 / s0.

    Raises:
        ValueError: a singular value that is not positive, a start of zero, or NaN.
    """
    s0, x0 = _modes(s0, x0)
    if not checks.is_fake(s0) and bool((s0 == 0).any() | (x0 == 0).any()):
        raise ValueError("A mode without a singular value or without a start is never half learned.")
    return riccati.time_to_residual(s0, x0**2, s0 / 2)


def _modes(s0, x0, *others):
    """The arguments as tensors on one device, after the checks of the public door."""
    s0, x0, *others = checks.together(s0, x0, *others)
    checks.finite(s0, "s0"), checks.finite(x0, "x0")
    checks.batch(s0=s0.shape, x0=x0.shape)
    checks.sizes(s0=s0, x0=x0)
    if not checks.is_fake(s0) and bool((s0 < 0).any()):
        raise ValueError(f"A singular value is not negative; the smallest s0 is {s0.min().item():g}.")
    return s0, x0, *others


def tail_sum(W0: torch.Tensor) -> torch.Tensor:
    """Squared error left at each rank r = 0 ... min(m, n): the right-hand side of (53), (..., min(m, n) + 1)."""
    s = torch.linalg.svdvals(checks.matrix(W0, "W0"))
    zero = torch.zeros_like(s[..., :1])
    return torch.cat([s.square().flip(-1).cumsum(-1).flip(-1), zero], dim=-1)


def spectral_start(W0: torch.Tensor, x0: torch.Tensor, triplets=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Start (45): ``B0 = 0`` and row i of A0 equal to ``x0[i]`` times a right singular vector of W0.

    Args:
        W0: (..., m, n) float64.
        x0: (r,) diagonal of the paper's X-tilde.
        triplets: (r,) indices of the singular triplets used, largest first; default the top r.

    Returns:
        ``B0 (..., m, r)`` of zeros and ``A0 (..., r, n)``.

    Raises:
        ValueError: more rows than singular triplets, NaN, or triplets that do not exist.
    """
    m, n = checks.matrix(W0, "W0").shape[-2:]
    x0 = checks.number(x0, "x0", W0)
    if x0.ndim < 1:
        raise ValueError("x0 must be a vector (r,); got a number.")
    rank = x0.shape[-1]
    if rank > min(m, n):
        raise ValueError(f"The rank {rank} is above the smaller dimension {min(m, n)}.")
    chosen = torch.arange(rank, device=W0.device) if triplets is None else torch.as_tensor(triplets, device=W0.device)
    if chosen.shape != (rank,) or not checks.is_fake(chosen) and bool(((chosen < 0) | (chosen >= min(m, n))).any()):
        raise ValueError(f"triplets must be {rank} indices from 0 to {min(m, n) - 1}; got {triplets!r}.")
    Vh = torch.linalg.svd(W0, full_matrices=False).Vh
    A0 = x0[..., :, None] * Vh.index_select(-2, chosen)
    return torch.zeros(*W0.shape[:-1], rank, dtype=W0.dtype, device=W0.device), A0


def frobenius_flow(W0: torch.Tensor, B0: torch.Tensor, A0: torch.Tensor, times) -> torch.Tensor:
    """Products ``B A`` along the flow in closed form, for a start balanced up to a multiple of I.

    Holds when: ``B0^T B0 - A0 A0^T = lambda I``.  True for every start of rank one, for the start
    ``B0 = 0`` with orthogonal rows of equal norm in A0, and for balanced spectral starts.

    Args:
        W0: (..., m, n) float64.
        B0: (..., m, r).  A0: (..., r, n).
        times: (T,) flow times (learning_rate x steps), >= 0, not decreasing.

    Returns:
        (T, ..., m, n) products.  Error: 1e-12 of ``||W0||`` per unit of conditioning near a saddle,
        where rounding sets the time of escape.

    Source: not in the paper, which knows no closed form outside spectral starts; Fukumizu 1998,
    Braun et al. 2022, Dominé et al. 2024.

    Raises:
        ValueError: the start is not balanced, shapes that do not fit, NaN, times negative or decreasing.
    """
    checks.factors(B0, A0, W0)
    times = checks.times(times, W0)
    if bool((times.diff() < 0).any()):
        raise ValueError("times must not decrease: each answer continues from the one before.")
    lead = checks.batch(B=B0.shape[:-2], A=A0.shape[:-2])
    B0, A0 = B0.expand(*lead, *B0.shape[-2:]), A0.expand(*lead, *A0.shape[-2:])
    (m, r), n = B0.shape[-2:], A0.shape[-1]
    gap = balance(B0, A0)
    shift = gap.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(m + n, dtype=W0.dtype, device=W0.device)
    spread = (gap - shift * eye[:r, :r]).norm(dim=(-2, -1))
    scale = B0.square().sum((-2, -1)) + A0.square().sum((-2, -1))
    # 1e-10 of the factors' size: orthonormal rows from a QR sit at 1e-15, anything hand-made well above
    if bool((spread > 1e-10 * scale).any()):
        raise ValueError(
            "B0^T B0 - A0 A0^T is not a multiple of the identity "
            f"(largest deviation {spread.max().item():.2g}): this start has no closed form here; integrate it."
        )
    signs = torch.cat([eye.new_ones(m), -eye.new_ones(n)])
    H = shift / 2 * torch.diag(signs) + torch.zeros(*W0.shape[:-2], m + n, m + n, dtype=W0.dtype, device=W0.device)
    H[..., :m, m:], H[..., m:, :m] = W0, W0.mT
    Z = riccati.balanced_factors(H, torch.cat([B0, A0.mT], dim=-2), times)
    return Z[..., :m, :] @ Z[..., m:, :].mT
