"""Races: which of two candidates a small start learns first.

In a race the gradient at the start favours one candidate, and a naive rule another: of two adapters (Xu et al.), two
subspaces (LoRA-One), two minima (Kim, Kim & Ryu).  The pull of a candidate is its growth rate while the factors are
small.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook import checks, kim, lora_one, mallada
from lorabook.device import DTYPE, default_device, generator, normal
from lorabook.one_dynamics.course import landscape_flow, regression_flow

KINDS = ("adapters", "subspaces", "minima")


class Race(NamedTuple):
    """How much of two candidates is learnt: a naive rule favours the first, the gradient the rival if ``pull > 1``."""

    times: Tensor  # (T,)
    first: Tensor  # (T, S) share of it that is learnt
    rival: Tensor  # (T, S)
    pull: float  # growth rate of the rival over that of the first

    def rival_leads(self) -> Tensor:
        """(S) 1 where the rival is ahead when a share first reaches one half, 0 where not, NaN where none does."""
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
    """LoRA-One at rank one: the two directions of a shift ``diag(singular)``, seen through inputs of covariance
    ``diag(covariance)``.

    The gradient has the singular values ``covariance * singular``.  The best update of rank one, in contrast, takes the
    direction with the larger ``covariance * singular^2``.

    Args:
        singular, covariance: two numbers each, > 0; ``singular`` decreasing, as the naive rule goes by it.
        A0: (S, 1, 2) starts; B0 = 0.
        times: (T,) increasing flow times.
    """
    s, weight = (checks.number(values, "singular and covariance", A0) for values in (singular, covariance))
    if s.shape != (2,) or weight.shape != (2,) or bool((torch.cat([s, weight]) <= 0).any() | (s[1] >= s[0])):
        raise ValueError(
            f"singular and covariance must be two positive numbers each, singular decreasing; got {singular!r} "
            f"and {covariance!r}."
        )
    # two rows sqrt(2 weight) e_i have the covariance diag(weight)
    problem = lora_one.Regression(torch.diag((2 * weight).sqrt()), torch.zeros_like(torch.diag(s)), torch.diag(s))
    B, A = regression_flow(problem, torch.zeros_like(A0.mT), A0, times, rtol=1e-8, atol=1e-12)
    shares = (B @ A).diagonal(dim1=-2, dim2=-1) / s
    return Race(checks.times(times, A0), shares[..., 0], shares[..., 1], float(weight[1] * s[1] / (weight[0] * s[0])))


def minimum_race(problem: kim.problem.DecoyFamily, B0: Tensor, A0: Tensor, times) -> Race:
    """Kim, Kim & Ryu: the global minimum against the spurious one of the first decoy; the naive rule goes by the
    objective.

    Args:
        problem: pulls ``a + lambda`` and c at 0, each less the decay lambda.
        B0: (S, n, r).  A0: (S, r, n).  times: (T,) increasing flow times.
    """
    B, A = landscape_flow(problem, B0, A0, times, rtol=1e-8, atol=1e-12)
    shares = (B @ A).diagonal(dim1=-2, dim2=-1)
    return Race(
        checks.times(times, A0), shares[..., 0], shares[..., 1] / problem.size, (problem.c - problem.lam) / problem.a
    )


def staged_race(kind: str, pull: float, size: float, n: int, rank: int, draws: int, decay: float, seed: int) -> Race:
    """One race from Gaussian starts: the naive rule favours the first candidate, the rival's pull is ``pull`` times the
    first's.

    Args:
        kind: one of ``KINDS``; adapters of rank ``rank`` next to n x n weights, subspaces of the plane, or minima of n
            x n matrices.
        pull: > 0.
        size: > 0, standard deviation of the starts; the same seed has the same draws at every pull and size.
        n: >= 2.  rank: of the adapters.  draws: S.  decay: of the race of minima.

    Returns:
        :class:`Race` over 120 times, long enough for the slower candidate to arrive.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    checks.positive(pull, "pull"), checks.positive(size, "size")
    checks.count(n, "n", 2), checks.count(rank, "rank", 1), checks.count(draws, "draws", 1)
    source = generator(seed)
    # the slower rate is min(1, pull); what ln(1 / size) leaves of a candidate, eight more units finish
    reach = (math.log(1 / min(size, 0.5)) + 8) / min(1, pull)

    def until(end, first=0.0):
        return torch.linspace(first, end, 120, dtype=DTYPE, device=default_device())

    if kind == "adapters":
        plain = mallada.isotropic((n, n, n), source, 1.0, 1.0, 1.0, count=draws)
        u = mallada.mode(plain).u[..., None]
        # ||W2^T u|| = 1 / pull, and 3 in all other directions, so that W2 is the larger in norm
        W2 = (3 * torch.eye(n, dtype=u.dtype, device=u.device) + (1 / pull - 3) * u @ u.mT) @ plain.W2
        A1, A2 = (size * normal((draws, rank, n), source) for _ in range(2))
        return adapter_race(mallada.TwoLayer(plain.W1, W2, plain.shift), A1, A2, until(reach * max(1, pull), 0.1))
    if kind == "subspaces":
        return subspace_race([2.0, 1.0], [1.0, 2 * pull], size * normal((draws, 1, 2), source), until(reach / 2))
    A0 = size * normal((draws, 1, n), source)
    problem = kim.decoy_family(n, 1, 1.0, 10.0, pull + decay, 11.0, decay, decoys=1, device=A0.device)
    return minimum_race(problem, torch.zeros_like(A0.mT), A0, until(reach))
