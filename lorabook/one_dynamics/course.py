"""The course of training after the early phase: one mode in closed form, and six starts on one problem.

A single mode ``b' = clock (c - b a) a``, ``a' = clock (c - b a) b`` is :func:`lorabook.riccati.exchange` in the time
``clock t``; the chapter's table says what c and clock are in each source.

Not here: what is selected (``races``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lorabook import checks, flow, kim, lora_one, riccati, rushka
from lorabook.device import normal


def factor_flow(
    forces: Callable, B0: Tensor, A0: Tensor, times, rtol: float = 1e-12, atol: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Flow of two factors under ``forces(B, A) -> (dB/dt, dA/dt)``: B (T, S, m, r), A (T, S, r, n) at increasing times.

    Raises:
        RuntimeError: a system that did not arrive.
    """
    B0, A0 = torch.broadcast_to(B0, (*A0.shape[:-2], *B0.shape[-2:])), A0
    run = flow.integrate(
        lambda state: forces(*state), (B0.contiguous(), A0.contiguous()), checks.times(times, B0), rtol, atol
    )
    if bool((run.status != flow.DONE).any()):
        raise RuntimeError(f"{int((run.status != flow.DONE).sum())} of {len(run.status)} systems did not arrive.")
    return run.states


def regression_flow(problem: lora_one.Regression, B0: Tensor, A0: Tensor, times, **tolerances) -> tuple[Tensor, Tensor]:
    """:func:`factor_flow` of LoRA-One's loss, its gradient descent in the limit of small steps."""
    return factor_flow(partial(lora_one.forces, problem), B0, A0, times, **tolerances)


def landscape_flow(problem, B0: Tensor, A0: Tensor, times, **tolerances) -> tuple[Tensor, Tensor]:
    """:func:`factor_flow` of Kim, Kim & Ryu's factored objective, a loss of theirs with weight decay."""

    def forces(B, A):
        return tuple(-gradient for gradient in kim.landscape.factored_gradient(problem, B, A))

    return factor_flow(forces, B0, A0, times, **tolerances)


def learnt(target, x0, times, y0=0.0, clock=1.0) -> Tensor:
    """Share ``b a / c`` of one mode that is learnt: ``b' = clock (c - b a) a``, ``a' = clock (c - b a) b`` from ``(y0,
    x0)``.

    Args:
        target: (...) c, not 0.  x0: (...) start of a.  times: (T,) flow times.  y0: (...) start of b.
        clock: (...) time of the exchange per unit of flow time.

    Returns:
        (T, ...) shares from ``y0 x0 / c`` towards 1.

    Source: the rows of the chapter's table.  Error: absolute 1e-13.
    """
    c, x0, y0, clock = torch.broadcast_tensors(*checks.together(target, x0, y0, clock))
    for name, value in (("target", c), ("x0", x0), ("y0", y0), ("clock", clock)):
        checks.finite(value, name)
    if not checks.is_fake(c) and bool((c == 0).any()):
        raise ValueError("The target of a mode is 0: a share of it means nothing.")
    times = checks.times(times, c).reshape(-1, *[1] * c.ndim)
    return 1 - riccati.exchange(c, (x0 + y0) ** 2, (x0 - y0) ** 2, clock * times).residual / c


def six_starts(problem: lora_one.Regression, rank: int, size: float, large: float, source: torch.Generator) -> dict:
    """The starts of the sources on one problem, name -> (B0 (d, r), A0 (r, k)).

    Args:
        size: standard deviation of the Gaussian entries, norm of the spectral rows, largest norm in the small gradient
            start.
        large: standard deviation of both factors of the large start.
    """
    checks.positive(size, "size"), checks.positive(large, "large")
    (d, k), where = problem.shift.shape[-2:], problem.shift.device
    G = lora_one.negative_gradient(problem)
    rows, columns = normal((rank, k), source, where), normal((d, rank), source, where)
    largest = float(torch.linalg.matrix_norm(G, 2))
    return {
        "zero B": (torch.zeros_like(columns), size * rows),
        "zero A": (size * columns, torch.zeros_like(rows)),
        "spectral": rushka.spectral_start(problem.shift, size * torch.ones(rank, dtype=G.dtype, device=where)),
        "gradient, small": lora_one.spectral_init(G, rank, size**2 / largest),
        "gradient": lora_one.spectral_init(G, rank),
        "large": (large * columns, large * rows),
    }
