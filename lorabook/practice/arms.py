"""An arm: one method at one rank and one learning rate, trained once on the real network and judged on new sentences.

The mathematics is :mod:`lorabook.real_fine_tune`'s; here it gets one size for all arms, so that any two of them can be
paired: the same training sentences in the same minibatches (by the seed), the same test sentences in the same order.
One epoch of 1,024 sentences, so that the methods that begin with the gradient over all of them have seen no other, and
a rate that falls to 0 in equal steps, as transformers' Trainer has it where nothing is said.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from lorabook import device
from lorabook.inputs import minilm, sentences
from lorabook.real_fine_tune import train
from lorabook.real_fine_tune.encoder import Encoder
from lorabook.real_fine_tune.task import Task, prepare, right

SIZES = (1024, 256, 2048)  # sentences to train on, to choose rates on, to judge on
LENGTH, BATCH, STEPS = 24, 16, 64
SPLIT = 0  # seed of the draw of sentences
METHODS = train.METHODS | train.CONTROLS
STILL = ("pretrained", "one step")
FROM_GRADIENT = ("lora_one", "lora_ga", "directed", "sized")  # starts that need the gradient over all sentences
STEP_SIZES = tuple(0.1 * 2.0**k for k in range(1, 8))  # of one full gradient step, for LoRA-One's start


@dataclass(frozen=True)
class Arm:
    task: str  # movie or tweets
    method: str  # one of METHODS, or of STILL: what is not trained
    rank: int
    rate: float  # of A at the first step, from where it falls to 0; that of B is it times the ratio
    seed: int = 0  # of LoRA's draw and of the order of the sentences
    ratio: float | None = None  # rate of B over that of A; None is the method's own
    rounded: str = ""  # a dtype of torch's, to which base and factors are rounded at the start
    tested: bool = False  # judged on the test sentences too


class Laboratory:
    """A task's parts behind the frozen blocks, and what the starts need; each is computed when it is first asked for.

    W: (4, 384, 384) float64 pretrained matrices.
    G: the negative gradient there, over all training sentences.
    gamma: the best step along it, on every fourth of them.
    """

    def __init__(self, task: str, split: int = SPLIT):
        self.where = device.default_device()
        self.encoder = Encoder(minilm.encoder(device=self.where))
        self.parts = sentences.split(sentences.load(task), SIZES, split)
        self.training, self.validation = prepare(self.encoder, self.parts[:2], 1, LENGTH, self.where)
        self.W = self.encoder.matrices(1).to(device.DTYPE)

    @cached_property
    def test(self) -> Task:
        (found,) = prepare(self.encoder, self.parts[2:], 1, LENGTH, self.where)
        return replace(found, head=self.training.head)

    @cached_property
    def G(self) -> Tensor:
        return self.training.negative_gradient(self.W)

    @cached_property
    def gamma(self) -> float:
        quarter = self.training.some(torch.arange(0, SIZES[0], 4, device=self.where))
        return min(STEP_SIZES, key=lambda step: float(quarter.loss(self.W + step * self.G)))


@cache
def laboratory(task: str, split: int = SPLIT) -> Laboratory:
    """The sentences of a task, made once in a process.

    Raises:
        ValueError: an unknown task.
    """
    return Laboratory(task, split)


def run(arm: Arm, split: int = SPLIT, schedule: bool = True) -> dict:
    """Train an arm and judge it.

    Args:
        split: seed of the draw of sentences.
        schedule: whether the rate falls to 0, or stays.

    Returns:
        ``first`` and ``validation``, mean losses on the validation sentences before and after; for a tested arm
        ``accuracy`` (in [0, 1]) and ``loss`` on the test sentences and their packed ``losses``; ``seconds`` of the
        processor.  Where training diverged, ``validation`` is infinite.

    Raises:
        ValueError: an unknown method, a rank that does not fit.
    """
    begun, here = time.process_time(), laboratory(arm.task, split)
    if arm.method in STILL:
        W = here.W + STILL.index(arm.method) * here.gamma * here.G
        return {"validation": float(here.validation.loss(W))} | judged(here.test.losses(W))
    if arm.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join([*STILL, *METHODS])}; got {arm.method!r}.")
    method = replace(METHODS[arm.method], rounded=getattr(torch, arm.rounded) if arm.rounded else None)
    method = method if arm.ratio is None else replace(method, ratio=arm.ratio)
    G, gamma = (here.G, here.gamma) if method.start in FROM_GRADIENT else (torch.zeros_like(here.W), 1.0)
    options: dict[str, Any] = dict(
        rank=arm.rank, gamma=gamma, rates=[arm.rate], steps=STEPS, batch=BATCH, every=STEPS, schedule=schedule
    )
    try:
        found = train.train(here.training, here.validation, method, here.W, G, seed=arm.seed, **options)
    except RuntimeError:
        return {"validation": float("inf")}
    first, last = found.loss[:, 0].tolist()
    said = {"first": first, "validation": last}
    if arm.tested:
        said |= judged(here.test.losses(found.stack[0]))
    return said | {"seconds": time.process_time() - begun}


def judged(losses: Tensor) -> dict:
    """What is kept of losses (N) on the test sentences."""
    return {
        "accuracy": float(right(losses).double().mean()),
        "loss": float(losses.mean()),
        "losses": pack(losses),
    }


def pack(losses: Tensor) -> str:
    """Losses (N) as text, in float32: a shorter one rounds over log 2, and with it the judgement."""
    return base64.b64encode(losses.float().cpu().numpy().tobytes()).decode()


def unpack(text: str) -> Tensor:
    """(N) float64."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32).double()
