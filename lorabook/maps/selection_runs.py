"""Map on what all four sources share: how often the larger pull is learnt first, over the pulls' ratio and the start.

Each race is of rank one, and the rival's pull is the larger one; a naive rule favours the other candidate.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import bisect
from torch import Tensor

from lorabook import flow, kim, mallada
from lorabook.device import DTYPE, generator, normal
from lorabook.maps import kim_runs
from lorabook.maps.chart import Axis, Chart, Panel, log_half_normal

DECOY = 10.0  # curvature of the decoy in the race of minima


def shares(kind: str, ratio: Tensor, A: Tensor, horizon: Tensor, times: int) -> Tensor:
    """Learnt shares (T, P, 2) of two candidates for P systems of rank one: starts A (P, 2) along these, B = 0.

    The horizon is each system's own; the times divide it evenly.
    """
    at = torch.linspace(1 / times, 1, times, dtype=A.dtype, device=A.device)
    if kind == "adapters":
        # W1 = I, W2 = diag(1 / ratio, 3), shift = e1 e1^T; adapter 2's start is along e1 too
        W2 = torch.diag_embed(torch.stack([1 / ratio, torch.full_like(ratio, 3.0)], -1))
        shift = torch.zeros_like(W2)
        shift[:, 0, 0] = 1
        problem = mallada.TwoLayer(torch.eye(2, dtype=A.dtype, device=A.device).expand_as(W2), W2, shift)
        off = torch.zeros_like(A[:, :1])
        A1, A2 = (torch.stack([part, off], -1) for part in A.split(1, -1))
        return mallada.shares(problem, mallada.flow(problem, A1, A2, at, rtol=1e-7, clock=horizon))[..., :2]
    if kind == "subspaces":
        weight = torch.stack([torch.ones_like(ratio), 2 * ratio], -1)[:, :, None]
        target = torch.diag(A.new_tensor([2.0, 1.0])).expand(len(A), 2, 2)
    else:
        return _minima(ratio, A, horizon, at)

    def velocity(state, weight, target, clock):
        B, A = state
        J = clock * weight * (target - B @ A)
        return J @ A.mT, B.mT @ J

    parameters = weight, target, horizon[:, None, None]
    B, A = flow.integrate(velocity, (A.new_zeros(len(A), 2, 1), A[:, None]), at, 1e-7, 1e-13, parameters).states
    return (B @ A / target.where(target > 0, 1.0)).diagonal(dim1=-2, dim2=-1)


def _minima(ratio: Tensor, A: Tensor, horizon: Tensor, at: Tensor) -> Tensor:
    """The same for truth and decoy of Kim, Kim & Ryu's family, with weight decay 1/10."""
    lam, index = 0.1, {each: k for k, each in enumerate(sorted(set(ratio.tolist())))}
    some = [kim.decoy_family(2, 1, 1.0, DECOY, each + lam, 11.0, lam, device=A.device) for each in index]
    which = torch.tensor([index[each] for each in ratio.tolist()], device=A.device)
    H, M = (torch.stack([getattr(one, name) for one in some])[which] for name in ("H", "M"))

    parameters = H, M, torch.full_like(horizon, lam)[:, None, None], horizon[:, None, None]
    B, A = flow.integrate(
        kim_runs.velocity, (A.new_zeros(len(A), 2, 1), A[:, None]), at, 1e-7, 1e-13, parameters
    ).states
    size = torch.stack([torch.ones_like(ratio), ratio / DECOY], -1)
    return (B @ A).diagonal(dim1=-2, dim2=-1) / size


def larger_pull(panel: Panel, alpha: Tensor, ratio: Tensor, draws: int) -> Tensor:
    """Share (X, Y) of draws in which the rival is ahead when a candidate is first half learnt."""
    A = normal((draws, 2), generator(6), ratio.device)
    X, Y = len(alpha), len(ratio)
    size, pull = alpha[:, None, None].expand(X, Y, draws), ratio[:, None].expand(X, Y, draws)
    reach = (size.log().neg() + 6) * (pull if panel.kind == "adapters" else 1.0)
    start = (size[..., None] * A).reshape(-1, 2)
    found = shares(panel.kind, pull.flatten(), start, reach.flatten(), 80)
    first = (found >= 0.5).any(-1).to(torch.int8).argmax(0, keepdim=True)[..., None].expand(1, -1, 2)
    at = found.gather(0, first)[0]
    return (at[:, 1] > at[:, 0]).to(DTYPE).reshape(X, Y, draws).mean(-1)


def larger_pull_border(panel: Panel, alpha: float) -> float:
    """The quotient of pulls from which the larger one comes first in nine of ten starts, by the linear phase alone.

    A candidate of pull g that starts at x has grown to order 1 at ``ln(1 / |x|) / g``.
    """
    wait = -math.log(alpha) - log_half_normal()
    share = lambda quotient: (wait[:, None] < quotient * wait).to(DTYPE).mean().item()
    return bisect(lambda quotient: 1.0 if share(quotient) >= 0.9 else -1.0, 1.0, 9.0)


CHARTS = (
    Chart(
        name="larger-pull",
        source="one_dynamics",
        says="the larger pull is learnt first in nine of ten draws",
        x=Axis("α", 1e-8, 1e-2, 6, 9),
        y=Axis("quotient of the pulls", 1.04, 2, 9, 17, log=False),
        panels=tuple(Panel(kind, 0.0, kind) for kind in ("adapters", "subspaces", "minima")),
        run=larger_pull,
        level=0.9,
        above=True,
        spread=0.2,
        ratio=False,
        draws=(100, 150),
        predicted=(larger_pull_border,),
        false=(lambda panel, alpha: larger_pull_border(panel, math.sqrt(alpha)),),
        unit=("1/ln(1/α)", lambda alpha: -1 / math.log(alpha)),  # a candidate grows e-fold in a time of 1 / g
    ),
)
