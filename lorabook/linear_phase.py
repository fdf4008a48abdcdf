"""The early-phase system that all four sources share.

To first order in the factors, the gradient flow of any loss ``f(W0 + B A)`` from a small start is
``dB/dt = G A^T``, ``dA/dt = B^T G`` with ``G = -grad f(W0)``.  With ``Z = [B; A^T]`` this reads
``dZ/dt = [[0, G], [G^T, 0]] Z`` and the singular value decomposition of G solves it with cosh and
sinh of ``s t``.  Gradient descent with step ``eta`` replaces ``exp(+-s t)`` by ``(1 +- eta s)^k``.

Not here: which G a source means, and how long its early phase lasts.
"""

from __future__ import annotations

import torch

from lorabook import checks


def propagate(G: torch.Tensor, B0: torch.Tensor, A0: torch.Tensor, times) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact solution of ``dB/dt = G A^T``, ``dA/dt = B^T G``.

    Args:
        G: (..., m, n) negative gradient at the start, float64.
        B0: (..., m, r).
        A0: (..., r, n).
        times: (T,) flow times (learning_rate x steps), >= 0, in any order.

    Returns:
        ``B (T, ..., m, r)`` and ``A (T, ..., r, n)``.

    Holds when: the products of the factors are still small against G's scale.
    Error: relative rounding; entries grow like ``exp(s_1 t)`` and are infinite or NaN once
    ``s_1 t`` exceeds 709, the range of float64.

    Raises:
        ValueError: shapes that do not fit, NaN, negative times.
    """
    checks.factors(B0, A0, G, "G")
    times = checks.times(times, G)

    def gains(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle = times.reshape(-1, *[1] * s.ndim) * s
        # cosh - 1 = 2 sinh^2(x / 2) keeps its accuracy for small times
        return 2 * torch.sinh(angle / 2) ** 2, torch.sinh(angle)

    return _solve(G, B0, A0, gains)


def iterate(
    G: torch.Tensor, B0: torch.Tensor, A0: torch.Tensor, learning_rate: float, steps
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same system under gradient descent: ``Z_{k+1} = (I + learning_rate H) Z_k``, in closed form.

    Args:
        G, B0, A0: as for :func:`propagate`.
        learning_rate: step of the descent, > 0.
        steps: (T,) numbers of steps k, >= 0.

    Returns:
        ``B (T, ..., m, r)`` and ``A (T, ..., r, n)`` after k simultaneous steps.

    Error: relative rounding times k.

    Raises:
        ValueError: as for :func:`propagate`, or a step that is not positive and finite, or a number of steps that is
            not whole.
    """
    checks.factors(B0, A0, G, "G")
    checks.positive(learning_rate, "learning_rate")
    steps = checks.times(steps, G, "steps")
    if not checks.is_fake(steps) and bool((steps != steps.round()).any()):
        raise ValueError(f"steps must be whole numbers; got {steps[steps != steps.round()][0].item():g}.")

    def gains(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        k = steps.reshape(-1, *[1] * s.ndim)
        up, down = (1 + learning_rate * s) ** k, (1 - learning_rate * s) ** k
        return (up + down) / 2 - 1, (up - down) / 2

    return _solve(G, B0, A0, gains)


def _solve(G, B0, A0, gains):
    """Apply ``even - 1`` and ``odd`` functions of G's singular values; what G cannot see stays as it is."""
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    # all leading dimensions in s, so that the times stand before every one of them
    s = s.expand(*torch.broadcast_shapes(G.shape[:-2], B0.shape[:-2], A0.shape[:-2]), -1)
    even, odd = (gain[..., None] for gain in gains(s))
    left, right = U.mT @ B0, Vh @ A0.mT
    B = B0 + U @ (even * left + odd * right)
    A = A0 + (Vh.mT @ (even * right + odd * left)).mT
    return B, A
