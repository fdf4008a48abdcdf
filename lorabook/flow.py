"""Batched gradient flow: dy/dt = velocity(y) for many independent systems at once.

The Dormand-Prince pair of orders 5 and 4 in float64, with the quartic interpolant for times inside a
step.  Every system has its own time, its own step size and its own fate; systems that are finished,
or that failed, leave the batch.  Time is flow time: t = learning_rate x steps of gradient descent, in
the limit of small learning rates.

Not here: which velocity to follow (the source modules), discrete steps (descent.py), stiff problems
(an explicit method needs about rate x horizon / 3 steps), and gradients of the solution.
"""

from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from math import inf, isfinite, prod, sqrt

import torch

DONE = 0  # reached the last time
STALLED = 1  # the step fell below the rounding of t: as a rule a blow-up in finite time
NOT_FINITE = 2  # state or velocity not finite at the start, or still not at the smallest step
EXHAUSTED = 3  # max_steps attempts, and still under way

# Row i gives the point of stage i + 1.  The last row is the solution of order 5 itself, so that the last
# slope of a step is the first slope of the next.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# The solution of order 5 minus that of order 4.
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# Inside a step: the cubic Hermite polynomial plus theta^2 (1 - theta)^2 times this sum of slopes.
_BEND = (
    *(-12715105075 / 11282082432, 0.0, 87487479700 / 32700410799, -10690763975 / 1880347072),
    *(701980252875 / 199316789632, -1453857185 / 822651844, 69997945 / 29380423),
)
# The error of a step goes as h^5.  The aim is 0.6^5, about a thirteenth, of what is accepted: almost no
# step is rejected, and hundreds of steps together stay within rtol.  The limits keep one odd step harmless.
_SAFETY, _SHRINK, _GROW = 0.6, 0.2, 5.0


@dataclass(frozen=True)
class Solution:
    """What became of S systems at T times.

    states: (T, S, ...) float64, a tensor or a tuple of tensors as the start was; NaN at the times that a
        system did not reach.
    status: (S,) int64, DONE, STALLED, NOT_FINITE or EXHAUSTED.
    steps, rejections: (S,) int64, accepted and rejected steps.
    reached: (S,) float64, the last time reached.
    evaluations: calls of the velocity, each for all systems then in the batch.
    """

    states: torch.Tensor | tuple[torch.Tensor, ...]
    status: torch.Tensor
    steps: torch.Tensor
    rejections: torch.Tensor
    reached: torch.Tensor
    evaluations: int


@torch.no_grad()
def integrate(velocity, start, times, rtol=1e-10, atol=1e-12, parameters=(), max_steps=100_000):
    """Solve dy/dt = velocity(y, *parameters), y(0) = start, for S independent systems.

    Args:
        velocity: function of (state, *parameters); returns dy/dt in the structure and shapes of the state.
            It sees only the systems still under way, must treat them one by one, and must neither change
            nor keep the tensors it is given.
        start: (S, ...) float64, or a tuple of such tensors, e.g. B (S, m, r) and A (S, r, n).
        times: (T,) strictly increasing, not negative, in units of learning_rate x steps.
        rtol, atol: bound on the error of one step, for each system: the root mean square over the entries
            of error / (atol + rtol |y|) is at most 1.
        parameters: tensors (S, ...) that belong to the systems one by one, e.g. W0 (S, m, n).
        max_steps: attempts (accepted and rejected steps) granted to each system.

    Returns:
        A Solution. A system that fails gets a status, and NaN from there on; its neighbours do not notice.

    Source: Dormand & Prince (1980), J. Comput. Appl. Math. 6, 19-26; interpolant, first step and step
        control: Hairer, Norsett & Wanner (1993), Solving Ordinary Differential Equations I, II.4 to II.6.
    Holds when: the velocity is smooth along the solution.
    Error: order 5 in the step, order 4 between steps; relative to |y| below rtol / 10 where the flow does
        not amplify errors, and as much as it amplifies them where it does.  float64, rtol down to 1e-13.
    Raises:
        TypeError, ValueError: a bad argument, or a velocity that does not fit its state.
        RuntimeError: the velocity fails once systems have left the batch.
    """
    parts, paired = _checked_start(start)
    times = _checked_times(times, parts[0])
    parameters = _checked_parameters(parameters, parts[0])
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite; got {value}.")
    if not (isinstance(max_steps, int) and max_steps > 0):
        raise ValueError(f"max_steps must be a positive whole number; got {max_steps}.")

    S, horizon = parts[0].shape[0], float(times[-1])
    shapes = [part.shape[1:] for part in parts]
    bounds = list(pairwise(accumulate(map(prod, shapes), initial=0)))
    D = bounds[-1][1]
    rows = [times.new_tensor(row) for row in (*_STAGES, [weight / sqrt(D) for weight in _ERROR])]
    interpolant, powers = times.new_tensor(_interpolant()), times.new_tensor((1, 2, 3, 4))
    evaluations = 0

    def split(flat):
        """The parts of flat (..., D), as views."""
        lead = flat.shape[:-1]
        return tuple(flat[..., i:j].view(*lead, *shape) for (i, j), shape in zip(bounds, shapes))

    def workspace(L):
        """Slopes (7, L, D), the same one by one, a trial state, its parts, a sum of slopes, how each row makes it."""
        K, trial, total = y.new_empty(7, L, D), y.new_empty(L, D), y.new_empty(L, D)
        sums = [(K[: row.shape[0]].view(-1, L * D).t(), row, total.view(-1)) for row in rows]
        return K, K.unbind(), trial, split(trial), total, sums

    def evaluate(views, out):
        """Write the velocity at the parts of a state into out (L, D)."""
        nonlocal evaluations
        evaluations += 1
        L = out.shape[0]
        try:
            rates = velocity(views if paired else views[0], *parameters)
            rates = rates if paired else (rates,)
            _check_rates(rates, views)
        except Exception as fault:
            if L == S:
                raise
            raise RuntimeError(
                f"velocity failed for the {L} of {S} systems still under way: "
                "pass per-system tensors through `parameters`."
            ) from fault
        torch.cat([rate.reshape(L, -1) for rate in rates], 1, out=out)

    def probe(h):
        """The slope one Euler step of size h (S,) ahead."""
        torch.addcmul(y, h[:, None], slopes[0], out=trial)
        evaluate(views, slopes[1])
        return slopes[1]

    y = torch.cat([part.reshape(S, -1) for part in parts], 1)
    K, slopes, trial, views, total, sums = workspace(S)
    evaluate(split(y), slopes[0])
    finite = (y.sum(1) + slopes[0].sum(1)).isfinite()
    h = _first_step(y, slopes[0], probe, rtol, atol).masked_fill_(~finite, 0.0)

    t = torch.zeros_like(h)
    live = torch.arange(S, device=y.device)
    accepted = torch.zeros_like(live)
    cursor = torch.searchsorted(times, t, right=True)  # the first time still to come
    result = y.new_full((times.shape[0], S, D), torch.nan)
    result[: int(cursor[0])] = y
    status, steps, rejections, reached = *(torch.empty_like(live) for _ in range(3)), torch.empty_like(t)

    for attempt in count():
        # A system at the horizon cannot move, nor can one whose step is lost in the rounding of t.  Half a step
        # must count as well: t + h may be rounded up to the very step that has just been rejected.
        t_next = (t + h).clamp_(max=horizon)
        stuck = t.add(h, alpha=0.5).clamp_(max=horizon) <= t
        if attempt == max_steps or bool(stuck.any()):
            fate = torch.where(finite, STALLED, NOT_FINITE).masked_fill_(~stuck, EXHAUSTED)
            status[live] = fate.masked_fill_(finite & (t == horizon), DONE)
            steps[live], rejections[live], reached[live] = accepted, attempt - accepted, t
            stay = (~stuck).nonzero().squeeze(1)
            if attempt == max_steps or stay.shape[0] == 0:
                break
            t, t_next, live, accepted, cursor = (kept[stay] for kept in (t, t_next, live, accepted, cursor))
            parameters = [parameter[stay] for parameter in parameters]
            y, slope = y[stay], slopes[0][stay]
            K, slopes, trial, views, total, sums = workspace(stay.shape[0])
            slopes[0].copy_(slope)

        h = t_next - t
        width = h[:, None]
        for (known, row, flat), slope in zip(sums, slopes[1:]):
            torch.mv(known, row, out=flat)
            torch.addcmul(y, width, total, out=trial)
            evaluate(views, slope)

        known, row, flat = sums[-1]
        torch.mv(known, row, out=flat)
        scale = torch.maximum(y.abs(), trial.abs()).mul_(rtol).add_(atol)
        error = torch.linalg.vector_norm(total.div_(scale), dim=1).mul_(h)
        # An infinite state would make the scaled error zero: look at the scale as well.
        finite = (error + scale.amax(1)).isfinite()
        error.masked_fill_(~finite, inf)
        accept = error <= 1.0
        t_new = torch.where(accept, t_next, t)

        cursor_new = torch.searchsorted(times, t_new, right=True)
        fresh = cursor_new - cursor
        if bool(fresh.any()):
            # One row per output: whose it is, which time, and how far into that system's step.
            owner = torch.repeat_interleave(fresh)
            slot = torch.arange(owner.shape[0], device=y.device)
            slot += (cursor_new - fresh.cumsum(0))[owner]
            length = width[owner]
            theta = (times[slot] - t[owner])[:, None] / length
            weights = (theta**powers @ interpolant).t()[:, :, None]
            result[slot, live[owner]] = torch.addcmul(y[owner], length, (weights * K[:, owner]).sum(0))

        taken = accept[:, None]
        torch.where(taken, trial, y, out=y)
        torch.where(taken, slopes[6], slopes[0], out=slopes[0])
        accepted += accept
        t, cursor = t_new, cursor_new
        h = error.pow_(-0.2).mul_(_SAFETY).clamp_(_SHRINK, _GROW).mul_(h)

    states = split(result)
    return Solution(states if paired else states[0], status, steps, rejections, reached, evaluations)


def _interpolant():
    """(4, 7) weights: y(t + theta h) = y + h sum over k, i of theta^k weights[k - 1, i] slope_i."""
    b = (*_STAGES[-1], 0.0)
    first, last = (1.0,) + 6 * (0.0,), 6 * (0.0,) + (1.0,)
    columns = zip(b, first, last, _BEND)
    return list(zip(*((f, 3 * c - 2 * f - e + d, f + e - 2 * c - 2 * d, d) for c, f, e, d in columns)))


def _first_step(y, slope, probe, rtol, atol):
    """(S,) first steps whose error is well below the tolerance, from one Euler probe."""
    scale = y.abs().mul_(rtol).add_(atol)

    def size(v):
        return torch.linalg.vector_norm(v / scale, dim=1) / sqrt(y.shape[1])

    height, speed = size(y), size(slope)
    h = (0.01 * height / speed).masked_fill_((height < 1e-5) | (speed < 1e-5), 1e-6)
    bend = size(probe(h) - slope) / h
    best = (0.01 / torch.fmax(speed, bend)) ** 0.2
    # fmin passes over a probe that was not finite: a step too long is shrunk by the loop.
    return torch.fmin(100 * h, best).clamp_(min=1e-3 * h)


def _checked_start(start):
    """The tensors of the start, and whether they came as a tuple."""
    paired = isinstance(start, tuple)
    parts = start if paired else (start,)
    if not parts or not all(isinstance(part, torch.Tensor) and part.dtype == torch.float64 for part in parts):
        raise TypeError(f"start must be a float64 tensor or a tuple of them; got {_described(parts)}.")
    S, device = parts[0].shape[:1], parts[0].device
    if not S or any(part.numel() == 0 or part.shape[:1] != S or part.device != device for part in parts):
        raise ValueError(f"start must lead with the same S >= 1 systems on one device; got {_described(parts)}.")
    return parts, paired


def _checked_times(times, first):
    """The times as a float64 tensor (T,) on the device of the start."""
    if isinstance(times, torch.Tensor) and times.dtype != torch.float64:
        raise TypeError(f"times must be float64; got {times.dtype}.")
    try:
        times = torch.as_tensor(times, dtype=torch.float64, device=first.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"times must be a vector of numbers; got {times!r}.") from None
    if times.ndim != 1 or times.numel() == 0:
        raise ValueError(f"times must be a vector (T,) of at least one; got shape {tuple(times.shape)}.")
    if not bool(times.isfinite().all() & (times >= 0).all() & (times.diff() > 0).all()):
        raise ValueError(f"times must be finite, not negative and strictly increasing; got {times.tolist()[:8]}.")
    return times


def _checked_parameters(parameters, first):
    """The parameters as a list of tensors for the systems of the start."""
    if not isinstance(parameters, (tuple, list)) or not all(isinstance(p, torch.Tensor) for p in parameters):
        raise TypeError(f"parameters must be a tuple of tensors; got {_described(parameters)}.")
    if any(p.shape[:1] != first.shape[:1] or p.device != first.device for p in parameters):
        raise ValueError(
            f"parameters must lead with the {first.shape[0]} systems, on {first.device}; got {_described(parameters)}."
        )
    return list(parameters)


def _check_rates(rates, views):
    """Raise unless the rates fit the state part by part."""
    fit = isinstance(rates, (tuple, list)) and len(rates) == len(views)
    for rate, view in zip(rates if fit else (), views):
        fit = fit and isinstance(rate, torch.Tensor) and rate.shape == view.shape and rate.dtype == view.dtype
    if not fit:
        raise ValueError(f"velocity must return what its state is, {_described(views)}; got {_described(rates)}.")


def _described(values):
    """Shape, dtype and device of tensors, or the type of what is none, for a message."""
    if isinstance(values, (tuple, list)) and values:
        return ", ".join(_described(value) for value in values)
    if isinstance(values, torch.Tensor):
        return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')} on {values.device}"
    return type(values).__name__
