"""Two frozen layers with LoRA on each: ``(1/2) ||shift - F||^2``, ``F = (W2 + B2 A2)(W1 + B1 A1) - W2 W1``.

The target of fine-tuning is ``W2 W1 + shift``.  Written out, ``F = W2 B1 A1 + B2 A2 W1 + B2 A2 B1 A1``,
and only this form is used: the product minus ``W2 W1`` would lose every digit of a small update.
The gradient flow is ``dB1/dt = G1 A1^T``, ``dA1/dt = B1^T G1`` and the same for layer 2, with
``G1 = (W2 + B2 A2)^T (shift - F)`` and ``G2 = (shift - F)(W1 + B1 A1)^T``.

Not here: random problems (``planted``), the solution (``dynamics``) and what is read off it (``observables``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from lorabook import checks


@dataclass(frozen=True)
class TwoLayer:
    """Frozen weights ``W1 (..., h, n)``, ``W2 (..., m, h)`` and the ``shift (..., m, n)`` to be learnt."""

    W1: torch.Tensor
    W2: torch.Tensor
    shift: torch.Tensor

    def __post_init__(self):
        for name in ("W1", "W2", "shift"):
            checks.matrix(getattr(self, name), name)
        (h, n), (m, inner), came = self.W1.shape[-2:], self.W2.shape[-2:], tuple(self.shift.shape[-2:])
        if inner != h:
            raise ValueError(f"W2 {(m, inner)} and W1 {(h, n)} do not multiply: hidden sizes {inner} and {h} differ.")
        if came != (m, n):
            raise ValueError(f"shift must have the shape {(m, n)} of W2 W1; got {came}.")
        checks.batch(**{name: getattr(self, name).shape[:-2] for name in ("W1", "W2", "shift")})

    @property
    def batch(self) -> torch.Size:
        return torch.broadcast_shapes(self.W1.shape[:-2], self.W2.shape[:-2], self.shift.shape[:-2])


class Factors(NamedTuple):
    """LoRA's factors, ``B1 (..., h, r)``, ``A1 (..., r, n)``, ``B2 (..., m, r)``, ``A2 (..., r, h)``.

    Along a trajectory the times stand first.  The last three fields are the integrator's report,
    one entry per system (see :class:`lorabook.flow.Solution`), or None where nothing was integrated.
    """

    B1: torch.Tensor
    A1: torch.Tensor
    B2: torch.Tensor
    A2: torch.Tensor
    status: torch.Tensor | None = None
    steps: torch.Tensor | None = None
    rejections: torch.Tensor | None = None


def fitting(problem: TwoLayer, factors) -> None:
    """Raise ValueError unless the factors are float64 and fit the problem.  NaN passes: a solve may have failed."""
    for name in ("B1", "A1", "B2", "A2"):
        part = getattr(factors, name, None)
        if not isinstance(part, torch.Tensor) or part.dtype != torch.float64 or part.ndim < 2:
            known = isinstance(part, torch.Tensor)
            came = f"{part.dtype} of shape {tuple(part.shape)}" if known else type(part).__name__
            raise ValueError(f"{name} must be a float64 tensor (..., rows, columns); got {came}.")
    (m, h), n, r = problem.W2.shape[-2:], problem.W1.shape[-1], factors.A1.shape[-2]
    for name, wanted in (("B1", (h, r)), ("A1", (r, n)), ("B2", (m, r)), ("A2", (r, h))):
        came = tuple(getattr(factors, name).shape)
        if came[-2:] != wanted:
            rows, columns = wanted
            raise ValueError(f"{name} must be (..., {rows}, {columns}) for this problem and rank {r}; got {came}.")
    leads = {name: getattr(factors, name).shape[:-2] for name in ("B1", "A1", "B2", "A2")}
    checks.batch(problem=problem.batch, **leads)


class Terms(NamedTuple):
    """The three parts of the update F, each (..., m, n)."""

    first: torch.Tensor  # W2 B1 A1
    second: torch.Tensor  # B2 A2 W1
    cross: torch.Tensor  # B2 A2 B1 A1


def terms(problem: TwoLayer, factors) -> Terms:
    """The three ways of fitting the shift: ``W2 B1 A1``, ``B2 A2 W1``, ``B2 A2 B1 A1``."""
    fitting(problem, factors)
    P1, P2 = factors.B1 @ factors.A1, factors.B2 @ factors.A2
    return Terms(problem.W2 @ P1, P2 @ problem.W1, P2 @ P1)


def update(problem: TwoLayer, factors) -> torch.Tensor:
    """F (..., m, n), the change of the product of the two layers."""
    fitting(problem, factors)
    P1, P2 = factors.B1 @ factors.A1, factors.B2 @ factors.A2
    return problem.W2 @ P1 + P2 @ (problem.W1 + P1)


def loss(problem: TwoLayer, factors) -> torch.Tensor:
    """``(1/2) ||shift - F||^2`` (...)."""
    return (problem.shift - update(problem, factors)).square().sum((-2, -1)) / 2


def velocity(state, W1, W2, shift, gain=1.0, clock=1.0):
    """Right-hand side of the gradient flow, for factors divided by ``sqrt(gain)``, per unit of ``clock``.

    Args:
        state: ``(B1, A1, B2, A2)``, each (S, rows, columns).
        W1, W2, shift: (S, ...) each.
        gain: (S, 1, 1), square of the unit in which the factors are measured.
        clock: (S, 1, 1), flow time per unit of the integration variable.

    Returns:
        the four time derivatives.  Autograd of :func:`loss` gives the same, with a minus sign.
    """
    B1, A1, B2, A2 = state
    P1, P2 = gain * (B1 @ A1), gain * (B2 @ A2)
    V1, V2 = W1 + P1, W2 + P2
    residual = clock * (shift - W2 @ P1 - P2 @ V1)
    G1, G2 = V2.mT @ residual, residual @ V1.mT
    return G1 @ A1.mT, B1.mT @ G1, G2 @ A2.mT, B2.mT @ G2


class Mode(NamedTuple):
    """A rank-one shift ``sigma u v^T`` and what the two layers see of it."""

    sigma: torch.Tensor  # (...)
    u: torch.Tensor  # (..., m)
    v: torch.Tensor  # (..., n)
    p: torch.Tensor  # (..., h) unit vector along W2^T u
    q: torch.Tensor  # (..., h) unit vector along W1 v
    s1: torch.Tensor  # (...) sigma ||W2^T u||
    s2: torch.Tensor  # (...) sigma ||W1 v||


def mode(problem: TwoLayer) -> Mode:
    """Split a rank-one shift.

    Raises:
        ValueError: the shift is zero or its rank is above one, or neither layer can see it.
    """
    U, s, Vh = principal(problem.shift)
    if not checks.is_fake(s):
        # 1e-12: the second singular value of a rank-one product is rounding, near 1e-16 of the first
        if s.shape[-1] > 1 and bool((s[..., 1] > 1e-12 * s[..., 0]).any()):
            ratio = (s[..., 1] / s[..., 0]).max().item()
            raise ValueError(f"shift must have rank one here; its second singular value is {ratio:.2g} of the first.")
    u, v, sigma = U[..., 0], Vh[..., 0, :], s[..., 0]
    left = (problem.W2.mT @ u[..., None])[..., 0]
    right = (problem.W1 @ v[..., None])[..., 0]
    size1, size2 = left.norm(dim=-1), right.norm(dim=-1)
    if not checks.is_fake(s) and bool(((size1 == 0) & (size2 == 0)).any()):
        raise ValueError(
            "W2^T u and W1 v are both zero: neither layer's weights pass the shift on, so no adapter grows."
        )
    tiny = torch.finfo(s.dtype).tiny
    p, q = left / size1.clamp(min=tiny)[..., None], right / size2.clamp(min=tiny)[..., None]
    return Mode(sigma, u, v, p, q, sigma * size1, sigma * size2)


def principal(shift: torch.Tensor):
    """Singular value decomposition of a shift that has a direction.

    Raises:
        ValueError: the shift is zero.
    """
    found = torch.linalg.svd(shift, full_matrices=False)
    if not checks.is_fake(shift) and bool((found.S[..., 0] == 0).any()):
        raise ValueError("shift is zero: there is nothing to learn.")
    return found


def selected(problem: TwoLayer) -> Mode:
    """The mode as layer 1 learns it; ValueError if layer 1 cannot, since W2^T u is zero."""
    seen = mode(problem)
    if not checks.is_fake(seen.s1) and bool((seen.s1 == 0).any()):
        raise ValueError("W2^T u is zero: W2 does not pass the shift on, so layer 1 cannot be the one that learns it.")
    return seen


def growth_rates(problem: TwoLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """Rates ``(s1, s2) = (sigma ||W2^T u||, sigma ||W1 v||)`` at which the two adapters grow from a small start.

    Args:
        problem: with ``shift = sigma u v^T`` of rank one.

    Returns:
        two tensors (...), per unit of flow time.  The larger one decides which adapter learns the shift.

    Source: ours; with isotropic weights they are the talk's ``sigma sigma_W2`` and ``sigma sigma_W1``.
    Error: relative rounding.

    Raises:
        ValueError: a shift of zero or of rank above one, or weights that do not pass it on at all.
    """
    seen = mode(problem)
    return seen.s1, seen.s2
