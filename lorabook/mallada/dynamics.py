"""Four ways to follow the factors: the linearised solution, the flow, its stiff tail, gradient descent.

To first order in the factors the two layers do not see each other, and each obeys the linear system of
:mod:`lorabook.linear_phase` with ``G1 = W2^T shift`` and ``G2 = shift W1^T``.  For a shift ``sigma u v^T`` that is
``A1 = A1(0) + (cosh(s1 t) - 1) a0 v^T``, ``B1 = sinh(s1 t) p a0^T`` with ``a0 = A1(0) v``, and for layer 2
``A2 = A2(0) + (cosh(s2 t) - 1) b0 q^T``, ``B2 = sinh(s2 t) u b0^T`` with ``b0 = A2(0) q``.

All start from B1 = B2 = 0.  Times are flow times: learning rate x steps.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.integrate import solve_ivp

from lorabook import checks, linear_phase
from lorabook import flow as integrator
from lorabook.mallada.problem import Factors, TwoLayer, velocity


def linear_solution(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor, times) -> Factors:
    """Factors of the linearised flow, for every W1, W2, shift and rank.

    Args:
        problem: with batch dimensions that broadcast with those of the start.
        A1: (..., r, n) start of layer 1.  A2: (..., r, h) start of layer 2.
        times: (T,) increasing flow times.

    Returns:
        :class:`Factors` (T, ..., rows, columns).

    Source: the talk's decoupled alignment phase, solved.
    Holds when: the factors are small.
    Error: against the flow O(alpha^3) at a fixed time, O(alpha^(3 (1 - c))) at ``c log(1/alpha) / s1``.

    Raises:
        ValueError: shapes that do not fit, a zero start, times that do not increase.
    """
    A1, A2, lead = checked_start(problem, A1, A2)
    times = increasing(times, A1)
    G1, G2 = problem.W2.mT @ problem.shift, problem.shift @ problem.W1.mT
    (m, h), r = problem.W2.shape[-2:], A1.shape[-2]
    B1, A1 = linear_phase.propagate(G1.expand(*lead, *G1.shape[-2:]), A1.new_zeros(*lead, h, r), A1, times)
    B2, A2 = linear_phase.propagate(G2.expand(*lead, *G2.shape[-2:]), A2.new_zeros(*lead, m, r), A2, times)
    return Factors(B1, A1, B2, A2)


def flow(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor, times, rtol: float = 1e-10, clock=None) -> Factors:
    """Factors of the gradient flow, all systems in one batched solve.

    Args:
        problem, A1, A2, times: as for :func:`linear_solution`.
        rtol: bound on the relative error of a step.  The absolute one is ``rtol`` times the start's size,
            system by system, so that starts of every size are resolved alike.
        clock: (...) flow time that passes per unit of ``times``, one per system; None is 1.

    Returns:
        :class:`Factors` (T, ..., rows, columns) with status, steps and rejections (...); NaN where a
        system did not arrive.

    Error: about 1e-9 of the factors at rtol 1e-10 up to the plateau; the invariants show it.

    Raises:
        ValueError: as :func:`linear_solution`; a clock or rtol that is not positive or does not fit.
    """
    A1, A2, lead = checked_start(problem, A1, A2)
    times, rtol = increasing(times, A1), checks.positive(rtol, "rtol")
    clock = checks.number(1.0 if clock is None else clock, "clock", A1)
    if checks.batch(start=lead, clock=clock.shape) != lead or not bool((clock > 0).all()):
        raise ValueError(
            f"clock must be positive, one number or one per system {tuple(lead)}; got shape {tuple(clock.shape)} "
            f"and least value {clock.min().item():g}."
        )

    def flat(tensor):
        return tensor.expand(*lead, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:])

    unit = _size(A1, A2)
    parameters = [flat(t) for t in (problem.W1, problem.W2, problem.shift, unit**2, clock[..., None, None])]
    m, r = problem.W2.shape[-2], A1.shape[-2]
    h = problem.W2.shape[-1]
    start = [flat(t) for t in (A1.new_zeros(h, r), A1 / unit, A1.new_zeros(m, r), A2 / unit)]
    solution = integrator.integrate(velocity, tuple(start), times, rtol, rtol, parameters)
    states = [state.reshape(len(times), *lead, *state.shape[-2:]) * unit for state in solution.states]
    report = [solution.status, solution.steps, solution.rejections]
    return Factors(*states, *(field.reshape(lead) for field in report))


def stiff_flow(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor, times, rtol: float = 1e-10) -> Factors:
    """The flow of one small system over a very long time, by an implicit method (Radau IIA, order 5).

    After the growth phase the fast modes relax at rates of order 1 and the last one at a rate of order
    alpha^2, so an explicit method would need about 1/alpha^2 steps.  Runs in scipy, hence on the CPU.

    Args: as for :func:`flow`, without batch dimensions.
    Returns: :class:`Factors` (T, rows, columns) on the device of the start.
    Raises: ValueError as :func:`flow`, and if no time lies after 0; RuntimeError if the solver gives up.
    """
    A1, A2, lead = checked_start(problem, A1, A2)
    if lead:
        raise ValueError(f"stiff_flow takes one system at a time; got a batch of shape {tuple(lead)}.")
    times, rtol = increasing(times, A1), checks.positive(rtol, "rtol")
    if not bool(times[-1] > 0):
        raise ValueError("times must end after 0: at 0 the factors are those of the start.")
    W1, W2, shift = (t.detach().to("cpu") for t in (problem.W1, problem.W2, problem.shift))
    (m, h), r, n = W2.shape, A1.shape[-2], A1.shape[-1]
    shapes = [(h, r), (r, n), (m, r), (r, h)]
    cuts = np.cumsum([rows * columns for rows, columns in shapes])[:-1]

    def split(y):
        parts = torch.tensor_split(y, cuts.tolist(), dim=-1)
        return [part.reshape(*y.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]

    def join(parts):
        return torch.cat([part.reshape(-1) for part in parts])

    def rate(y):
        return join(velocity(split(y), W1, W2, shift))

    start = join([part.detach().to("cpu") for part in (A1.new_zeros(h, r), A1, A1.new_zeros(m, r), A2)])
    at_y = [lambda _, y, f=f: f(torch.from_numpy(y)).numpy() for f in (rate, torch.func.jacrev(rate))]
    tolerances = {"rtol": rtol, "atol": rtol * float(_size(A1, A2))}
    span, moments = (0.0, float(times[-1])), times.tolist()
    answer = solve_ivp(at_y[0], span, start.numpy(), "Radau", moments, jac=at_y[1], **tolerances)
    if not answer.success:
        last = answer.t[-1] if len(answer.t) else 0
        raise RuntimeError(f"The implicit solver stopped at t = {last:g}: {answer.message}")
    return Factors(*split(torch.from_numpy(answer.y.T.copy()).to(A1.device)))


def descend(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor, learning_rate, steps: int) -> Factors:
    """Factors (..., rows, columns) after simultaneous steps of gradient descent.

    Args:
        learning_rate: a number, or a tensor that broadcasts with the batch.
        steps: how many, 0 or more; the flow time passed is ``learning_rate * steps``.

    Returns:
        :class:`Factors` without a report.  A system whose steps are too long for it diverges: its entries are
        then NaN or infinite, and nothing is raised, so that its neighbours go on.

    Raises:
        ValueError: as :func:`linear_solution`; a learning rate that is not positive, a number of steps that is none.
    """
    A1, A2, lead = checked_start(problem, A1, A2)
    rate = checks.number(learning_rate, "learning_rate", A1, positive=True)[..., None, None]
    checks.batch(start=lead, learning_rate=rate.shape[:-2]), checks.count(steps, "steps", 0)
    (m, h), r = problem.W2.shape[-2:], A1.shape[-2]
    state = (A1.new_zeros(*lead, h, r), A1, A1.new_zeros(*lead, m, r), A2)
    for _ in range(steps):
        slopes = velocity(state, problem.W1, problem.W2, problem.shift)
        state = tuple(part + rate * slope for part, slope in zip(state, slopes, strict=True))
    return Factors(*state)


def invariants(factors) -> tuple[torch.Tensor, torch.Tensor]:
    """``A_i A_i^T - B_i^T B_i`` (..., r, r) of the two layers, which the flow conserves and descent does not."""
    return tuple(A @ A.mT - B.mT @ B for B, A in ((factors.B1, factors.A1), (factors.B2, factors.A2)))


def _size(A1: torch.Tensor, A2: torch.Tensor) -> torch.Tensor:
    """Root mean square (..., 1, 1) of the entries of a start."""
    entries = A1.shape[-2] * (A1.shape[-1] + A2.shape[-1])
    return ((A1.square().sum((-2, -1), keepdim=True) + A2.square().sum((-2, -1), keepdim=True)) / entries).sqrt()


def checked_start(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor):
    """The start with the whole batch's shape, and that shape; ValueError if it does not fit, or if nothing can move."""
    checks.matrix(A1, "A1"), checks.matrix(A2, "A2")
    (h, n), m = problem.W1.shape[-2:], problem.W2.shape[-2]
    if A1.shape[-1] != n or A2.shape[-1] != h or A1.shape[-2] != A2.shape[-2]:
        raise ValueError(
            f"A1 must be (..., r, {n}) and A2 (..., r, {h}) with one r; got {tuple(A1.shape)} and {tuple(A2.shape)}."
        )
    if A1.shape[-2] > min(m, h, n):
        raise ValueError(f"The rank {A1.shape[-2]} is above the smallest dimension {min(m, h, n)} of the layers.")
    lead = checks.batch(problem=problem.batch, A1=A1.shape[:-2], A2=A2.shape[:-2])
    A1, A2 = (A.expand(*lead, *A.shape[-2:]) for A in (A1, A2))
    if checks.is_fake(A1):
        return A1, A2, lead
    if bool((_size(A1, A2) == 0).any()):
        raise ValueError(
            "A1 and A2 are zero (init_scale 0): with B1 = B2 = 0 that start is stationary and nothing is ever learnt."
        )
    if bool((_largest(problem.W1) + _largest(problem.W2) == 0).any()):
        raise ValueError("W1 and W2 are zero: with B1 = B2 = 0 every start is stationary and nothing is ever learnt.")
    return A1, A2, lead


def _largest(W: torch.Tensor) -> torch.Tensor:
    return W.abs().amax((-2, -1))


def increasing(times, like: torch.Tensor) -> torch.Tensor:
    """Flow times (T,) that increase strictly; else ValueError."""
    times = checks.times(times, like)
    if not checks.is_fake(times) and bool((times.diff() <= 0).any()):
        raise ValueError(
            f"times must increase strictly; got {len(times)} from {times[0].item():g} to {times[-1].item():g}."
        )
    return times
