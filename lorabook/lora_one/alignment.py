"""What Theorems 3.1 and 3.2 measure, and what the linear phase predicts for it.

In the linear phase the part of B inside G's leading left space grows like ``(1 + w s_r*)^t``, the rest of
B stays.  The first correction tilts the leading direction by ``alpha^2 (1 + w s_1)^{2t}``.  The best sine
sits where the two meet, ``alpha`` to the power ``2 l_r* / (2 l_1 + l_r*)`` with ``l_i = ln(1 + w s_i)`` and
``w = sqrt(step_B step_A)``; for small steps the exponent is ``2 / (2 kappa_G + 1)``.

Source: the exponents are ours; the slides print ``alpha = O(epsilon ...)`` and no ``ln(1/epsilon)`` in t*.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook import descent
from lorabook.linalg import truncate
from lorabook.lora_one.dynamics import Run, descend, row_leak
from lorabook.lora_one.problem import Regression, distance, negative_gradient


def growth_rates(problem: Regression, step: float) -> Tensor:
    """``l_i = ln(1 + step s_i(G))`` (..., r*), per iteration, largest first."""
    return torch.log1p(step * torch.linalg.svdvals(negative_gradient(problem))[..., : problem.rank])


def best_sine_exponent(rates: Tensor) -> Tensor:
    """``2 l_r* / (2 l_1 + l_r*)`` (...) from :func:`growth_rates`: the power of alpha in the best sine."""
    return 2 * rates[..., -1] / (2 * rates[..., 0] + rates[..., -1])


def printed_size(epsilon, d: int, kappa, norm: float = 1.0):
    """Theorem 3.2's start with constant 1: ``epsilon d^(-3 kappa / 4 - 1/2) ||G||^(1/2)``."""
    return epsilon * d ** (-0.75 * kappa - 0.5) * norm**0.5


def best_sine_law(alpha, d: int, rates: Tensor):
    """Best sine (...) up to a constant K at a fixed N / d, for ``||G|| = 1`` and ``rates`` (..., 2) of l_1 and l_r*.

    The sine falls like ``sqrt(d) e^(-l_r t)``, the nonlinear tilt grows like ``alpha^2 e^(2 l_1 t) sqrt(d / N)``; they
    meet at ``e^(-(2 l_1 + l_r) t) = alpha^2 / sqrt(d)``; for small steps at ``(alpha^2 d^kappa)^(1 / (2 kappa + 1))``.
    """
    return d**0.5 * (alpha**2 / d**0.5) ** (rates[..., 1] / (2 * rates[..., 0] + rates[..., 1]))


def border(d, kappa, K):
    """The smallest epsilon for which the printed start suffices, with K from :func:`best_sine_law`."""
    return K ** ((2 * kappa + 1) / (2 * kappa - 1)) * d ** (-(kappa + 2) / (2 * (2 * kappa - 1)))


def transfer(G: Tensor, rank: int, step: float, iterations: int, both: bool = True) -> Tensor:
    """``P_t`` (..., d, d) with ``B_t = P_t B_0`` in the linear phase from A = 0.

    Inside G's leading left space it is ``((1 + step S)^t + (1 - step S)^t) / 2``, outside the identity.
    ``both=False`` leaves the second power out.
    """
    U, s, _ = torch.linalg.svd(G, full_matrices=False)
    U, s = U[..., :rank], s[..., :rank]
    inside = ((1 + step * s) ** iterations + (1 - step * s) ** iterations * both) / 2
    return torch.eye(U.shape[-2], dtype=U.dtype, device=U.device) + (U * (inside - 1)[..., None, :]) @ U.mT


def offset_sine(gamma, smallest):
    """Sine to G's row space at which LoRA-GA with its offset stops, in the population: gamma / |(gamma, s_r*)|."""
    return gamma / (gamma**2 + smallest**2) ** 0.5


def best(sine: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest of the sines (R, S) over the run, and the iteration at which it stands; NaN counts as 1."""
    low, where = torch.nan_to_num(sine, nan=1.0).min(0)
    return low, at[where]


def first_change_distance(G: Tensor, B0: Tensor, A0: Tensor, rank: int) -> Tensor:
    """Relative distance (...) of ``G A0^T A0 + B0 B0^T G`` to the best approximation of G of that rank."""
    return distance(G @ A0.mT @ A0 + B0 @ (B0.mT @ G), truncate(G, rank))


def rules() -> dict[str, tuple]:
    """Name -> (rule, step factor, keeps the row space?) for the comparison of optimisers."""
    return {
        "gradient descent": (descent.plain, 1.0, True),
        "momentum": (descent.momentum(0.9), 0.1, True),
        "weight decay": (descent.decayed(0.1), 1.0, True),
        "preconditioned": (descent.preconditioned(1e-2), 1.0, True),
        "sign steps": (descent.signed, 0.02, False),
        "Adam": (descent.adam(), 0.05, False),
    }


def leaks(problem: Regression, B0: Tensor, A0: Tensor, step: float, iterations: int) -> dict[str, Tensor]:
    """Row leak (S) of the last A under every rule of :func:`rules`."""
    G, found = negative_gradient(problem), {}
    for name, (rule, factor, _) in rules().items():
        run: Run = descend(problem, B0, A0, factor * step, factor * step, iterations, rule=rule, every=iterations)
        found[name] = row_leak(run.A, G, problem.rank)
    return found
