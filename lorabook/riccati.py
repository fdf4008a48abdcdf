"""Closed forms of the two Riccati equations behind factored gradient flow.

The scalar one, ``u' = -(P/2) u^2 + 2 c u + Q/2`` with ``u = exp(2 tau)``, drives every problem in
which the two factors exchange one scalar: Rushka & Klabjan's trace-squared loss and each mode of a
balanced factorisation.  The matrix one, ``dZ/dt = H Z - (1/2) Z Z^T Z``, is the Frobenius flow of a
balanced start.  Both are exact at any time and never form a growing exponential.

Not here: what the scalars mean.  That is said by the source modules that call this one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Exchange(NamedTuple):
    """State of the scalar exchange at the times asked for; all fields have the broadcast shape."""

    residual: torch.Tensor  # a(t), what is left to learn
    grow: torch.Tensor  # exp(tau(t)), tau = int_0^t a
    shrink: torch.Tensor  # exp(-tau(t))
    rise: torch.Tensor  # exp(tau(t)) - 1
    fall: torch.Tensor  # exp(-tau(t)) - 1


def exchange(target: torch.Tensor, P: torch.Tensor, Q: torch.Tensor, times: torch.Tensor) -> Exchange:
    """Solve ``tau' = a = c - (P u - Q / u) / 4``, ``u = exp(2 tau)``, ``tau(0) = 0``.

    Args:
        target: c, any sign, zero allowed.
        P: squared norm of the growing combination of the factors, >= 0.
        Q: squared norm of the shrinking combination, >= 0.
        times: flow times, >= 0.  All four broadcast.

    Returns:
        :class:`Exchange`.  The combinations of the factors with squared norms P and Q are multiplied by
        ``grow`` and ``shrink``; ``rise`` and ``fall`` keep their relative accuracy as tau -> 0.  Where P = 0
        growth is unbounded and multiplies nothing: ``grow`` and ``rise`` are given as 0.  Likewise
        ``shrink`` and ``fall`` where Q = 0.

    Holds when: always.  The residual tends to 0 unless (P = 0, c > 0) or (Q = 0, c < 0): such a start
    lies on the stable set of the saddle.
    Error: relative 1e-13 in the residual however small it is, times the cancellation in its start
    ``c - (P - Q) / 4``, which is the caller's.  No other step subtracts nearly equal
    numbers: ``rho - 2c`` is formed as ``P Q / (rho + 2c)`` for c > 0, and its mirror for c < 0.
    """
    zero, one = torch.zeros_like(P * target), torch.ones_like(P * target)
    rho = torch.hypot(2 * target, P.sqrt() * Q.sqrt())
    large = rho + 2 * target.abs()
    small = torch.where(large > 0, P / torch.where(large > 0, large, one) * Q, zero)
    rho_plus = torch.where(target >= 0, large, small)  # rho + 2 c
    rho_minus = torch.where(target >= 0, small, large)  # rho - 2 c
    half = torch.exp(-rho * times / 2)
    decay = half * half
    # (1 - exp(-rho t)) / rho, continued to its limit t at rho = 0
    growth = torch.where(rho > 0, -torch.expm1(-rho * times) / torch.where(rho > 0, rho, one), times + zero)
    up, down = (rho_plus + Q) * growth, (rho_minus + P) * growth
    v, w = 2 * decay + up, 2 * decay + down  # u = v / w
    a0 = target - (P - Q) / 4
    # a = 4 a0 decay / (v w); where v or w is 2 decay alone, decay cancels before it underflows;
    # its two halves are still there when it has underflowed over a small w
    residual = torch.where(down == 0, 2 * a0 / v, torch.where(up == 0, 2 * a0 / w, 4 * a0 * (half / v) * (half / w)))
    # exp(tau) - 1 = (v - w) / (sqrt w (sqrt v + sqrt w)) with v - w = 4 a0 growth: no difference as tau -> 0
    root_v, root_w = v.sqrt(), w.sqrt()
    step = 4 * a0 * growth / (root_v + root_w)
    up_gains = (torch.where(P > 0, gain, zero) for gain in (root_v / root_w, step / root_w))
    down_gains = (torch.where(Q > 0, gain, zero) for gain in (root_w / root_v, -step / root_v))
    (grow, rise), (shrink, fall) = up_gains, down_gains
    return Exchange(residual, grow, shrink, rise, fall)


def mode_product(target: torch.Tensor, size: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Product ``y x`` of one mode ``y' = (c - y x) x``, ``x' = (c - y x) y`` from ``y = 0``, ``x^2 = size``.

    Args:
        target: c, the value that the product approaches.
        size: squared start, >= 0; at 0 the mode stays at 0.
        times: flow times, >= 0.  All three broadcast.

    Returns:
        ``size cosh(tau) sinh(tau)`` with tau of :func:`exchange` at P = Q = ``size``.
        Error: relative 1e-13 at every time.
    """
    at = exchange(target + torch.zeros_like(size), size, size, times)
    return (2 + at.rise + at.fall) * (at.rise - at.fall) / 4 * size


def time_to_residual(target: torch.Tensor, size: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
    """Time at which the exchange from a start with P = Q = ``size`` has ``|a| = epsilon``.

    Args:
        target: c, not 0.
        size: N = P = Q, > 0.
        epsilon: wanted residual, 0 < epsilon <= |c|.  All broadcast.

    Returns:
        ``[arsinh((rho^2 / epsilon - 4 |c|) / (2 N)) - arsinh(N / (2 |c|))] / rho`` with
        ``rho^2 = N^2 + 4 c^2``: equation (313) of Rushka & Klabjan, solved for t.
        Error: rounding of the larger arsinh, about 1e-16 (1 + ln(rho / epsilon)) in rho t.
    """
    c = target.abs()
    rho = torch.hypot(2 * c, size)
    # rho^2 - 4 c epsilon without the difference of nearly equal numbers for epsilon near c
    way = torch.asinh((size**2 + 4 * c * (c - epsilon)) / (2 * size * epsilon)) - torch.asinh(size / (2 * c))
    # at epsilon = |c| rounding may leave a last digit below zero, which no flow takes as a time
    return way.clamp(min=0) / rho


def balanced_factors(H: torch.Tensor, Z0: torch.Tensor, times: torch.Tensor, longest: float = 5.0) -> torch.Tensor:
    """Solve ``dZ/dt = H Z - (1/2) Z Z^T Z`` at the times, up to a rotation of Z from the right.

    Args:
        H: (..., N, N) symmetric.
        Z0: (..., N, r) start.
        times: (T,) increasing flow times.
        longest: longest exponent ``|H| dt`` of one exact step.

    Returns:
        (T, ..., N, r) factors ``Z``, fixed up to a rotation from the right, so that ``Z Z^T`` is
        ``e^{Ht} Z0 [I + Z0^T (int_0^t e^{2Hs} ds) Z0]^{-1} Z0^T e^{Ht}``.

    Source: Fukumizu 1998; Braun et al. 2022; Dominé et al. 2024.
    Error: relative 1e-12 of the largest entry.  The exact formula is applied over steps of bounded
    exponent (it is a semigroup), so that nothing overflows and no direction is lost to rounding.
    """
    values, basis = torch.linalg.eigh(H)
    C = basis.mT @ Z0
    eye = torch.eye(Z0.shape[-1], dtype=Z0.dtype, device=Z0.device)
    scale = float(values.abs().max())
    now, answers = 0.0, []
    for time in map(float, times):
        steps = max(1, int(-(-(time - now) * scale // longest)))
        dt = (time - now) / steps
        # (e^{2 values dt} - 1) / (2 values), continued to dt at value 0
        safe = torch.where(values == 0, torch.ones_like(values), values)
        gain = torch.where(values == 0, torch.full_like(values, dt), torch.expm1(2 * values * dt) / (2 * safe))
        step = torch.exp(values * dt)[..., None]
        for _ in range(steps if time > now else 0):
            root = torch.linalg.cholesky(eye + C.mT @ (gain[..., None] * C))
            C = torch.linalg.solve_triangular(root, (step * C).mT, upper=False).mT
        now = time
        answers.append(basis @ C)
    return torch.stack(answers)
