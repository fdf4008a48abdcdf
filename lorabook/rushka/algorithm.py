"""Algorithm 1 and its limit: equations (4)-(5), Theorem 2.4 and appendix A.

One outer iteration takes ``inner`` steps on B with A frozen, then ``inner`` steps on A with B frozen
at a mixture of its old and its new value.  As the step goes to 0 every variant follows the gradient
flow; what distinguishes them is of first order in the step, and :func:`descent_error` gives it.

Not here: any particular loss.  A loss enters through its two partial gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.func import jvp

from lorabook import checks, flow

Gradient = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def descend(
    gradient_B: Gradient,
    gradient_A: Gradient,
    B0: torch.Tensor,
    A0: torch.Tensor,
    step: float | torch.Tensor,
    iterations: int,
    inner: int = 1,
    mixing: float = 1.0,
    as_printed: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient descent on both factors, equations (4)-(5), or Algorithm 1 as printed.

    Args:
        gradient_B: partial gradient, (B, A) -> (..., m, r).
        gradient_A: partial gradient, (B, A) -> (..., r, n).
        B0: (..., m, r) float64.
        A0: (..., r, n) float64.
        step: the paper's alpha, > 0; a tensor (..., 1, 1) gives every system its own.
        iterations: number of outer iterations, >= 0; the flow time passed is ``step * inner * iterations``.
        inner: k, steps on each factor per outer iteration.
        mixing: lambda in [0, 1]; 1 updates A from the old B (simultaneous), 0 from the new (sequential).
        as_printed: line 10 of Algorithm 1 to the letter, ``B* <- lambda B* + (1 - lambda) B_k``, which
            mixes in the previous *average* where (5) has the value of B at the start of the iteration.
            Lines 13-17 are read as k steps on A, since to the letter they start from an A_1 that is never set.

    Returns:
        ``(B, A)`` after the last iteration, (..., m, r) and (..., r, n).

    Raises:
        ValueError: shapes that do not fit, or a step, count or mixing out of range.
    """
    checks.factors(B0, A0)
    numbers = (int, float, torch.Tensor)
    steps = torch.as_tensor(step if isinstance(step, numbers) else math.nan, dtype=B0.dtype, device=B0.device)
    if not checks.is_fake(steps) and not bool(((steps > 0) & (steps < math.inf)).all()):
        raise ValueError(f"step must be positive and finite; got {step!r}.")
    checks.count(iterations, "iterations", 0), checks.count(inner, "inner", 1)
    if not isinstance(mixing, numbers) or not 0 <= mixing <= 1:
        raise ValueError(f"mixing must lie in [0, 1]; got {mixing!r}.")
    B, A, average = B0, A0, B0
    for _ in range(iterations):
        old = average if as_printed else B
        for _ in range(inner):
            B = B - step * gradient_B(B, A)
        average = mixing * old + (1 - mixing) * B
        for _ in range(inner):
            A = A - step * gradient_A(average, A)
    return B, A


def descent_error(
    gradient_B: Gradient,
    gradient_A: Gradient,
    B0: torch.Tensor,
    A0: torch.Tensor,
    times,
    inner: torch.Tensor,
    mixing: torch.Tensor,
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The gradient flow and the first-order error of descent around it: Theorem 2.4 made sharp.

    At the end of an outer iteration ``descent - flow = step * E1(t) + O(step^2)``, where ``E1`` starts
    at 0 and solves the linearised flow with the source
    ``-(1/2) [f_B f + k f_A h ; h_A h + (2 lambda - 1) k h_B f]``, ``f = -grad_B g``, ``h = -grad_A g``.
    So ``E1`` is affine in ``k`` and ``(2 lambda - 1) k``.

    Args:
        gradient_B, gradient_A: partial gradients, (B, A) -> (S, m, r) and (S, r, n), differentiable.
        B0: (m, r) float64.  A0: (r, n) float64.
        times: (T,) increasing flow times.
        inner: (S,) values of k, one system each.
        mixing: (S,) values of lambda.

    Returns:
        ``(B, A)`` of the flow, (T, S, m, r) and (T, S, r, n) (the same for every system), and the two
        parts of ``E1`` in the same shapes.

    Source: ours; the paper's (227) bounds the norm of this error by a constant times the step.
    Error: that of :func:`lorabook.flow.integrate` at rtol 1e-9.

    Raises:
        ValueError: as the integrator does; RuntimeError if the flow itself does not exist up to the last time.
    """
    checks.factors(B0, A0)
    systems = len(inner)

    def velocity(state, k, tilt):
        B, A, EB, EA = state
        f, h = -gradient_B(B, A), -gradient_A(B, A)
        # the source is linear in the direction, so one derivative per factor carries both it and the transport
        drift_B = jvp(gradient_B, (B, A), (EB - f / 2, EA - k * h / 2))[1]
        drift_A = jvp(gradient_A, (B, A), (EB - tilt * f / 2, EA - h / 2))[1]
        return f, h, -drift_B, -drift_A

    k, weight = (torch.as_tensor(x, dtype=B0.dtype, device=B0.device)[:, None, None] for x in (inner, mixing))
    start = tuple(x.expand(systems, *x.shape).clone() for x in (B0, A0, torch.zeros_like(B0), torch.zeros_like(A0)))
    solution = flow.integrate(velocity, start, times, rtol=1e-9, atol=1e-11, parameters=(k, (2 * weight - 1) * k))
    if bool((solution.status != flow.DONE).any()):
        raise RuntimeError(f"The gradient flow does not reach the time {float(times[-1]):g}.")
    B, A, EB, EA = solution.states
    return (B, A), (EB, EA)
