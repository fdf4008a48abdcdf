"""Batched gradient flow: dy/dt = velocity(y) for many independent systems at once.

The method is the Dormand-Prince pair of orders 5 and 4 in float64, with the quartic
interpolant for times inside a step.  Every system has its own time, its own step size
and its own fate; systems that are finished, or that failed, leave the batch.

Time is flow time: t = learning_rate x steps of gradient descent, in the limit of small
learning rates.

Not here: which velocity to follow (the source modules), discrete steps (descent.py),
stiff problems (an explicit method needs about rate x horizon / 3 steps), and gradients
of the solution.
"""

from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from math import inf, isfinite, prod, sqrt

import torch

DONE = 0  # reached the last time
STALLED = 1  # the step fell below the rounding of t: as a rule a blow-up in finite time
NOT_FINITE = 2  # state or velocity not finite at the start, or at the smallest step
EXHAUSTED = 3  # max_steps attempts, and still under way

# Row i gives the point of stage i + 1; the last row is the solution of order 5 itself,
# so that the last slope of a step is the first slope of the next.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Order 5 minus order 4.
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# The interpolant is the cubic Hermite polynomial of the step plus theta^2 (1 - theta)^2
# times this combination of slopes, which makes it accurate to order 4.
_BEND = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)


def _hermite_rows():
    """(4, 7): the combinations of slopes that go with the columns of _hermite_basis."""
    b = (*_STAGES[-1], 0.0)
    first, last = (1.0,) + 6 * (0.0,), 6 * (0.0,) + (1.0,)
    return [
        b,
        [e - c for c, e in zip(b, first)],
        [2 * c - e - f for c, e, f in zip(b, first, last)],
        _BEND,
    ]


def _hermite_basis(theta):
    """(P, 4): theta, theta (1 - theta), theta^2 (1 - theta), theta^2 (1 - theta)^2."""
    back = 1 - theta
    return torch.stack((theta, theta * back, theta**2 * back, (theta * back) ** 2), 1)


def _first_step(y, slope, probe, rtol, atol):
    """(S,): a first step whose error is well below the tolerance, from one Euler probe."""
    scale = y.abs().mul_(rtol).add_(atol)

    def size(v):
        return torch.linalg.vector_norm(v / scale, dim=1) / sqrt(y.shape[1])

    height, speed = size(y), size(slope)
    flat = (height < 1e-5) | (speed < 1e-5)
    h = (0.01 * height / speed).masked_fill_(flat, 1e-6)
    bend = size(probe(h) - slope) / h
    best = (0.01 / torch.fmax(speed, bend)) ** 0.2
    # fmin passes over a probe that was not finite; the loop shrinks a step too long.
    return torch.fmin(100 * h, best).clamp_(min=1e-3 * h)


def _checked_start(start):
    """The tensors of the start, and whether they came as a tuple."""
    paired = isinstance(start, tuple)
    parts = start if paired else (start,)
    if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
        raise TypeError(f"start must be a tensor or a tuple of tensors, got {type(start).__name__}")
    if any(part.dtype != torch.float64 for part in parts):
        raise TypeError(f"start must be float64, got {[str(part.dtype) for part in parts]}")
    shapes = [tuple(part.shape) for part in parts]
    if any(part.numel() == 0 or part.shape[:1] != parts[0].shape[:1] for part in parts):
        raise ValueError(f"start must have one leading dimension S >= 1 of systems, got {shapes}")
    if any(part.device != parts[0].device for part in parts):
        raise ValueError(f"start must be on one device, got {[str(p.device) for p in parts]}")
    return parts, paired


def _checked_times(times, device):
    """The times as a float64 tensor (T,) on the device."""
    if isinstance(times, torch.Tensor) and times.dtype != torch.float64:
        raise TypeError(f"times must be float64, got {times.dtype}")
    times = torch.as_tensor(times, dtype=torch.float64, device=device)
    if times.dim() != 1 or len(times) == 0:
        raise ValueError(f"times must be a list (T,) of at least one, got shape {tuple(times.shape)}")
    if not bool(times.isfinite().all() & (times >= 0).all() & (times.diff() > 0).all()):
        raise ValueError(
            "times must be finite, >= 0 and strictly increasing, got "
            f"{len(times)} from {float(times[0])} to {float(times[-1])}"
        )
    return times


def _checked_parameters(parameters, first):
    """The parameters as a list of tensors with S systems each, on the start's device."""
    if not isinstance(parameters, (tuple, list)):
        raise TypeError(f"parameters must be a tuple of tensors, got {type(parameters).__name__}")
    for p in parameters:
        if not isinstance(p, torch.Tensor):
            raise TypeError(f"parameters must be tensors, got {type(p).__name__}")
        if p.shape[:1] != first.shape[:1] or p.device != first.device:
            raise ValueError(
                f"parameters must have S = {len(first)} systems on {first.device}, "
                f"got shape {tuple(p.shape)} on {p.device}"
            )
    return list(parameters)


@dataclass(frozen=True)
class Solution:
    """What became of S systems at T times.

    states: (T, S, ...) float64, a tensor or a tuple of tensors as the start was; NaN at
        the times a system did not reach.
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
        velocity: function of (state, *parameters); returns dy/dt in the structure and
            shapes of the state. It sees only the systems still under way, must treat
            them one by one, and must neither change nor keep the tensors it is given.
        start: (S, ...) float64, or a tuple of such tensors, e.g. B (S, m, r), A (S, r, n).
        times: (T,) strictly increasing, 0 <= times, in units of learning_rate x steps.
        rtol, atol: bound on the error of one step, per system, as the root mean square
            over all entries of error / (atol + rtol |y|).
        parameters: tensors (S, ...) that belong to the systems one by one, e.g. W0.
        max_steps: attempts (accepted and rejected steps) granted to each system.

    Returns: a Solution. A system that fails gets a status, and NaN from there on; its
        neighbours do not notice.

    Source: Dormand & Prince (1980), J. Comput. Appl. Math. 6, 19-26; interpolant, first
        step and step control: Hairer, Norsett & Wanner (1993), Solving Ordinary
        Differential Equations I, sections II.4 to II.6.
    Holds when: the velocity is smooth along the solution.
    Error: order 5 in the step; the global error is about rtol x the number of steps,
        amplified as the flow itself amplifies. float64, rtol not below about 1e-14.
    Raises: TypeError or ValueError on bad arguments; RuntimeError if the velocity fails
        once systems have left the batch.
    """
    parts, paired = _checked_start(start)
    times = _checked_times(times, parts[0].device)
    parameters = _checked_parameters(parameters, parts[0])
    for name, value in (("rtol", rtol), ("atol", atol), ("max_steps", max_steps)):
        if not (isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")

    S, horizon = len(parts[0]), float(times[-1])
    shapes = [part.shape[1:] for part in parts]
    bounds = list(pairwise(accumulate((prod(shape) for shape in shapes), initial=0)))
    D = bounds[-1][1]
    evaluations = 0

    def split(flat):
        """Views (..., *shape) of the entries of flat (..., D)."""
        lead = flat.shape[:-1]
        return tuple(flat[..., i:j].view(*lead, *shape) for (i, j), shape in zip(bounds, shapes))

    def slopes(views, out):
        """Write the velocity at views into out (L, D)."""
        nonlocal evaluations
        evaluations += 1
        try:
            rates = velocity(views if paired else views[0], *parameters)
            rates = rates if paired else (rates,)
            wanted, came = [view.shape for view in views], [rate.shape for rate in rates]
            if came != wanted or any(rate.dtype != torch.float64 for rate in rates):
                raise ValueError(
                    "velocity must return float64 in the shapes of its state, "
                    f"{[tuple(s) for s in wanted]}, got {[tuple(s) for s in came]}"
                )
        except Exception as fault:
            if len(out) == S:
                raise
            raise RuntimeError(
                f"velocity failed for the {len(out)} of {S} systems still under way; "
                f"pass per-system tensors through `parameters` ({fault})"
            ) from fault
        torch.cat([rate.reshape(len(out), -1) for rate in rates], 1, out=out)

    def workspace(L):
        """Slopes (7, L, D), the same as (7, L D), a sum of slopes, a trial state, its parts."""
        K, trial = parts[0].new_empty(7, L, D), parts[0].new_empty(L, D)
        return K, K.view(7, L * D), torch.empty_like(trial), trial, split(trial)

    rows = [times.new_tensor(row) for row in _STAGES]
    error_row = times.new_tensor(_ERROR)
    hermite_rows = times.new_tensor(_hermite_rows())
    y = torch.cat([part.reshape(S, -1) for part in parts], 1)
    K, K_flat, total, trial, views = workspace(S)
    slopes(split(y), K[0])

    def probe(h):
        """The slope one Euler step of size h (S,) ahead."""
        torch.addcmul(y, h[:, None], K[0], out=trial)
        slopes(views, K[1])
        return K[1]

    finite = (y.sum(1) + K[0].sum(1)).isfinite()
    h = _first_step(y, K[0], probe, rtol, atol).masked_fill_(~finite, 0.0)

    t = torch.zeros_like(h)
    live = torch.arange(S, device=y.device)
    accepted = torch.zeros_like(live)
    cursor = torch.searchsorted(times, t, right=True)
    result = y.new_full((len(times), S, D), torch.nan)
    result[: int(cursor[0])] = y
    status, steps, rejections = (torch.empty_like(live) for _ in range(3))
    reached = torch.empty_like(t)

    for attempt in count():
        # A system at the horizon cannot move, nor can one whose step is lost in rounding.
        t_next = (t + h).clamp_(max=horizon)
        stuck = t_next <= t
        if attempt == max_steps or bool(stuck.any()):
            fate = torch.where(finite, STALLED, NOT_FINITE).masked_fill_(~stuck, EXHAUSTED)
            status[live] = fate.masked_fill_(t == horizon, DONE)
            steps[live], rejections[live], reached[live] = accepted, attempt - accepted, t
            stay = (~stuck).nonzero().squeeze(1)
            if attempt == max_steps or len(stay) == 0:
                break
            t, t_next, live, accepted, cursor = (
                kept[stay] for kept in (t, t_next, live, accepted, cursor)
            )
            parameters = [parameter[stay] for parameter in parameters]
            y, slope = y[stay], K[0, stay]
            K, K_flat, total, trial, views = workspace(len(stay))
            K[0] = slope

        h = t_next - t
        for i, row in enumerate(rows, 1):
            torch.mv(K_flat[:i].t(), row, out=total.view(-1))
            torch.addcmul(y, h[:, None], total, out=trial)
            slopes(views, K[i])

        torch.mv(K_flat.t(), error_row, out=total.view(-1))
        scale = torch.maximum(y.abs(), trial.abs()).mul_(rtol).add_(atol)
        error = torch.linalg.vector_norm(total.div_(scale), dim=1).mul_(h).div_(sqrt(D))
        # An infinite state would make the scaled error zero: look at the scale as well.
        finite = (error + scale.amax(1)).isfinite()
        error.masked_fill_(~finite, inf)
        accept = error <= 1.0
        t_new = torch.where(accept, t_next, t)

        cursor_new = torch.searchsorted(times, t_new, right=True)
        fresh = cursor_new - cursor
        if bool(fresh.any()):
            # One row per output: whose it is, which time, and where in that system's step.
            owner = torch.repeat_interleave(fresh)
            slot = torch.arange(len(owner), device=y.device)
            slot += (cursor_new - fresh.cumsum(0))[owner]
            theta = (times[slot] - t[owner]) / h[owner]
            weights = h[owner] * (_hermite_basis(theta) @ hermite_rows).t()
            inside = (weights[:, :, None] * K[:, owner]).sum(0).add_(y[owner])
            result[slot, live[owner]] = inside

        taken = accept[:, None]
        torch.where(taken, trial, y, out=y)
        torch.where(taken, K[6], K[0], out=K[0])
        accepted += accept
        t, cursor = t_new, cursor_new
        # The error goes as h^5; 0.9 is for safety, the limits keep one odd step harmless.
        h = error.pow_(-0.2).mul_(0.9).clamp_(0.2, 10.0).mul_(h)

    states = split(result)
    states = states if paired else states[0]
    return Solution(states, status, steps, rejections, reached, evaluations)
