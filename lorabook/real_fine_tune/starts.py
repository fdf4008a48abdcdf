"""Where an adapter starts, for a layer ``y = W x`` with W (m, n): ``B (m, r)``, ``A (r, n)``, update ``B A``.

The same starts as on the LoRA-One pages, which write ``y = x W``, in the orientation of real layers, of LoRA
and of PEFT.  A start may come with an offset: ``B0 A0`` is taken off W, so that the function does not change.
G is the negative gradient of the loss with respect to W.  Leading dimensions are a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorabook import checks
from lorabook.device import generator, normal
from lorabook.linalg import orthonormal, truncate
from lorabook.lora_one import starts as talk


def lora(W: Tensor, rank: int, source: torch.Generator, init_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """B = 0, A Gaussian with the variance ``init_scale^2 / (3 n)`` that PEFT's uniform draw has (Hu et al. 2022)."""
    (*lead, m, n) = checks.matrix(W, "W").shape
    talk.check_rank(rank, m, n)
    draw = normal((*lead, rank, n), source, W.device)
    return W.new_zeros(*lead, m, rank), draw * init_scale / (3 * n) ** 0.5


def pissa(W: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-r approximation of W itself, balanced; goes with an offset (Meng, Wang & Zhang 2024)."""
    return talk.pissa_init(W, rank)


def lora_ga(G: Tensor, rank: int, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """B from left singular vectors r+1..2r of G, A from right ones 1..r; goes with an offset (Wang, Yu & Li 2024)."""
    A, B = talk.lora_ga_init(G.mT, rank, gamma)
    return B.mT, A.mT


def lora_one(G: Tensor, rank: int, gamma: float, form: str = "spectral") -> tuple[Tensor, Tensor, bool]:
    """LoRA-One's start, and whether ``B0 A0`` is taken off W.

    ``spectral`` is (Spectral-initialization): ``gamma`` times the best rank-r approximation of G, no offset: one
    step of gradient descent, cut to rank r.  The other FORMS are those of the published algorithm.
    """
    if form == "spectral":
        return (*talk.spectral_init(G, rank, gamma), False)
    A, B, offset = talk.algorithm_start(G.mT, rank, gamma, form)
    return B.mT, A.mT, offset


def directed(G: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """LoRA-One's directions without its size: B = 0, A right singular vectors 1..r of G, its rows of LoRA's norm."""
    B, A = talk.spectral_init(G, rank)
    return torch.zeros_like(B), A / (A.norm(dim=-1, keepdim=True) * 3**0.5)


def sized(G: Tensor, rank: int, gamma: float, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """LoRA-One's size without its directions: its singular values on random ones; goes with an offset."""
    B, A = talk.spectral_init(G, rank, gamma)
    size = B.norm(dim=-2)  # of each column of B and each row of A
    (*lead, m, n) = G.shape
    U, V = (orthonormal(normal((*lead, width, rank), source, G.device)) for width in (m, n))
    return U * size[..., None, :], size[..., None] * V.mT


def one_step(G: Tensor, gamma: float, rank: int | None = None) -> Tensor:
    """The update of one step of gradient descent, ``gamma G``, cut to ``rank`` if one is given."""
    checks.matrix(G, "G")
    if rank is None:
        return gamma * G
    talk.check_rank(rank, *G.shape[-2:])
    return gamma * truncate(G, rank)


def full(W: Tensor) -> tuple[Tensor, Tensor]:
    """Full fine-tuning as an adapter of rank one: B = 0 (..., m n, 1) is the whole update, A = 1 (..., 1, 1) stays."""
    checks.matrix(W, "W")
    return torch.zeros_like(W).flatten(-2)[..., None], torch.ones_like(W[..., :1, :1])


def random_like(G: Tensor, seed: int) -> Tensor:
    """A Gaussian matrix with the norms of G: what a gradient that knows nothing looks like."""
    draw = normal(G.shape, generator(seed), G.device)
    return draw * (torch.linalg.matrix_norm(G) / torch.linalg.matrix_norm(draw))[..., None, None]
