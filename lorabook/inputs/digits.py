"""Handwritten digits: 1797 images of 8 x 8 pixels that come with scikit-learn (Alpaydin & Kaynak 1998).

See ``data/digits.md`` for the data card.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lorabook.checks import package
from lorabook.device import DTYPE, default_device, generator


class Digits(NamedTuple):
    """Images in [0, 1] and labels, split at random into training and test."""

    train: torch.Tensor  # (N, 64)
    train_labels: torch.Tensor  # (N,)
    test: torch.Tensor  # (M, 64)
    test_labels: torch.Tensor  # (M,)


def shuffled(source: torch.Generator, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """All images (1797, 8, 8) float64 in [0, 1] and their labels (1797,) int64, in an order that ``source`` draws."""
    package("sklearn", "book", "scikit-learn")
    from sklearn.datasets import load_digits

    raw, device = load_digits(), default_device() if device is None else device
    order = torch.randperm(len(raw.target), generator=source, device="cpu")
    images, labels = torch.tensor(raw.images / 16, dtype=DTYPE), torch.tensor(raw.target).long()
    return images[order].to(device), labels[order].to(device)


def split(turns: int = 0, seed: int = 0, held_out: int = 360, device=None) -> Digits:
    """The digits turned by ``turns`` right angles, ``held_out`` of them for testing: the same for every ``turns``.

    Raises:
        ValueError: no image left on one side of the split.
    """
    images, labels = shuffled(generator(seed), device)
    if not 0 < held_out < len(labels):
        raise ValueError(f"held_out must lie between 1 and {len(labels) - 1}; got {held_out}.")
    images = images.rot90(turns, (1, 2)).reshape(-1, 64)
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])
