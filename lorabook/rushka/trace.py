"""The trace-squared loss ``(1/2) Tr(W0 - B A)^2``: equations (17)-(35) and appendices C to H.

The flow is ``dB/dt = a A^T``, ``dA/dt = a B^T`` with the residual ``a = Tr(W0 - B A)``, (26)-(27).
In the time ``tau = int a`` it is linear: ``A = cosh(tau) A0 + sinh(tau) B0^T`` and
``B = cosh(tau) B0 + sinh(tau) A0^T``.  So the factors only ever exchange one scalar, and
:func:`lorabook.riccati.exchange` gives it in closed form from every start.  The paper's
(28)-(30) and (373)-(379) are the case ``B0 = 0``.

The loss sees W0 through its trace alone, and so do these routines.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from lorabook import checks, riccati


class TraceFlow(NamedTuple):
    """Trajectory of the factors and of the residual ``a = Tr(W0 - B A)``."""

    B: torch.Tensor  # (T, ..., n, r)
    A: torch.Tensor  # (T, ..., r, n)
    residual: torch.Tensor  # (T, ...)


def trace_gradients(trace: float):
    """Partial gradients (265)-(266) of the loss: two functions of (B, A), shapes (..., n, r) and (..., r, n)."""

    def residual(B, A):
        return (trace - (B * A.mT).sum((-2, -1)))[..., None, None]

    return (lambda B, A: -residual(B, A) * A.mT), (lambda B, A: -residual(B, A) * B.mT)


def trace_flow(trace, B0: torch.Tensor, A0: torch.Tensor, times) -> TraceFlow:
    """LoRA's gradient flow on the trace-squared loss, in closed form, from any start.

    Args:
        trace: c = Tr W0, a number or a tensor that broadcasts with the batch; any sign, zero allowed.
        B0: (..., n, r) float64.
        A0: (..., r, n) float64.
        times: (T,) flow times (learning_rate x steps), >= 0, in any order, however large.

    Returns:
        :class:`TraceFlow` with ``B (T, ..., n, r)``, ``A (T, ..., r, n)``, ``residual (T, ...)``.

    Source: (28)-(32), (313)-(315), (373)-(379) for ``B0 = 0``; the general start is not in the paper.
    Error: relative 1e-13 for the residual at every time, times ``(|c| + P + Q) / |a(0)|`` where a(0) itself
        cancels; relative rounding for the combinations
        ``A +- B^T`` of the factors.

    Raises:
        ValueError: shapes that do not fit, not square, NaN, negative times, zero trace with zero start, or sizes
            outside 1e-75 to 1e75.
    """
    c, P, Q = _invariants(trace, B0, A0)
    times = checks.times(times, A0)
    at = riccati.exchange(c, P, Q, times.reshape(-1, *[1] * c.ndim))
    # of the sum and the difference of the factors one only grows and the other only shrinks;
    # near the start it is their change that must be accurate, far from it they themselves
    near = torch.minimum(at.grow, at.shrink) > 0.5
    gains = torch.stack(
        [near.to(A0.dtype), torch.where(near, at.rise, at.grow), torch.where(near, at.fall, at.shrink)], -1
    )
    X, Y = torch.broadcast_tensors(A0, B0.mT)
    A = torch.einsum("t...k,...krn->t...rn", gains, torch.stack([X, (X + Y) / 2, (X - Y) / 2], -3))
    B = torch.einsum("t...k,...krn->t...nr", gains, torch.stack([Y, (X + Y) / 2, (Y - X) / 2], -3))
    return TraceFlow(B, A, at.residual)


def trace_limit(trace, B0: torch.Tensor, A0: torch.Tensor) -> torch.Tensor:
    """Product ``B A`` (..., n, n) to which the flow converges.

    From ``B0 = 0`` this is (32), ``Tr(W0) A0^T A0 / ||A0||^2``.  In general the product tends to
    ``u S^T S - D^T D / u + S^T D - D^T S`` with ``S, D = (A0 +- B0^T) / 2`` and
    ``u = (2 c + rho) / P``; it is 0 for the starts on the saddle's stable set (P = 0 <= c or Q = 0 >= c).

    Args and Raises: as for :func:`trace_flow`.
    Error: rounding relative to ``|c| + ||A0||^2 + ||B0||^2``.
    """
    c, P, Q = _invariants(trace, B0, A0)
    S, D = (A0 + B0.mT) / 2, (A0 - B0.mT) / 2
    rho = torch.hypot(2 * c, (P * Q).sqrt())
    large = rho + 2 * c.abs()
    # u = (rho + 2 c) / P = Q / (rho - 2 c): the form that does not cancel depends on the sign of c
    weight_up = torch.where(c >= 0, large, P * Q / large)  # rho + 2 c = u P
    weight_down = torch.where(c >= 0, P * Q / large, large)  # rho - 2 c = Q / u
    up = torch.where(P > 0, weight_up / torch.where(P > 0, P, torch.ones_like(P)), torch.zeros_like(P))
    down = torch.where(Q > 0, weight_down / torch.where(Q > 0, Q, torch.ones_like(Q)), torch.zeros_like(Q))
    up, down = (torch.nan_to_num(x, nan=0.0)[..., None, None] for x in (up, down))
    return up * (S.mT @ S) - down * (D.mT @ D) + (S.mT @ D - D.mT @ S)


def full_rank_flow(trace, start: torch.Tensor, times) -> torch.Tensor:
    """Gradient flow of the unconstrained problem (17): equation (20).

    Args:
        trace: c = Tr W0, a number or a tensor that broadcasts with the batch.
        start: (..., n, n) initial update, ``B0 @ A0`` for a fair comparison.
        times: (T,) flow times, >= 0.

    Returns:
        (T, ..., n, n).  Error: relative rounding.
    """
    n, other = checks.matrix(start, "start").shape[-2:]
    if n != other:
        raise ValueError(f"The trace needs a square matrix; got {(n, other)}.")
    times, trace = checks.times(times, start), checks.number(trace, "trace", start)
    checks.batch(trace=trace.shape, start=start.shape[:-2])
    gap = trace - start.diagonal(dim1=-2, dim2=-1).sum(-1)
    amount = -torch.expm1(-n * times).reshape(-1, *[1] * gap.ndim) * gap / n
    return start + amount[..., None, None] * torch.eye(n, dtype=start.dtype, device=start.device)


def time_to_residual(trace: float, A0: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Flow time at which ``|Tr(W0 - B A)| = epsilon`` from ``B0 = 0``: (313) solved for t.

    Args:
        trace: c = Tr W0, not 0.
        A0: (..., r, n), not 0.
        epsilon: wanted residual, 0 < epsilon <= |c|; the loss is then ``epsilon^2 / 2``.

    Returns:
        (...) times (learning_rate x steps).  Error: absolute 1e-15 in rho t.

    Raises:
        ValueError: zero trace, zero start, an epsilon that the flow does not pass, or sizes outside 1e-75 to 1e75.
    """
    size = checks.matrix(A0, "A0").square().sum((-2, -1))
    c, wanted = checks.number(trace, "trace", A0), checks.number(epsilon, "epsilon", A0)
    checks.sizes(trace=c, A0=A0.abs().amax((-2, -1)))
    checks.batch(trace=c.shape, A0=size.shape, epsilon=wanted.shape)
    if not checks.is_fake(size):
        if bool((c == 0).any()) or bool((size == 0).any()):
            raise ValueError("With zero trace or zero A0 nothing moves, so no residual is ever reached.")
        if not bool(((wanted > 0) & (wanted <= c.abs())).all()):
            raise ValueError(f"epsilon must lie in (0, |trace|] = (0, {c.abs().max().item():g}]; got {epsilon!r}.")
    return riccati.time_to_residual(c, size, wanted)


def relative_error(A0: torch.Tensor) -> torch.Tensor:
    """Distance of the two minimisers over the norm of the full-rank one, from ``B0 = 0``: (33), (576).

    Args:
        A0: (..., r, n), not 0.

    Returns:
        (...) ``sqrt(n ||A0^T A0||^2 - ||A0||^4) / ||A0||^2``, formed as the norm of
        ``n A0^T A0 / ||A0||^2 - I`` over ``sqrt(n)`` through the r x r Gram matrix, so that it is
        exact where it vanishes.  Error: absolute 1e-15 n.

    Raises:
        ValueError: A0 = 0, NaN, or a rank above n.
    """
    r, n = checks.matrix(A0, "A0").shape[-2:]
    if r > n:
        raise ValueError(f"The rank {r} is above the dimension {n}.")
    A0 = A0 / A0.abs().amax((-2, -1), keepdim=True).clamp(
        min=torch.finfo(A0.dtype).tiny
    )  # a ratio: no square leaves float64
    gram = A0 @ A0.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    if not checks.is_fake(A0) and bool((size == 0).any()):
        raise ValueError("A0 is zero: the flow never moves and the relative error is not defined.")
    # ||n G / s - I_n||^2 / n = ||n G / s - I_r||^2 / n + (n - r) / n on the r x r Gram matrix G
    excess = n * gram / size - torch.eye(r, dtype=A0.dtype, device=A0.device)
    return torch.sqrt((excess.square().sum((-2, -1)) + (n - r)) / n)


def expected_squared_error(n: int, r: int) -> float:
    """Mean of the squared :func:`relative_error` over a Gaussian ``A0``: (34), ``(n^2 + n - 2) / (n r + 2)``.

    Raises:
        ValueError: unless 1 <= r <= n.
    """
    _rank(n, r)
    return (n * n + n - 2) / (n * r + 2)


def error_floor(n: int, r: int) -> float:
    """``sqrt(n / r - 1)``: no matrix of rank r and the right trace is closer to the full-rank minimiser.

    Not in the paper: ``|Tr X| <= sqrt(r) ||X||``.  Attained by an A0 with orthogonal rows of equal norm.
    """
    _rank(n, r)
    return math.sqrt(n / r - 1)


def largest_step(trace: float, size: float) -> float:
    """Step below which simultaneous descent from ``B0 = 0``, ``||A0||^2 = size`` arrives, but for single steps.

    ``min(8/(N + sqrt(N^2 + 16 c^2)), 1/|c|)``: the root of ``s^2 c^2 + s N = 4``, or 1/|c|.

    Not in the paper.  Found by trial.
    """
    return min(8 / (size + math.hypot(size, 4 * trace)), 1 / abs(trace))


def _rank(n: int, r: int) -> None:
    if not 1 <= r <= n:
        raise ValueError(f"The rank {r} must lie between 1 and the dimension {n}.")


def _invariants(trace, B0, A0):
    """c, P = ||A0 + B0^T||^2 and Q = ||A0 - B0^T||^2, each (...), after the checks of the public door."""
    checks.factors(B0, A0)
    if B0.shape[-2] != A0.shape[-1]:
        raise ValueError(f"The trace needs a square update; B0 A0 is {(B0.shape[-2], A0.shape[-1])}.")
    c = checks.number(trace, "trace", A0)
    checks.sizes(trace=c, B0=B0.abs().amax((-2, -1)), A0=A0.abs().amax((-2, -1)))
    P, Q = (A0 + B0.mT).square().sum((-2, -1)), (A0 - B0.mT).square().sum((-2, -1))
    checks.batch(trace=c.shape, B0=B0.shape[:-2], A0=A0.shape[:-2])
    c = c + torch.zeros_like(P)
    if not checks.is_fake(P) and bool(((c == 0) & (P == 0) & (Q == 0)).any()):
        raise ValueError("Zero trace with zero start: loss and gradients vanish, there is no flow to follow.")
    return c, P, Q
