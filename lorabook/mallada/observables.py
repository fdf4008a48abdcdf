"""What the talk plots and bounds: singular triplets of F, alignment, imbalance, and their exact speeds.

Every speed is the derivative along the gradient flow itself, from its right-hand side; nothing is
differenced in time.  ``1 - cos`` is formed as half the squared distance of unit vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lorabook.mallada.problem import TwoLayer, fitting, loss, mode, principal, selected, terms, update, velocity


class Observation(NamedTuple):
    """One number (or one spectrum) per state; NaN where a quotient is 0/0, as at t = 0."""

    loss: torch.Tensor  # (...)
    sigma: torch.Tensor  # (..., k) singular values of F, largest first
    misalignment: torch.Tensor  # (...) 1 - cos((u1; v1), (u; v))
    imbalance: torch.Tensor  # (...) ||B1 A1||^2 / ||B2 A2||^2
    norm: torch.Tensor  # (...) ||F||


def observe(problem: TwoLayer, factors) -> Observation:
    """Loss, spectrum, alignment, imbalance and size of the update.

    Args:
        problem: its batch broadcasts with that of the factors.
        factors: anything with fields B1, A1, B2, A2; times and batch stand first.

    Returns:
        :class:`Observation`.  ``(u; v)`` is the first singular pair of the shift, ``(u1; v1)`` that of F,
        whose sign is turned jointly.  Norms are Frobenius norms; for an update of rank one they are the
        spectral norms of the talk.
        Error: relative rounding; the misalignment is accurate to 1e-30 where F's first singular value
        stands apart from the second.

    Raises:
        ValueError: factors that do not fit, a shift of zero.
    """
    F = update(problem, factors)
    u1, s, v1 = _first(F)
    gap = misalignment(u1, v1, *_target(problem))
    first, second = ((B @ A).square().sum((-2, -1)) for B, A in ((factors.B1, factors.A1), (factors.B2, factors.A2)))
    return Observation(loss(problem, factors), s, gap, first / second, F.norm(dim=(-2, -1)))


def misalignment(u1: torch.Tensor, v1: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``1 - cos`` (...) of the joint vectors (u1; v1) and (u; v) of unit vectors, after a joint choice of sign."""
    sign = torch.where((u1 * u).sum(-1) + (v1 * v).sum(-1) < 0, -1.0, 1.0)[..., None].to(u1.dtype)
    return ((sign * u1 - u).square().sum(-1) + (sign * v1 - v).square().sum(-1)) / 4


def one_sided(problem: TwoLayer, factors) -> tuple[torch.Tensor, torch.Tensor]:
    """``1 - |cos|`` (...) of u1 with u, and of v1 with v, each after its own choice of sign; NaN where F is 0.

    Where the two signs agree, :func:`misalignment` is the mean of the two.

    Raises:
        ValueError: as :func:`observe`.
    """
    u1, _, v1 = _first(update(problem, factors))
    u, v = _target(problem)
    return misalignment(u1, u1, u, u), misalignment(v1, v1, v, v)


def shares(problem: TwoLayer, factors) -> torch.Tensor:
    """Parts (..., 3) of ``sigma`` that W2 B1 A1, B2 A2 W1 and B2 A2 B1 A1 contribute along u v^T."""
    seen = mode(problem)
    parts = torch.stack(tuple(terms(problem, factors)), dim=-3)
    return (seen.u[..., None, None, :] @ parts @ seen.v[..., None, :, None])[..., 0, 0] / seen.sigma[..., None]


class Speeds(NamedTuple):
    """Exact derivatives along the flow, per unit of flow time."""

    norm_squared: torch.Tensor  # (...) d/dt ||F||^2
    log_imbalance: torch.Tensor  # (...) d/dt log(||B1 A1||^2 / ||B2 A2||^2), NaN at t = 0
    pair: torch.Tensor  # (..., m + n) d/dt (u1; v1)
    pair_now: torch.Tensor  # (..., m + n) (u1; v1), of length sqrt 2


def speeds(problem: TwoLayer, factors) -> Speeds:
    """How fast the update grows, the adapters part, and the first singular pair turns.

    The pair is an eigenvector of the dilation ``[[0, F], [F^T, 0]]``, so first-order perturbation theory
    gives its speed; it needs a gap between the first two singular values of F.

    Raises:
        ValueError: as :func:`observe`.
    """
    fitting(problem, factors)
    state = (factors.B1, factors.A1, factors.B2, factors.A2)
    dB1, dA1, dB2, dA2 = velocity(state, problem.W1, problem.W2, problem.shift)
    P1, P2 = factors.B1 @ factors.A1, factors.B2 @ factors.A2
    dP1, dP2 = dB1 @ factors.A1 + factors.B1 @ dA1, dB2 @ factors.A2 + factors.B2 @ dA2
    F = problem.W2 @ P1 + P2 @ (problem.W1 + P1)
    dF = problem.W2 @ dP1 + dP2 @ (problem.W1 + P1) + P2 @ dP1

    def rate(P, dP):
        return 2 * (P * dP).sum((-2, -1)) / P.square().sum((-2, -1))

    values, vectors = torch.linalg.eigh(_dilation(F))
    top, rest = vectors[..., -1], vectors[..., :-1]
    gaps = values[..., -1:] - values[..., :-1]
    turned = (rest.mT @ (_dilation(dF) @ top[..., None]))[..., 0] / gaps
    along = (top * torch.cat(_target(problem), dim=-1)).sum(-1, keepdim=True)
    sign = torch.where(along < 0, -1.0, 1.0).to(top.dtype) * 2**0.5
    turn = (rest @ turned[..., None])[..., 0]
    return Speeds(2 * (F * dF).sum((-2, -1)), rate(P1, dP1) - rate(P2, dP2), sign * turn, sign * top)


def printed_turn(problem: TwoLayer, pair: torch.Tensor) -> torch.Tensor:
    """The talk's speed of the pair, ``sigma sigma_W2 P (u; v)`` with ``P = I - gamma gamma^T / |gamma|^2``.

    Args:
        pair: (..., m + n) the joint vector gamma = (u1; v1).
    """
    seen = mode(problem)
    target = torch.cat([seen.u, seen.v], dim=-1)
    along = (pair * target).sum(-1, keepdim=True) / pair.square().sum(-1, keepdim=True)
    return seen.s1[..., None] * (target - along * pair)


def right_turn(problem: TwoLayer, pair: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The speed that holds for isotropic weights once layer 1 leads: u1 rests and v1 turns.

    ``du1/dt = 0`` and ``dv1/dt = s1 tanh(s1 t) cos(angle) (I - v1 v1^T) v``, with the angle of v1 to v.
    """
    seen = mode(problem)
    v1 = pair[..., seen.u.shape[-1] :]
    cosine = (v1 * seen.v).sum(-1, keepdim=True)
    pace = seen.s1 * torch.tanh(seen.s1 * times.reshape(-1, *[1] * (pair.ndim - 2)))
    turn = pace[..., None] * cosine * (seen.v - cosine * v1)
    return torch.cat([torch.zeros_like(pair[..., : seen.u.shape[-1]]), turn], dim=-1)


def general_alignment(problem: TwoLayer) -> torch.Tensor:
    """The misalignment (...) at which stage one stops when layer 1 leads: 1 - cos of (W2 W2^T u; v) and (u; v).

    It is 0 if and only if u is a left singular vector of W2.

    Raises:
        ValueError: a shift of zero or of rank above one, or W2^T u = 0.
    """
    seen = selected(problem)
    left = (problem.W2 @ seen.p[..., None])[..., 0]
    return misalignment(left / left.norm(dim=-1, keepdim=True), seen.v, seen.u, seen.v)


def _dilation(F: torch.Tensor) -> torch.Tensor:
    m, n = F.shape[-2:]
    H = F.new_zeros(*F.shape[:-2], m + n, m + n)
    H[..., :m, m:], H[..., m:, :m] = F, F.mT
    return H


def _first(F: torch.Tensor):
    """u1, the singular values and v1 of F; NaN where F is 0 or not finite, as after a solve that failed."""
    lost = ~F.isfinite().all(-1).all(-1)[..., None]
    U, s, Vh = torch.linalg.svd(torch.where(lost[..., None], 0.0, F), full_matrices=False)
    still = lost | (s[..., :1] == 0)
    return (
        torch.where(still, torch.nan, U[..., 0]),
        torch.where(lost, torch.nan, s),
        torch.where(still, torch.nan, Vh[..., 0, :]),
    )


def _target(problem: TwoLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """First singular pair (u, v) of the shift."""
    target = principal(problem.shift)
    return target.U[..., 0], target.Vh[..., 0, :]
