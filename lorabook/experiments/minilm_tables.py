"""What Kim, Kim and Ryu's runs gave on MiniLM: ``data/kim_minilm/*.csv``, with ``PROVENANCE.md`` beside them.

ends        for each run the largest rank, the norm of all changes, test loss, accuracy and its error
course      the same after each epoch
matrices    for each tuned matrix of a run its largest singular value, its norm, its rank at three cuts
head        the trained head's weights and, in the last row, its bias
scores      for each test sentence its label and, by run, the score of positive minus that of negative
constants   restricted convexity and smoothness, sampled and by power iteration
settled     factors on one matrix from the five starts, run to their end
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import lorabook
from lorabook.inputs import published

FOLDER = lorabook.DATA / "kim_minilm"
NAMES = ("ends", "course", "matrices", "head", "scores", "constants", "settled")


def read(name: str) -> list[dict]:
    """The rows of one of NAMES, as :func:`lorabook.inputs.published.read` gives them; a run's name is a text."""
    rows = published.read(name, FOLDER)
    named = lambda arm: f"{arm:g}" if isinstance(arm, float) else arm
    return [row | {"arm": named(row["arm"])} if "arm" in row else row for row in rows]


def losses(margin: Tensor, labels: Tensor) -> Tensor:
    """(..., N) logistic losses of margins (..., N), the score of positive minus that of negative, and labels (N)."""
    return F.softplus(torch.where(labels > 0, -margin, margin))


def sentence_losses(device=None) -> dict[str, Tensor]:
    """(N) the losses of every run on the test sentences, float64, from their scores."""
    rows = read("scores")
    column = lambda key: torch.tensor([row[key] for row in rows], dtype=torch.float64, device=device)
    return {arm: losses(column(arm), column("label")) for arm in rows[0] if arm != "label"}
