"""The growth phase in closed form, and the two numbers it leaves behind: plateau and tail.

Once layer 1 leads, isotropic weights leave ``f = sigma_w b a`` with ``b' = sigma_w (sigma - f) a``,
``a' = sigma_w (sigma - f) b`` from ``b = 0``, ``a = |a0|``.  In the time ``sigma_w^2 t`` this is one mode of
the plain low-rank problem with singular value ``sigma / sigma_w``, so one routine serves both:
:func:`lorabook.riccati.mode_product`, on top of :func:`lorabook.riccati.exchange`.

Both layers are driven by the same residual, so until the growth phase their exponents keep the ratio
``s2 / s1``; that gives the scale at which the losing adapter stops.
"""

from __future__ import annotations

import torch

from lorabook import checks, riccati
from lorabook.mallada.dynamics import checked_start, increasing
from lorabook.mallada.problem import TwoLayer, fitting, selected


def scalar_product(times, sigma, sigma_w, a0_squared) -> torch.Tensor:
    """The product ``b a`` of the scalar dynamics, from ``b = 0`` and ``a^2 = a0_squared``.

    The singular value of the update is ``sigma_w * scalar_product`` and the loss
    ``(sigma - sigma_w * scalar_product)^2 / 2``; the product rises from 0 to ``sigma / sigma_w``.

    Args:
        times: (T,) increasing flow times (learning_rate x steps), >= 0, however large.
        sigma: (...) size of the shift, > 0.
        sigma_w: (...) the weights' ``||W2^T u||``, > 0.
        a0_squared: (...) ``|A1(0) v|^2`` for layer 1, of any rank, > 0.

    Returns:
        (T, ...) float64.  Error: relative 1e-13.

    Source: the talk's ``(1/2)(sigma - sigma_W2 sigma_B1 sigma_A1)^2``; the closed form is not on the slides.

    Raises:
        ValueError: a number that is not positive, NaN, shapes that do not broadcast, times that are negative or do not
            increase.
    """
    sigma, sigma_w, size = _positive(sigma=sigma, sigma_w=sigma_w, a0_squared=a0_squared)
    times = increasing(times, size).reshape(-1, *[1] * size.ndim)
    return riccati.mode_product(sigma / sigma_w, size, sigma_w**2 * times)


def half_time(sigma, sigma_w, a0_squared) -> torch.Tensor:
    """Time (...) at which half is learnt; from small starts ``log(4 sigma / (sigma_w |a0|^2)) / (2 sigma sigma_w)``."""
    sigma, sigma_w, size = _positive(sigma=sigma, sigma_w=sigma_w, a0_squared=a0_squared)
    return riccati.time_to_residual(sigma / sigma_w, size, sigma / (2 * sigma_w)) / sigma_w**2


def losing_size(problem: TwoLayer, A1: torch.Tensor, A2: torch.Tensor) -> torch.Tensor:
    """Scale (...) of the final ``||B2 A2||`` when layer 1 learns: ``(|b0|^2 / 2) sinh(d asinh(2 sigma / (||W2^T u||
    |a0|^2)))``.

    With ``a0 = A1 v``, ``b0 = A2 q``, ``d = s2 / s1``: of order ``alpha^(2 (1 - d))``.

    Holds when: d < 1 and the start is small.
    Error: a factor that settles as the start shrinks.  It comes from the growth phase, where layer 2 also
        sees B1 A1, of size sigma / sigma_W2.  It is of order 1 for sigma <= sigma_W2^2 and grows about like
        exp(sigma / sigma_W2^2) beyond.  There "small start" means alpha^(2 (1 - d)) small against exp(-sigma /
        sigma_W2^2).

    Raises:
        ValueError: shapes that do not fit, a shift of rank above one, or W2^T u = 0, so that layer 1 cannot learn.
    """
    A1, A2, _ = checked_start(problem, A1, A2)
    seen = selected(problem)
    a = (A1 @ seen.v[..., None]).square().sum((-2, -1))
    b = (A2 @ seen.q[..., None]).square().sum((-2, -1))
    reach = torch.asinh(2 * seen.sigma**2 / (seen.s1 * a))
    return b / 2 * torch.sinh(seen.s2 / seen.s1 * reach)


def tangent_kernel(problem: TwoLayer, factors) -> torch.Tensor:
    """K (..., mn, mn) with ``d vec(F)/dt = K vec(shift - F)``; row-major vec.

    The loss decays at rates between ``2 lambda_min(K)`` and ``2 lambda_max(K)``.

    Raises:
        ValueError: factors that do not fit.
    """
    fitting(problem, factors)
    B1, A1, B2, A2 = factors[:4]
    V1, V2 = problem.W1 + B1 @ A1, problem.W2 + B2 @ A2
    pairs = (
        (V2 @ V2.mT, A1.mT @ A1),
        (V2 @ B1 @ B1.mT @ V2.mT, None),
        (None, V1.mT @ A2.mT @ A2 @ V1),
        (B2 @ B2.mT, V1.mT @ V1),
    )
    m, n = problem.shift.shape[-2:]

    def eye(size):
        return torch.eye(size, dtype=A1.dtype, device=A1.device)

    first, *others = (
        _kron(eye(m) if left is None else left, eye(n) if right is None else right) for left, right in pairs
    )
    return sum(others, first)


def _kron(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    product = left[..., :, None, :, None] * right[..., None, :, None, :]
    m, n = left.shape[-1], right.shape[-1]
    return product.reshape(*product.shape[:-4], m * n, m * n)


def _positive(**numbers):
    """The numbers as float64 tensors of one shape on one device."""
    tensors = [checks.number(number, name, positive=True) for name, number in numbers.items()]
    checks.batch(**{name: tensor.shape for name, tensor in zip(numbers, tensors, strict=True)})
    home = next((t.device for t in tensors if t.ndim), tensors[0].device)
    return torch.broadcast_tensors(*(t.to(home) for t in tensors))
