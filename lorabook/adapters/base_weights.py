"""The weights of a base model, found by the name of a module, read one at a time from its safetensors files."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook.adapters.folder import opened
from lorabook.adapters.formats import bare
from lorabook.adapters.parts import DTYPES
from lorabook.adapters.peft_config import AdapterError, load, printable
from lorabook.adapters.renamed import new_names

FILES = ("model", "diffusion_pytorch_model")
#: Fused parameters of experts, and what the file has for each expert in their place, under two sets of names.
APART = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
QUANTISED_HERE = "the base's weight is quantised"
#: Ends of keys beside which there is no plain weight.
QUANTISED = ("qweight", "weight_packed", "W_q", "_blocks")
#: An output layer that is not in the files shares its weight with the embedding of one of these names.
OWN = ("lm_head", "embed_out")  # names of nothing else
HEADS = (*OWN, "decoder", "proj_out", "output_projection", "vocab_projector", "lm_loss", "head", "output")
EMBEDDINGS = ("embed_tokens", "wte", "shared", "word_embeddings", "embed_in", "tok_embeddings", "embeddings")
EMBEDDINGS += ("tokens_embed", "word_embedding")
RESIZE = "resize the base first (resize_token_embeddings)"


def last_word(name: str) -> str:
    """What a module is called in its parent."""
    return bare(name).replace(".base_layer", "").rpartition(".")[2]


#: What a module's own weight is called after its name: the second is a parameter's own, the third an attention's.
TAILS = (".weight", "", ".in_proj_weight")


class Weight(NamedTuple):
    """A base weight, and where it is."""

    matrix: Tensor  # (m, n), as it is stored
    key: str  # in the files; of several that stand for one, the first
    tied: bool = False  # it is the embedding's, which the layer shares


class BaseWeights:
    """A folder with a base model.

    Raises:
        AdapterError: it has no safetensors files that hold together.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise AdapterError(f"There is no folder {self.folder} with a base model.")
        self.config = self._config()
        self.header: dict[str, tuple[Path, tuple[int, ...], str]] = {}
        self.ends: dict[str, list[str]] = {}
        for path in self._files():
            stored = opened(path)
            for key in stored.keys():
                part = stored.get_slice(key)
                self.header[key] = path, tuple(part.get_shape()), part.get_dtype()
                self.ends.setdefault(key.rpartition(".")[0].rpartition(".")[2], []).append(key)
                self.ends.setdefault(key.rpartition(".")[2], []).append(key)

    def weight(self, name: str, shape: tuple[int, int], expert: int | None, swapped: bool) -> Weight | str:
        """The weight (m, n) of a module in the dtype in which it is stored, or why there is none.

        Args:
            shape: (m, n) of the update; the weight of a Conv1D is stored as its transpose.
            expert: which of several fused ones.
            swapped: PEFT's ``fan_in_fan_out``, which decides for a square weight.
        """
        keys, tied = self.home(name, shape, expert)
        if not keys:
            return self._missing(name)
        size, word = self.header[keys[0]][1], last_word(name)
        if word in OWN + EMBEDDINGS and len(size) == 2 and size[0] != shape[0] and size[1] == shape[1]:
            whose = f"the base's weight, tied to {printable(keys[0])}," if tied else "the base's weight"
            return f"{whose} is {size}, the update {shape}: {RESIZE}"
        if self.header[keys[0]][2].startswith("F8") and len(size) == 2 and size not in (shape, shape[::-1]):
            return f"the base's weight is {size}, the update {shape}"
        parts = [self._read(key, expert) for key in keys]
        reason = next((part for part in parts if isinstance(part, str)), None)
        if reason is not None:
            return reason
        matrices = [part for part in parts if isinstance(part, Tensor)]
        W = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
        if len(size) > 2 and W.ndim == 2 and len(W) == shape[0] and shape[1] > W.shape[1] and not shape[1] % W.shape[1]:
            return f"the base's convolution is in {shape[1] // W.shape[1]} groups, across which X reaches"
        if W.ndim != 2 or tuple(W.shape) not in (shape, shape[::-1]):
            return f"the base's weight is {size}, the update {shape}"
        turned = tuple(W.shape) != shape
        if shape[0] == shape[1] and not tied:
            turned = swapped or expert is not None and self._inputs_first(keys[0])
        return Weight(W.mT if turned else W, keys[0], tied)

    def _inputs_first(self, key: str) -> bool:
        """Whether the experts of a square parameter are stored as (n, m), by the shape of the other parameter.

        The one has twice as many rows as the other has columns, so that both cannot be square.
        """
        room, _, parameter = key.rpartition(".")
        other = self.header.get(f"{room}.{'down_proj' if parameter == 'gate_up_proj' else 'gate_up_proj'}")
        return other is not None and len(other[1]) == 3 and other[1][1] < other[1][2]

    def _read(self, key: str, expert: int | None) -> Tensor | str:
        path, size, dtype = self.header[key]
        if dtype not in DTYPES:
            return f"{QUANTISED_HERE}, stored as {dtype}"
        if expert is None or len(size) != 3:
            W = opened(path).get_tensor(key)
            return W.flatten(1) if W.ndim > 2 else W
        return opened(path).get_slice(key)[expert] if expert < size[0] else f"the base has {size[0]} experts"

    def _keys(self, name: str, expert: int | None) -> list[str]:
        """The keys whose rows, one below the other, are the weight of a module."""
        key = self._key(name, expert)
        if key is not None:
            return [key]
        room, _, parameter = bare(name).replace(".base_layer", "").rpartition(".")
        for parts in APART.get(parameter, ()) if expert is not None else ():
            for inside in (room, room.replace(".mlp.experts", ".block_sparse_moe.experts")):
                found = [self._key(f"{inside}.{expert}.{part}", None) for part in parts]
                if None not in found:
                    return [key for key in found if key]
        linear = {"gate_up_proj": "input_linear", "down_proj": "output_linear"}.get(parameter)  # GraniteMoe
        key = self._key(f"{room.removesuffix('.experts')}.{linear}", None) if linear and expert is not None else None
        return [key] if key else self._renamed(name)

    def _renamed(self, name: str) -> list[str]:
        """The one key that transformers gives this name on loading, if any."""
        wanted = [f".{bare(name).replace('.base_layer', '')}{tail}" for tail in TAILS]
        ends = lambda new: any(f".{new}".endswith(one) or one.endswith(f".{new}") for one in wanted)
        keys = {key for new, key in self.new_names.items() if ends(new)}
        return [*keys] if len(keys) == 1 else []

    @functools.cached_property
    def new_names(self) -> dict[str, str]:
        """What transformers renames on loading; asked for where a name is not found."""
        return new_names(self.config, self.header)

    def home(self, name: str, shape: tuple[int, int], expert: int | None = None) -> tuple[list[str], bool]:
        """The keys whose rows, one below the other, are the weight of a module, and whether an embedding lends it."""
        keys, word = self._keys(name, expert), last_word(name)
        if keys or word not in HEADS + EMBEDDINGS:
            return keys, False
        return self._embedding(word, shape), True

    def _embedding(self, layer: str, shape: tuple[int, int]) -> list[str]:
        """The key of the embedding that such a layer shares its weight with, if that is sure but for its rows."""
        keys = [key for word in EMBEDDINGS for key in self.ends.get(word, []) if key.endswith(f"{word}.weight")]
        keys = [key for key in keys if len(self.header[key][1]) == 2 and self.header[key][1][1] == shape[1]]
        shared = [key for key in keys if key.endswith("shared.weight")]
        if layer in EMBEDDINGS and layer != "shared":  # of an encoder and a decoder that have one in common
            keys = shared
        elif len(shared) == 1:
            keys = shared
        if layer not in OWN + EMBEDDINGS:
            keys = [key for key in keys if self.header[key][1] == shape]
        return keys if len(keys) == 1 else []

    def _missing(self, name: str) -> str:
        end = bare(name).replace(".base_layer", "")
        near = (key for key in self.header if key.endswith(QUANTISED))
        if any(f".{end}" in f".{key}" for key in near):
            return QUANTISED_HERE
        return "the base has no weight of this name"

    def key(self, name: str) -> str | None:
        """The key of a module's weight, if any; of an nn.MultiheadAttention that of in_proj_weight."""
        return self._key(name, None) or next(iter(self._renamed(name)), None)

    def _key(self, name: str, expert: int | None) -> str | None:
        """The key of a module: its name, or the longest end of it that a weight has.

        The numbers of layers belong to every end, so that a model with one layer does not stand for another.  Of
        several weights with this end, it is the one with which the name shares most words, if there is one.
        """
        words = bare(name).replace(".base_layer", "").split(".")
        least = next((place for place, word in enumerate(words) if word.isdecimal()), len(words) - 1)
        for tail in ("", ".weight") if expert is not None else TAILS:
            for begin in range(least + 1):
                end = ".".join(words[begin:]) + tail
                near = self.ends.get(words[-1], [])
                found = [key for key in near if key == end or key.endswith("." + end)]
                if end in found:
                    return end
                if found:
                    shared = [len({*words[:begin]} & {*key.split(".")}) for key in found]
                    return (
                        found[shared.index(max(shared))] if len(found) == 1 or shared.count(max(shared)) == 1 else None
                    )
        return None

    def _config(self) -> dict:
        path = self.folder / "config.json"
        try:
            return load(path) if path.is_file() else {}
        except AdapterError:  # its weights are no worse for it
            return {}

    def _files(self) -> list[Path]:
        for stem in FILES:
            if (self.folder / f"{stem}.safetensors").is_file():
                return [self.folder / f"{stem}.safetensors"]
            index = self.folder / f"{stem}.safetensors.index.json"
            if index.is_file():
                named = load(index).get("weight_map")
                names = set(named.values()) if isinstance(named, dict) else {""}
                if not all(isinstance(name, str) and name and name == Path(name).name for name in names):
                    raise AdapterError(f"{index.name} does not say which file of its folder holds which weight.")
                for name in sorted(names):
                    if not (self.folder / name).is_file():
                        raise AdapterError(f"{self.folder} has no {printable(name)}, which its index names.")
                return [self.folder / name for name in sorted(names)]
        if any(re.search(r"\.(bin|pt|pth)$", path.name) for path in self.folder.iterdir()):
            raise AdapterError(f"{self.folder} holds its weights as pickle files: save the base model as safetensors.")
        raise AdapterError(f"{self.folder} has no model.safetensors.")
