"""The stand-in for the talk's ViT: a small network on real images, fine-tuned with LoRA on both layers.

``logits = (W2 + B2 A2) relu((W1 + B1 A1) x + b1) + b2`` on the 8 x 8 handwritten digits that come with
scikit-learn: pretrained on upright digits, fine-tuned on the same digits turned by a right angle.
All starts, of every size and seed, are trained side by side on the same batches.

Not here: any theory.  The two-phase analysis assumes a linear network, and this one is not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from lorabook.device import DTYPE, generator, normal
from lorabook.inputs.digits import Digits


class FrozenNetwork(NamedTuple):
    """Frozen weights: W1 (h, 64), b1 (h,), W2 (10, h), b2 (10,)."""

    W1: torch.Tensor
    b1: torch.Tensor
    W2: torch.Tensor
    b2: torch.Tensor


class Curves(NamedTuple):
    """Losses of fine-tuning at the recorded steps; mean cross-entropy over the whole set."""

    train: torch.Tensor  # (T, K, S): steps, scales, seeds
    test: torch.Tensor  # (T, K, S)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy (...) of logits (..., N, 10) and labels (N,)."""
    picked = logits.gather(-1, labels.expand(logits.shape[:-1])[..., None])[..., 0]
    return (logits.logsumexp(-1) - picked).mean(-1)


def pretrain(data: Digits, hidden: int, seed: int, steps: int = 600, learning_rate: float = 0.01) -> FrozenNetwork:
    """Train all weights with Adam on the full training set; returns them frozen."""
    draws, device = generator(seed), data.train.device
    weights = [
        normal((hidden, 64), draws, device) / 8,
        normal((hidden,), draws, device) * 0,
        normal((10, hidden), draws, device) / hidden**0.5,
        normal((10,), draws, device) * 0,
    ]
    weights = [weight.requires_grad_() for weight in weights]
    optimiser = torch.optim.Adam(weights, learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(_logits(FrozenNetwork(*weights), data.train, None), data.train_labels).backward()
        optimiser.step()
    return FrozenNetwork(*(weight.detach() for weight in weights))


def accuracy(network: FrozenNetwork, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Part of the images that the frozen network alone gets right."""
    return (_logits(network, images, None).argmax(-1) == labels).double().mean().item()


OPTIMISERS = {
    "descent": lambda parts, rate: torch.optim.SGD(parts, rate),
    "momentum": lambda parts, rate: torch.optim.SGD(parts, rate, momentum=0.9),
    "adam": lambda parts, rate: torch.optim.Adam(parts, rate),
}


def finetune(
    network: FrozenNetwork,
    data: Digits,
    scales: torch.Tensor,
    rank: int,
    optimiser: str,
    learning_rate: float,
    record: list[int],
    seeds: int,
    seed: int,
    batch: int = 128,
) -> Curves:
    """Fine-tune B1, A1, B2, A2 from ``B = 0``, ``A ~ N(0, scale^2)``, every scale and seed side by side.

    Args:
        scales: (K,) sizes of the start.
        optimiser: one of :data:`OPTIMISERS`; each acts entry by entry, so the systems do not mix.
        record: increasing numbers of steps at which the losses are taken.
        batch: images per step; the same ones for every system.

    Returns:
        :class:`Curves`.  Seeds share their draws between the scales.

    Raises:
        ValueError: an unknown optimiser, a scale that is not positive, or steps that do not increase.
    """
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}; got {optimiser!r}.")
    if bool((scales <= 0).any()):
        raise ValueError(f"Every scale must be positive: from a zero start nothing moves; got {scales.min().item():g}.")
    if any(later <= sooner for sooner, later in zip(record, record[1:])) or record[0] < 0:
        raise ValueError(f"record must be increasing numbers of steps; got {record}.")
    draws, device, hidden = generator(seed), data.train.device, network.W1.shape[0]
    lead = (len(scales), seeds)
    A1, A2 = (scales[:, None, None, None] * normal((seeds, rank, size), draws, device) for size in (64, hidden))
    B1, B2 = (torch.zeros(*lead, size, rank, dtype=DTYPE, device=device) for size in (hidden, 10))
    parts = [part.requires_grad_() for part in (B1, A1, B2, A2)]
    engine = OPTIMISERS[optimiser](parts, learning_rate)
    rows, sides = [], ((data.train, data.train_labels), (data.test, data.test_labels))
    for step in range(record[-1] + 1):
        if step in record:
            with torch.no_grad():
                rows.append([cross_entropy(_logits(network, x, parts), y) for x, y in sides])
        pick = torch.randint(len(data.train), (batch,), generator=draws).to(device)
        engine.zero_grad()
        cross_entropy(_logits(network, data.train[pick], parts), data.train_labels[pick]).sum().backward()
        engine.step()
    return Curves(*(torch.stack(side) for side in zip(*rows, strict=True)))


def _logits(network: FrozenNetwork, images: torch.Tensor, parts) -> torch.Tensor:
    """(..., N, 10); the frozen products are shared by all systems, LoRA's are of rank r."""
    inner = images @ network.W1.mT + network.b1
    if parts is not None:
        B1, A1, B2, A2 = parts
        inner = inner + (images @ A1.mT) @ B1.mT
    active = inner.relu()
    outer = active @ network.W2.mT + network.b2
    return outer if parts is None else outer + (active @ A2.mT) @ B2.mT
