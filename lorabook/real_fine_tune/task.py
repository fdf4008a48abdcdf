"""A real task: is a sentence positive?  The loss as a function of the attention matrices of the last blocks.

With ``e(s)`` the sentence's vector of length 1 the network says ``scale <e(s), d> + shift``, where ``d`` is the
vector of "It was great." minus that of "It was terrible.": it can judge before it is trained.  The two
scalars are fitted once to the training labels and then frozen, so that training has only the matrices to
move.  The loss is the mean logistic loss.  The network runs in float32, gradients come back in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorabook.inputs.sentences import Sentences
from lorabook.real_fine_tune.encoder import Encoder, Tokens, tokenize

POLES = ("It was great.", "It was terrible.")
CHUNK = 64  # sentences at a time, so that memory stays near that of one chunk


@dataclass(frozen=True)
class Task:
    """Sentences, sorted by length, as the last blocks see them."""

    encoder: Encoder
    x: Tensor  # (N, T, 384) output of the frozen blocks
    mask: Tensor  # (N, T) bool
    labels: Tensor  # (N) float, 1 positive, 0 negative
    head: Tensor  # (385) scale times d, and the shift

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, rows: Tensor) -> Task:
        """The sentences ``rows``, cut to the longest of them."""
        if not rows.numel():
            raise ValueError("A batch needs at least one sentence.")
        longest = int(self.mask[rows].sum(1).max())
        return Task(self.encoder, self.x[rows, :longest], self.mask[rows, :longest], self.labels[rows], self.head)

    def logits(self, stack: Tensor) -> Tensor:
        """(N) logits under the matrices ``stack`` (4 blocks, 384, 384)."""
        e = self.encoder.above(self.x, self.mask, stack.to(self.x.dtype))
        return e @ self.head[:-1] + self.head[-1]

    def chunks(self):
        """The task in pieces, each cut to its own longest sentence."""
        for rows in torch.arange(len(self), device=self.labels.device).split(CHUNK):
            yield self.some(rows)

    @torch.no_grad()
    def scores(self, stack: Tensor) -> Tensor:
        """:meth:`logits`, chunk by chunk and without a graph."""
        return torch.cat([part.logits(stack) for part in self.chunks()])

    def losses(self, stack: Tensor) -> Tensor:
        """(N) logistic losses, float64, without a graph."""
        return F.binary_cross_entropy_with_logits(self.scores(stack).double(), self.labels.double(), reduction="none")

    def loss(self, stack: Tensor) -> Tensor:
        """Their mean."""
        return self.losses(stack).mean()

    def correct(self, stack: Tensor) -> Tensor:
        """(N) bool: which sentences are judged rightly."""
        return right(self.losses(stack))

    @torch.enable_grad()
    def negative_gradient(self, stack: Tensor) -> Tensor:
        """``-dL/dW`` (4 blocks, 384, 384) float64 of the mean loss."""
        total = torch.zeros_like(stack, dtype=torch.float64)
        for part in self.chunks():
            W = stack.detach().to(self.x.dtype).requires_grad_()
            loss = F.binary_cross_entropy_with_logits(part.logits(W), part.labels, reduction="sum")
            total -= torch.autograd.grad(loss, W)[0]
        return total / len(self)

    @torch.no_grad()
    def label_gradients(self, stack: Tensor, labels: Tensor) -> Tensor:
        """``-dL/dW`` (K, 4 blocks, 384, 384) float64 for K labelings (K, N) of the same sentences.

        ``L = mean of log(1 + e^z) - y z`` is affine in the labels y, so that one gradient of each sentence's logit z
        serves all of them.
        """
        W = stack.to(self.x.dtype)
        logit = lambda W, x, mask: self.encoder.above(x, mask, W) @ self.head[:-1]
        slopes = torch.func.vmap(torch.func.grad(logit), in_dims=(None, 0, 0))
        pull = (labels - self.scores(stack).sigmoid()).split(CHUNK, -1)
        total = torch.zeros(len(labels), W.numel(), dtype=W.dtype, device=W.device)
        for part, weights in zip(self.chunks(), pull, strict=True):
            total.addmm_(weights, slopes(W, part.x, part.mask).flatten(1))
        return total.unflatten(-1, W.shape).double() / len(self)


def right(losses: Tensor) -> Tensor:
    """Judgements, bool, from logistic losses: a logit has the label's sign exactly where the loss is below log 2."""
    return losses < math.log(2)


def prepare(
    encoder: Encoder, parts: tuple[Sentences, ...], blocks: int = 1, length: int = 32, device=None
) -> tuple[Task, ...]:
    """The parts as tasks, with one head, fitted to the first part.

    Args:
        encoder: on ``device``.
        parts: training sentences first.
        blocks: how many last blocks are open to training.
        length: word pieces per sentence.

    Raises:
        ValueError: a part without sentences, labels other than 0 and 1 or not one for each text.
    """
    seen = [_below(encoder, part, blocks, length, device) for part in parts]
    stack = encoder.matrices(blocks)
    poles = tokenize(POLES, length, device)
    with torch.no_grad():
        great, terrible = encoder.above(encoder.below(poles, blocks), poles.mask, stack)
    blank = torch.cat([great - terrible, torch.zeros(1, device=great.device)])
    scale, shift = calibrate(Task(encoder, *seen[0], blank).scores(stack).double(), seen[0][2].double())
    head = torch.cat([blank[:-1] * scale, shift[None].to(blank)])
    return tuple(Task(encoder, *one, head.to(one[0])) for one in seen)


def calibrate(z: Tensor, labels: Tensor, steps: int = 50) -> tuple[Tensor, Tensor]:
    """``scale`` and ``shift`` with the least mean logistic loss of ``scale z + shift``: Newton steps on two numbers."""
    design = torch.stack([z, torch.ones_like(z)], 1)
    point = torch.zeros(2, dtype=z.dtype, device=z.device)
    # a breath of decay keeps the answer finite where the labels can be separated
    decay = 1e-6 * torch.eye(2, dtype=z.dtype, device=z.device)
    for _ in range(steps):
        p = (design @ point).sigmoid()
        slope = design.T @ (p - labels) / len(z) + decay @ point
        hessian = (design * (p * (1 - p))[:, None]).T @ design / len(z) + decay
        change = torch.linalg.solve(hessian, slope)
        # the loss is convex and smooth; a bounded step keeps Newton from overshooting far out
        point = point - change * (10 / change.norm().clamp(min=10))
    return point[0], point[1]


def _below(encoder: Encoder, part: Sentences, blocks: int, length: int, device) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.as_tensor(part.labels)
    if len(labels) != len(part.texts) or not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("Each text needs one label, 0 or 1.")
    tokens = tokenize(part.texts, length, device)
    order = tokens.mask.sum(1).argsort(stable=True)
    ids, mask = tokens.ids[order], tokens.mask[order]
    with torch.no_grad():
        x = torch.cat([_short(encoder, i, m, blocks) for i, m in zip(ids.split(CHUNK), mask.split(CHUNK))])
    return x, mask, labels.to(x.device, x.dtype)[order]


def _short(encoder: Encoder, ids: Tensor, mask: Tensor, blocks: int) -> Tensor:
    """What the last blocks see of a chunk, computed up to its longest sentence; 0 beyond, where nothing looks."""
    longest = int(mask.sum(1).max())
    return F.pad(encoder.below(Tokens(ids[:, :longest], mask[:, :longest]), blocks), (0, 0, 0, ids.shape[1] - longest))
