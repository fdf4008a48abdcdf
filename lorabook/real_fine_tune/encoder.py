"""all-MiniLM-L6-v2 in plain torch: a BERT encoder whose attention matrices can be replaced.

``x -> LN(x + O attention(Q x, K x, V x))``, then ``x -> LN(x + W2 gelu(W1 x))``, six times; a sentence is the
mean of its words' last vectors, scaled to length 1.  The matrices Q, K, V, O of the last blocks are an
argument, so that a gradient with respect to them, or a batch of adapters, needs no module and no hook.

No dropout anywhere.  Equal to ``transformers.BertModel`` in evaluation mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorabook import checks
from lorabook.inputs import minilm

WIDTH, HEADS, EPSILON = 384, 12, 1e-12
MATRICES = tuple(minilm.KINDS)  # query, key, value, output: the order in a stack of four


@dataclass(frozen=True)
class Tokens:
    """Sentences as numbers."""

    ids: Tensor  # (N, T) int64
    mask: Tensor  # (N, T) bool, False where padded


def tokenize(texts, length: int = 32, device=None) -> Tokens:
    """The model's own word pieces, cut or padded to the longest sentence, at most ``length``.

    Args:
        texts: N >= 1 texts.
        length: 3 or more, with the two marks at the ends.

    Raises:
        ValueError: no texts, something that is no text, a length below 3.
        WeightsError: the tokenizer's file is missing or is not the pinned one.
    """
    Tokenizer = checks.package("tokenizers", "book").Tokenizer
    texts = list(texts)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("There must be at least one text, and nothing else.")
    tokenizer = Tokenizer.from_file(str(minilm.tokenizer_file()))
    tokenizer.enable_truncation(checks.count(length, "length", 3))
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(texts)
    ids, mask = ([getattr(one, name) for one in found] for name in ("ids", "attention_mask"))
    return Tokens(torch.tensor(ids, device=device), torch.tensor(mask, device=device).bool())


class Encoder:
    """The frozen network.  ``tensors`` as :func:`lorabook.inputs.minilm.encoder` gives them."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors
        self.layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))

    def matrices(self, blocks: int) -> Tensor:
        """Q, K, V, O of the last ``blocks`` blocks, (4 blocks, 384, 384), block by block."""
        self._blocks(blocks)
        names = [
            f"encoder.layer.{layer}.{minilm.KINDS[kind]}.weight"
            for layer in range(self.layers - blocks, self.layers)
            for kind in MATRICES
        ]
        return torch.stack([self.tensors[name] for name in names])

    def below(self, tokens: Tokens, blocks: int) -> Tensor:
        """What the last ``blocks`` blocks see, (N, T, 384): it never changes while they are trained."""
        self._blocks(blocks)
        get = self.tensors.__getitem__
        word, place, kind = (get(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type"))
        x = self._norm(word[tokens.ids] + place[: tokens.ids.shape[1]] + kind[0], "embeddings.LayerNorm")
        for layer in range(self.layers - blocks):
            x = self._block(x, tokens.mask, layer, None)
        return x

    def above(self, x: Tensor, mask: Tensor, stack: Tensor) -> Tensor:
        """Sentence vectors of length 1 (N, 384) from :meth:`below` and the matrices ``stack`` (4 blocks, 384, 384)."""
        blocks = len(stack) // len(MATRICES)
        for k, layer in enumerate(range(self.layers - blocks, self.layers)):
            x = self._block(x, mask, layer, stack[4 * k : 4 * k + 4])
        weight = mask.to(x.dtype)[..., None]
        return F.normalize((x * weight).sum(-2) / weight.sum(-2), dim=-1)

    def _block(self, x: Tensor, mask: Tensor, layer: int, four: Tensor | None) -> Tensor:
        name = f"encoder.layer.{layer}."
        get = lambda tail: self.tensors[name + tail]
        four = [get(f"{minilm.KINDS[kind]}.weight") for kind in MATRICES] if four is None else four
        heads = lambda y: y.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(-2, -3)
        q, k, v = (heads(F.linear(x, W, get(f"{minilm.KINDS[kind]}.bias"))) for W, kind in zip(four, MATRICES[:3]))
        scores = q @ k.mT * (WIDTH // HEADS) ** -0.5
        scores = scores.masked_fill(~mask[..., None, None, :], float("-inf"))
        seen = (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)
        x = self._norm(
            x + F.linear(seen, four[3], get("attention.output.dense.bias")), name + "attention.output.LayerNorm"
        )
        inner = F.gelu(F.linear(x, get("intermediate.dense.weight"), get("intermediate.dense.bias")))
        return self._norm(
            x + F.linear(inner, get("output.dense.weight"), get("output.dense.bias")), name + "output.LayerNorm"
        )

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self.tensors[name + ".weight"], self.tensors[name + ".bias"], EPSILON)

    def _blocks(self, blocks: int) -> None:
        if checks.count(blocks, "blocks", 1) > self.layers:
            raise ValueError(f"blocks must be at most {self.layers}, the depth of the encoder; got {blocks}.")
