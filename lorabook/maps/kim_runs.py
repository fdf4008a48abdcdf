"""Maps on Kim, Kim & Ryu: for which decays, ranks and conditions a start beside their family's candidate is trapped."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorabook import flow, kim
from lorabook.device import generator, normal
from lorabook.maps.chart import Axis, Chart, Panel


def velocity(state, H: Tensor, M: Tensor, lam: Tensor, clock: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Flow of systems with their own loss, H (P, n^2, n^2) and M (P, n, n), decay (P, 1, 1) and clock."""
    G_B, G_A = kim.landscape.factored_gradient(kim.laboratory.Batch(H, M, lam), *state)
    return -clock * G_B, -clock * G_A


def follow(problems: list, B: Tensor, A: Tensor, horizon: float) -> Tensor:
    """Products (P, S, n, n) at the end of the flow with decay of P problems of one size from S starts each."""
    H, M = (torch.stack([getattr(one, name) for one in problems]) for name in ("H", "M"))
    lam = torch.tensor([one.lam for one in problems], dtype=H.dtype, device=H.device)
    P, S = B.shape[:2]
    spread = lambda x: x[:, None].expand(P, S, *x.shape[1:]).reshape(P * S, *x.shape[1:])

    start = B.flatten(0, 1).contiguous(), A.flatten(0, 1).contiguous()
    parameters = spread(H), spread(M), spread(lam[:, None, None])
    B, A = flow.integrate(velocity, start, [horizon], rtol=1e-6, atol=1e-9, parameters=parameters).states
    return (B @ A)[0].reshape(P, S, *M.shape[-2:])


def beside(problem, draws: int, size: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Starts (S, n, r), (S, r, n) beside the known candidate of a member of the family."""
    B, A = problem.spurious_factors()
    source = generator(4)
    return B + size * normal((draws, *B.shape), source, B.device), A + size * normal(
        (draws, *A.shape), source, B.device
    )


def stays(problems: list, draws: int) -> Tensor:
    """Share (P,) of starts beside the candidate that still have less than half of the truth after a long flow."""
    B, A = (torch.stack(x) for x in zip(*(beside(one, draws) for one in problems)))
    X = follow(problems, B, A, 400.0)
    return (X[..., 0, 0] < 0.5 * problems[0].solution[0, 0]).to(X.dtype).mean(-1)


def decay_trap(panel: Panel, rank: Tensor, lam: Tensor, draws: int) -> Tensor:
    """:func:`stays` (X, Y) on members with as many decoys as ranks; NaN where the decay is above their pull c."""
    found = torch.full((len(rank), len(lam)), torch.nan, dtype=lam.dtype, device=lam.device)
    for i, r in enumerate(map(int, rank.tolist())):
        low = [each for each in lam.tolist() if each < 0.98 * pull(r)]
        if low:
            some = [kim.decoy_family(r + 1, r, panel.value, 1.0, pull(r), 6.0, each, device=lam.device) for each in low]
            found[i, : len(low)] = stays(some, draws)
    return found


def pull(rank: float) -> float:
    """c of the members, so that the block of truth and decoys is as near to singular at every rank."""
    return 0.8 / math.sqrt(rank)


def decay_border(panel: Panel, rank: float) -> float:
    """The decay above which the candidate is no trap, ``c - a b / (r c + h)``."""
    return pull(rank) - panel.value / (rank * pull(rank) + 6.0)


def family_trap(panel: Panel, rank: Tensor, ratio: Tensor, draws: int) -> Tensor:
    """:func:`stays` (X, Y) on the member with alpha = 1 and beta = ratio that comes closest to having a trap."""
    found = []
    for r in map(int, rank.tolist()):
        some = [kim.laboratory.tightest(r, float(each), device=ratio.device) for each in ratio.tolist()]
        found.append(stays(some, draws))
    return torch.stack(found)


def zero_starts(panel: Panel, size: Tensor, rank: Tensor, draws: int) -> Tensor:
    """Share (X, Y) of zero starts that end without the truth where ``panel.value`` decoys pull twice as hard at 0."""
    decoys, found = int(panel.value), []
    n, b = decoys + 2, 5.0 * decoys
    problem = kim.decoy_family(n, 1, 1.0, b, 2.0, b + 1, 0.05, decoys=decoys, device=size.device)
    for r in map(int, rank.tolist()):
        A = size[:, None, None, None] * normal((draws, r, n), generator(8), size.device)
        X = follow([problem], A.new_zeros(1, len(size) * draws, n, r), A.flatten(0, 1)[None], 200.0)
        found.append((X[0, :, 0, 0] < 0.5).to(X.dtype).reshape(len(size), draws).mean(-1))
    return torch.stack(found, -1)


CHARTS = (
    Chart(
        name="decay-and-traps",
        source="kim",
        says="a start beside the family's candidate leaves it for the truth",
        x=Axis("rank r", 1, 5, 5, 8, log=False, whole=True),
        y=Axis("weight decay λ", 0.01, 0.76, 16, 51, log=False),
        panels=(Panel("a = 1", 1.0), Panel("a = 2", 2.0)),
        run=decay_trap,
        level=0.5,
        above=False,
        spread=0.5,
        ratio=False,
        draws=(4, 6),
        predicted=(decay_border,),
        false=(lambda panel, r: (decay_border(panel, r) + pull(r)) / 2,),
    ),
    Chart(
        name="family-trap",
        source="kim",
        says="no start beside the candidate stays there",
        x=Axis("rank r", 1, 6, 6, 8, log=False, whole=True),
        y=Axis("β / α", 1.5, 8, 20, 53, log=False),
        panels=(Panel("", 0.0),),
        run=family_trap,
        level=0.5,
        above=False,
        spread=0.5,
        ratio=False,
        draws=(4, 6),
        predicted=(lambda panel, r: 1 + 2 * math.sqrt(r),),
        false=(lambda panel, r: 2.0,),
    ),
    Chart(
        name="zero-starts",
        source="kim",
        says="most zero starts end at the global minimum",
        x=Axis("size of the start", 1e-4, 0.05, 5, 15),
        y=Axis("rank r", 1, 5, 5, 6, log=False, whole=True),
        panels=(Panel("2 decoys", 2), Panel("3 decoys", 3)),
        run=zero_starts,
        level=0.5,
        above=False,
        spread=0.5,
        ratio=False,
        draws=(12, 24),
        predicted=(lambda panel, size: panel.value + 0.5,),
        false=(lambda panel, size: panel.value - 0.5,),
    ),
)
