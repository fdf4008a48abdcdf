"""Methods of the table and how they train: every one is a start, a rule and one learning rate.

The update is ``B A`` on each of the open matrices; the forces are ``G A^T`` and ``B^T G`` with G the negative
gradient on a minibatch.  Full fine-tuning is the same with ``B`` the whole update as one column and ``A = 1``, held
fixed.  Runs that differ in their learning rate are one batch: they see the same minibatches in the same order.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorabook import checks, descent
from lorabook.device import generator
from lorabook.real_fine_tune import compare, starts
from lorabook.real_fine_tune.task import Task

RIDGE = 1e-6  # of the preconditioned methods, as in their authors' code
RATIO = 16.0  # of LoRA+'s two learning rates, as its authors recommend


@dataclass(frozen=True)
class Method:
    start: str  # lora, pissa, lora_ga, lora_one, directed, sized or full
    ratio: float = 1.0  # learning rate of B over that of A
    ridge: float | None = None  # preconditioned, with this ridge
    init_scale: float = 1.0  # of LoRA's draw
    rounded: torch.dtype | None = None  # to which what training starts from is rounded, factors and frozen matrices


METHODS = {
    "LoRA": Method("lora"),
    "LoRA+": Method("lora", ratio=RATIO),
    "P-LoRA": Method("lora", ridge=RIDGE),
    "PiSSA": Method("pissa"),
    "LoRA-GA": Method("lora_ga"),
    "LoRA-One, plain": Method("lora_one"),
    "LoRA-One": Method("lora_one", ridge=RIDGE),
    "full": Method("full"),
}
#: Halves of LoRA-One's start: its directions with LoRA's sizes, and its sizes on directions that know nothing.
CONTROLS = {"directions alone": Method("directed"), "size alone": Method("sized")}


@dataclass(frozen=True)
class Trained:
    """R runs, one per learning rate, looked at at O steps.

    stack: (R, L, m, n) the open matrices at the end.
    at: (O) steps at which was looked; 0 is the start.
    loss: (O, R) on the sentences that were watched.
    seconds: of the processor, for the gradients and forces alone.
    """

    stack: Tensor
    at: Tensor
    loss: Tensor
    seconds: float


@dataclass(frozen=True)
class TunedMethod:
    """A method at the best rate of its grid, over K seeds; the first seed is that of the grid.

    stack: (K, L, m, n) the open matrices at the end.
    losses: (R) validation loss of each rate.
    best: index of the least.  edge: whether it lies at an end of the grid.
    runs: :class:`Trained` of the K - 1 other seeds.
    """

    stack: Tensor
    losses: Tensor
    best: int
    edge: bool
    runs: tuple[Trained, ...]


def adamw(decay: float = 0.0, ridge: float | None = None) -> Callable:
    """AdamW's rule for :func:`lorabook.descent.descend`; with ``ridge``, the forces are preconditioned first.

    Source: Loshchilov & Hutter 2019; Zhang & Pilanci 2024 for the preconditioner.
    """
    if not decay >= 0:
        raise ValueError(f"decay must not be negative; got {decay!r}.")
    adam = descent.adam(decay=decay)
    if ridge is None:
        return adam
    before = descent.preconditioned(ridge)

    def rule(B, A, F_B, F_A, memory):
        first, second = memory or (None, None)
        F_B, F_A, first = before(B, A, F_B, F_A, first)
        D_B, D_A, second = adam(B, A, F_B, F_A, second)
        return D_B, D_A, (first, second)

    return rule


def falling(rule: Callable, steps: int) -> Callable:
    """The directions of ``rule`` times what falls from 1 to 0 in equal steps: a linear schedule of the rate."""

    def shorter(B, A, F_B, F_A, memory):
        count, inner = memory or (0, None)
        D_B, D_A, inner = rule(B, A, F_B, F_A, inner)
        left = 1 - count / steps
        return left * D_B, left * D_A, (count + 1, inner)

    return shorter


def begin(
    method: Method, W: Tensor, G: Tensor, rank: int, gamma: float, source: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of a method's start, and the frozen matrices that go with it.

    Args:
        method: its start is used.
        W: (L, m, n) float64 open matrices.  G: (L, m, n) negative gradient there.
        gamma: step of LoRA-One's start.
        source: generator of LoRA's draw.

    Returns:
        ``B0``, ``A0``, ``W0``: the network starts from ``W0 + B0 A0``.

    Raises:
        ValueError: an unknown start, a rank that does not fit.
    """
    B, A, offset = _factors(method, W, G, rank, gamma, source)
    W0 = W - B @ A if offset else W
    if method.rounded:
        B, A, W0 = (part.to(method.rounded).to(part) for part in (B, A, W0))
    return B, A, W0


def _factors(method: Method, W, G, rank: int, gamma: float, source: torch.Generator) -> tuple[Tensor, Tensor, bool]:
    """The two factors, and whether their product is taken off W."""
    start = method.start
    if start == "full":
        return (*starts.full(W), False)
    if start == "lora":
        return (*starts.lora(W, rank, source, method.init_scale), False)
    if start == "lora_one":
        return starts.lora_one(G, rank, gamma)
    if start == "directed":
        return (*starts.directed(G, rank), False)
    if start == "pissa":
        return (*starts.pissa(W, rank), True)
    if start == "lora_ga":  # their stable scale, with its authors' gamma of 16
        return (*starts.lora_ga(G, rank, W.shape[-2] ** 0.5 / 16), True)
    if start == "sized":
        return (*starts.sized(G, rank, gamma, source), True)
    raise ValueError(f"start must be lora, pissa, lora_ga, lora_one, directed, sized or full; got {start!r}.")


def order(total: int, batch: int, seed: int):
    """Endless minibatches: a new random order of all sentences for each pass; the last, shorter one is left out."""
    if checks.count(batch, "batch", 1) > total:
        raise ValueError(f"A batch of {batch} sentences is more than the {total} there are.")
    source = generator(seed)
    while True:
        yield from torch.randperm(total, generator=source).split(batch)[: total // batch]


def train(
    task: Task,
    watched: Task,
    method: Method,
    W: Tensor,
    G: Tensor,
    rank: int,
    gamma: float,
    rates,
    steps: int,
    batch: int,
    seed: int,
    every: int = 8,
    schedule: bool = False,
) -> Trained:
    """Train the open matrices with every learning rate of ``rates``.

    Args:
        task: what is trained on.  watched: what the loss is looked at on.
        W: (L, m, n) float64 the open matrices.  G: (L, m, n) negative gradient there, for the starts.
        rank, gamma: of the adapter and of LoRA-One's start.
        rates: (R,) learning rates.
        steps: minibatches of ``batch`` sentences.
        seed: of LoRA's draw and of the order of the sentences.
        every: steps between two looks; 0 looks only at the end.
        schedule: whether the rates fall to 0 (:func:`falling`), or stay.

    Raises:
        ValueError: parameters out of range, a learning rate that is not positive.
        RuntimeError: a run diverged; no number is returned silently.
    """
    B0, A0, W0 = begin(method, W, G, rank, gamma, generator(seed))
    runs, rates = len(rates), torch.as_tensor(rates, dtype=W.dtype, device=W.device)
    B0, A0 = B0.expand(runs, *B0.shape), A0.expand(runs, *A0.shape)
    batches, fixed = order(len(task), batch, seed + 1), method.start == "full"
    update = lambda B, A: B.squeeze(-1).unflatten(-1, W.shape[-2:]) if fixed else B @ A
    wanted = {steps, *(range(0, steps, every) if every else ())}
    pace = math.gcd(every, steps)
    clock, spent = itertools.count(0, pace), [0.0]

    def forces(B, A):
        begun = time.process_time()
        part = task.some(next(batches).to(W.device))
        F = torch.stack([part.negative_gradient(now) for now in W0 + update(B, A)])
        spent[0] += time.process_time() - begun
        return (F.flatten(-2)[..., None], torch.zeros_like(A)) if fixed else (F @ A.mT, B.mT @ F)

    def look(B, A):
        losses, step = torch.full((runs,), torch.nan, dtype=W.dtype, device=W.device), next(clock)
        if step in wanted:
            now = W0 + update(B, A)
            # all runs start alike
            losses = torch.stack([watched.loss(one) for one in (now if step else now[:1])]).expand(runs)
        return (losses[:, None].expand(runs, len(W)),)

    rate_B, rate_A = (rates * method.ratio)[:, None], rates[:, None]
    rule = adamw(ridge=method.ridge)
    rule = falling(rule, steps) if schedule else rule
    found = descent.descend(forces, B0, A0, rate_B, rate_A, steps, rule=rule, observe=look, every=pace)
    lost = int((found.status != descent.DONE).any(-1).sum())
    if lost:
        raise RuntimeError(f"{lost} of {runs} runs diverged: lower the learning rates.")
    looked = [k for k, step in enumerate(found.at.tolist()) if step in wanted]
    return Trained(W0 + update(found.B, found.A), found.at[looked], found.observed[0][looked].mean(-1), spent[0])


def tune(
    task: Task,
    validation: Task,
    watched: Task,
    method: Method,
    W: Tensor,
    G: Tensor,
    rates,
    steps: int,
    seeds: int,
    seed: int,
    every: int = 8,
    **options,
) -> TunedMethod:
    """Take the best of ``rates`` by the loss on ``validation``, and repeat it with other seeds.

    Args:
        watched: what the losses of the other seeds are looked at on, each ``every`` steps.
        rates: (R,) three or more rising learning rates.
        steps: number of minibatches.
        seeds: K >= 1; ``seed``, ``seed + 1``, ...
        options: ``rank``, ``gamma`` and ``batch`` of :func:`train`.
    """
    checks.count(seeds, "seeds", 1)
    options |= dict(steps=steps)
    grid = train(task, validation, method, W, G, rates=rates, seed=seed, every=0, **options)
    best, edge = compare.best(grid.loss[-1], rates)
    options |= dict(rates=[rates[best]], every=every)
    runs = tuple(train(task, watched, method, W, G, seed=seed + k, **options) for k in range(1, seeds))
    ends = torch.stack([grid.stack[best], *(run.stack[0] for run in runs)])
    return TunedMethod(ends, grid.loss[-1], best, edge, runs)
