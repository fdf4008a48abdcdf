"""How much of an update lies in the leading directions of a gradient, and in those of gradients that know nothing.

The share of chance is r of m directions.  A gradient with shuffled labels is no chance direction: it knows the
sentences and the network, and not what to learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook import checks
from lorabook.device import generator, normal


def leading(G: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors (..., m, r) of G (..., m, n)."""
    checks.matrix(G, "G")
    return torch.linalg.svd(G, full_matrices=False)[0][..., :rank]


def random(count: int, G: Tensor, rank: int, seed: int) -> Tensor:
    """Bases (count, L, m, r) of random subspaces, uniformly distributed, for matrices G (L, m, n)."""
    draw = normal((checks.count(count, "count", 1), *G.shape[:-1], rank), generator(seed), G.device)
    return torch.linalg.qr(draw).Q


def shuffled(labels: Tensor, count: int, seed: int) -> Tensor:
    """(count, N) the labels (N), each time in another random order."""
    source = generator(seed)
    orders = [
        torch.randperm(len(labels), generator=source, device="cpu") for _ in range(checks.count(count, "count", 1))
    ]
    return labels[torch.stack(orders).to(labels.device)]


def share(moved: Tensor, bases: Tensor) -> Tensor:
    """(K) share of the energy of updates in subspaces of their left side, mean over seeds and matrices.

    Args:
        moved: (S, L, m, n) updates of L matrices over S seeds, not zero.
        bases: (K, L, m, r) orthonormal columns, K subspaces for each matrix.
    """
    inside = (bases.mT[:, None] @ moved).square().sum((-2, -1))
    return (inside / moved.square().sum((-2, -1))).mean((1, 2))
