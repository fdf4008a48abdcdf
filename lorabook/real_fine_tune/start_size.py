"""Does the size of LoRA's start matter once each size has a learning rate of its own?  A table, and how it is made.

Plain LoRA on the task of the page, for one epoch: ``B = 0`` and A drawn at a multiple, the size, of LoRA's own
deviation, so that the network starts as it is.  The rate of a size is that of its least validation loss, averaged over
the seeds; sizes are compared by their test losses at these rates, seed by seed: the same minibatches in the same
order, the same A but for the size.  All arms take longer than a page may, so
``data/real_fine_tune/start_size.csv`` holds them; :func:`arms` makes any of them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lorabook
from lorabook.inputs import published
from lorabook.real_fine_tune.task import Task
from lorabook.real_fine_tune.train import Method, train

SIZES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of LoRA's own deviation
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = 3
SETTING: dict[str, Any] = dict(
    task="movie", parts=(768, 256, 768), length=24, blocks=1, rank=8, batch=16, steps=48, seed=0
)
FOLDER = lorabook.DATA / "real_fine_tune"


def arms(training: Task, validating: Task, testing: Task, W: Tensor, size: float, rates, seed: int) -> Tensor:
    """(R, 2) losses on validation and test sentences after the last step, for each of R ``rates``.

    Args:
        training, validating, testing: the three parts of the task, as SETTING has them.
        W: (L, m, n) float64 the open matrices.
        size: of A's draw, in LoRA's own; > 0.
        seed: of A's draw and of the order of the sentences.

    Raises:
        ValueError, RuntimeError: as :func:`lorabook.real_fine_tune.train.train` does.
    """
    rank, batch, steps = (SETTING[name] for name in ("rank", "batch", "steps"))
    method, G = Method("lora", init_scale=size), torch.zeros_like(W)  # this start asks no gradient
    run = train(training, validating, method, W, G, rank, 0.0, rates, steps, batch, seed, every=0)
    return torch.stack([run.loss[-1], torch.stack([testing.loss(stack) for stack in run.stack])], -1)


def table() -> Tensor:
    """(sizes, rates, seeds, 2) losses of ``data/real_fine_tune/start_size.csv``: validation, test; on the CPU.

    Raises:
        ValueError: an arm is missing, or stands twice.
    """
    rows = published.read("start_size", FOLDER)
    found = {(row["size"], row["rate"], int(row["seed"])): (row["validation"], row["test"]) for row in rows}
    wanted = [(size, rate, seed) for size in SIZES for rate in RATES for seed in range(SEEDS)]
    if len(rows) != len(wanted) or set(found) != set(wanted):
        raise ValueError(f"The table of starts needs each of {len(wanted)} arms once; it has {len(rows)} rows.")
    values = torch.tensor([found[arm] for arm in wanted], dtype=torch.float64, device="cpu")
    return values.reshape(len(SIZES), len(RATES), SEEDS, 2)


def best(losses: Tensor) -> Tensor:
    """(sizes,) index of the rate with the least validation loss, mean over seeds, in ``losses`` of :func:`table`."""
    return losses[..., 0].mean(-1).argmin(-1)
