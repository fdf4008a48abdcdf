"""The course of training after the early phase: one mode in closed form, six starts on one problem, three races.

A single mode ``b' = clock (c - b a) a``, ``a' = clock (c - b a) b`` is :func:`lorabook.riccati.exchange` in the time
``clock t``; the chapter's table says what c and clock are in each source.

A race is a run in which the gradient at the start favours one candidate, and a naive rule another: of two adapters
(Xu et al.), two subspaces (LoRA-One), two minima (Kim, Kim & Ryu).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks, flow, kim, lora_one, mallada, riccati, rushka
from lorabook.device import normal


def factor_flow(forces: Callable, B0: Tensor, A0: Tensor, times, rtol: float = 1e-12, atol: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Flow of two factors under ``forces(B, A) -> (dB/dt, dA/dt)``: B (T, S, m, r), A (T, S, r, n) at increasing times.

    Raises:
        RuntimeError: a system that did not arrive.
    """
    B0, A0 = torch.broadcast_to(B0, (*A0.shape[:-2], *B0.shape[-2:])), A0
    run = flow.integrate(lambda state: forces(*state), (B0.contiguous(), A0.contiguous()), checks.times(times, B0), rtol, atol)
    if bool((run.status != flow.DONE).any()):
        raise RuntimeError(f"{int((run.status != flow.DONE).sum())} of {len(run.status)} systems did not arrive.")
    return run.states


def regression_flow(problem: lora_one.Regression, B0: Tensor, A0: Tensor, times, **tolerances) -> tuple[Tensor, Tensor]:
    """:func:`factor_flow` of LoRA-One's loss, its gradient descent in the limit of small steps."""
    return factor_flow(lambda *at: regression_forces(problem, *at), B0, A0, times, **tolerances)


def regression_forces(problem: lora_one.Regression, B: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """``(J A^T, B^T J)`` with ``J = -grad_W L(W + B A)``, (..., d, r) and (..., r, k)."""
    J = lora_one.negative_gradient(problem, B, A)
    return J @ A.mT, B.mT @ J


def learnt(target, x0, times, y0=0.0, clock=1.0) -> Tensor:
    """Share ``b a / c`` of one mode that is learnt: ``b' = clock (c - b a) a``, ``a' = clock (c - b a) b`` from ``(y0, x0)``.

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
        size: standard deviation of the Gaussian entries, norm of the spectral rows, largest norm in the small gradient start.
        large: standard deviation of both factors of the large start.
    """
    for name, value in (("size", size), ("large", large)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {value!r}.")
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


class Race(NamedTuple):
    """How much of two candidates is learnt.  A naive rule favours the first; the gradient at the start favours the rival if ``pull > 1``."""

    times: Tensor  # (T,)
    first: Tensor  # (T, S) share of it that is learnt
    rival: Tensor  # (T, S)
    pull: float  # growth rate of the rival over that of the first

    def rival_leads(self) -> Tensor:
        """(S) 1 where the rival is ahead when either share first reaches one half, 0 where it is not, NaN where none does."""
        reached = torch.maximum(self.first, self.rival) >= 0.5
        at = reached.to(torch.int64).argmax(0, keepdim=True)
        ahead = (self.rival.gather(0, at) > self.first.gather(0, at))[0].to(self.first.dtype)
        return torch.where(reached.any(0), ahead, torch.nan)


def adapter_race(problem: mallada.TwoLayer, A1: Tensor, A2: Tensor, times) -> Race:
    """Xu et al.: adapter 1, which passes through a larger W2, against adapter 2; pulls ``||W2^T u||`` and ``||W1 v||``.

    Raises:
        ValueError: W2 is not the larger in norm, so that the naive rule does not favour adapter 1.
    """
    if not checks.is_fake(A1) and bool((problem.W2.norm(dim=(-2, -1)) <= problem.W1.norm(dim=(-2, -1))).any()):
        raise ValueError("W2 must be larger than W1 in norm: the naive rule has to favour adapter 1.")
    run = mallada.flow(problem, A1, A2, times, rtol=1e-8)
    shares = mallada.shares(problem, run)
    s1, s2 = mallada.growth_rates(problem)
    return Race(checks.times(times, A1), shares[..., 0], shares[..., 1], float((s2 / s1).mean()))


def subspace_race(singular, covariance, A0: Tensor, times) -> Race:
    """LoRA-One at rank one: the two directions of a shift ``diag(singular)``, seen through inputs of covariance ``diag(covariance)``.

    The gradient has the singular values ``covariance * singular``.  The best update of rank one, in contrast, takes the
    direction with the larger ``covariance * singular^2``.

    Args:
        singular, covariance: two numbers each, > 0; ``singular`` decreasing, as the naive rule goes by it.
        A0: (S, 1, 2) starts; B0 = 0.
        times: (T,) increasing flow times.
    """
    s, weight = (checks.number(values, "singular and covariance", A0) for values in (singular, covariance))
    if s.shape != (2,) or weight.shape != (2,) or bool((torch.cat([s, weight]) <= 0).any() | (s[1] >= s[0])):
        raise ValueError(f"singular and covariance must be two positive numbers each, singular decreasing; got {singular!r} and {covariance!r}.")
    # two rows sqrt(2 weight) e_i have the covariance diag(weight)
    problem = lora_one.Regression(torch.diag((2 * weight).sqrt()), torch.zeros_like(torch.diag(s)), torch.diag(s))
    B, A = regression_flow(problem, torch.zeros_like(A0.mT), A0, times, rtol=1e-8, atol=1e-12)
    shares = (B @ A).diagonal(dim1=-2, dim2=-1) / s
    return Race(checks.times(times, A0), shares[..., 0], shares[..., 1], float(weight[1] * s[1] / (weight[0] * s[0])))


def minimum_race(problem: kim.DecoyFamily, B0: Tensor, A0: Tensor, times) -> Race:
    """Kim, Kim & Ryu: the global minimum against the spurious one of the first decoy; the naive rule goes by the objective.

    Args:
        problem: pulls ``a + lambda`` and c at 0, each less the decay lambda.
        B0: (S, n, r).  A0: (S, r, n).  times: (T,) increasing flow times.
    """
    B, A = factor_flow(lambda B, A: tuple(-g for g in kim.factored_gradient(problem, B, A)), B0, A0, times, rtol=1e-8, atol=1e-12)
    shares = (B @ A).diagonal(dim1=-2, dim2=-1)
    return Race(checks.times(times, A0), shares[..., 0], shares[..., 1] / problem.size, (problem.c - problem.lam) / problem.a)
