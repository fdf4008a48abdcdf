"""A smaller adapter from a saved one: the best update of lower rank in every module, as a folder that PEFT loads.

``X = scale * B @ A`` (m, n) becomes ``X_k``, the k leading terms of its singular value decomposition, which no update
of rank k is nearer to (Eckart & Young 1936).  With ``B A = U diag(s) Vh`` its factors are ``B' = U sqrt(s)`` and
``A' = sqrt(s) Vh``, and alpha is set so that the scale stays what it was: a bias of the adapter, which PEFT scales too,
stays right, and training can go on.  A module from which nothing is cut keeps its factors bit by bit.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lorabook.adapters import products
from lorabook.adapters.folder import Adapter, survey, tensors
from lorabook.adapters.formats import PREFIX, bare
from lorabook.adapters.loading import OUT_PROJ
from lorabook.adapters.parts import EXPERT, Part
from lorabook.adapters.peft_config import CONFIG, MOVES_BASE, AdapterError, printable
from lorabook.adapters.updates import products_of, stored, trouble
from lorabook.adapters.weight_files import WEIGHTS


@dataclass(frozen=True)
class Truncated:
    """What became of one update."""

    name: str  # of the module, with the expert's number in brackets
    shape: tuple[int, int]  # (m, n)
    allowed: int  # the rank that the factors allowed
    kept: int  # and allow now
    scale: float
    norm: float  # ||X||_F as it was
    error: float  # ||X - X'||_F for X' as it was written, rounding of its factors included
    singular_values: tuple[float, ...]  # of X
    kind: str = ""  # an embedding, a convolution, an expert, the direction part of DoRA; plain where empty

    def left_out(self, rank: int) -> float:
        """``||X - X_k||_F`` for the best X_k of this rank."""
        return products.length(list(self.singular_values[rank:]))

    @property
    def relative(self) -> float:
        """``||X - X'||_F / ||X||_F``, 0 for X = 0."""
        return self.error / self.norm if self.norm else 0.0


def truncate_folder(
    path: str | Path,
    out: str | Path | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Adapter, list[Truncated]]:
    """The adapter of ``path`` at a lower rank, and what happens to every module.

    Args:
        path: folder of a PEFT adapter.
        out: a folder that does not exist yet.  It appears whole or not at all.  None: only the errors are wanted.
        rank: no module has more than this, but a convolution in groups stays as it is.
        energy: or: every module keeps the fewest directions that carry this share of ``||X||_F^2``.  All experts of a
            parameter have one rank, the highest that one of them needs, as have the projections of an attention.
        progress: is called with a line after every module.

    Raises:
        AdapterError: the adapter cannot be read or truncated, the rank is above what is there, or ``out`` exists.
    """
    if (rank is None) == (energy is None):
        raise ValueError("Give either a rank or a share of the energy.")
    if rank is not None and rank < 1 or energy is not None and not 0 < energy <= 1:
        raise ValueError(f"A rank is 1 or more and a share of the energy is in (0, 1]; got {rank or energy}.")
    out = None if out is None else _new_folder(out)
    adapter = survey(path)
    _whole(adapter)
    parts = adapter.parts
    most = max(part.rank for part in parts.values())
    if rank is not None and rank > most:
        raise AdapterError(f"The rank {rank} is above what is there: no module of the adapter has more than {most}.")
    together = {} if energy is None else _common(adapter, energy)
    new: dict[str, Tensor] = {}
    kept: dict[str, int] = {}
    found = []
    for name, part, B, A in stored(adapter):
        halves = []
        for label, left, right in products_of(name, part, B, A):
            _sound(label, left, right)
            goal = part.rank if part.groups > 1 else together.get(name, rank)
            left, right, said = truncate(label, left, right, part.scale, goal, energy)
            halves.append((left, right))
            found.append(replace(said, kind=part.kind))
        kept[name] = found[-1].kept
        if out:
            cut = kept[name] < part.rank
            new[part.key_B], new[part.key_A] = _as_stored(part, halves, B, A) if cut else (B, A)
        if progress:
            progress(f"{len(kept)} of {len(parts)} modules")
    if out:
        rest = tuple(adapter.files.keys() - new.keys())
        new |= dict(zip(rest, next(tensors(adapter.files, [rest]))))
        _write(out, smaller(adapter.config, parts, kept), new)
    return adapter, found


def truncate(
    name: str, B: Tensor, A: Tensor, scale: float, rank: int | None = None, energy: float | None = None
) -> tuple[Tensor, Tensor, Truncated]:
    """The smaller factors B' (m, k), A' (k, n) of one module in the dtypes of the given ones, and their error.

    Args:
        B, A: (m, r) and (r, n) as they are stored.
        scale: c of ``X = c B A``, before and after.
        rank, energy: as for :func:`truncate_folder`; the rank counts where both are given.

    Raises:
        AdapterError: the smaller factors do not fit into the dtype.
    """
    wide_B, wide_A = B.double(), A.double()
    U, s, Vh = products.svd(wide_B, wide_A)
    values, r = (s * abs(scale)).tolist(), A.shape[0]
    # PEFT has no module of rank 0: an update that is 0 keeps one direction
    keep = min(rank, r) if rank is not None else max(1, products.energy_rank(s, energy))
    said = Truncated(name, (len(B), A.shape[1]), r, r, scale, products.length(values), 0.0, tuple(values))
    if keep >= r:
        return B, A, said
    keep = min(keep, len(s))
    eps = max(torch.finfo(half.dtype).eps for half in (B, A))
    # a direction without update gets B = 0 and A of the size of the others, as a start has: with both 0 it could not
    # be trained any more
    live, root = s[:keep] > eps * s[0], s[:keep].sqrt()
    new_B, new_A = U[:, :keep] * (root * live), root.where(live, root[0])[:, None] * Vh[:keep]
    new_B, new_A = new_B.to(B.dtype), new_A.to(A.dtype) if values[0] else A[:keep]
    if not all(bool(half.isfinite().all()) for half in (new_B, new_A)):
        raise AdapterError(f"The smaller factors of {printable(name)} are too large for {B.dtype}.")
    error = abs(scale) * products.norm(*products.joined((1.0, wide_B, wide_A), (-1.0, new_B, new_A)))
    return new_B, new_A, replace(said, kept=keep, error=error)


def smaller(config: dict, parts: dict[str, Part], kept: dict[str, int]) -> dict:
    """The configuration with the new ranks, under which PEFT computes the old scales.

    The most frequent rank and alpha stand as ``r`` and ``lora_alpha``; the modules with others are in the patterns.
    """
    if all(kept[name] == part.rank for name, part in parts.items()):
        return config
    grown = math.sqrt if config.get("use_rslora") else float
    rank, alpha, experts = {}, {}, {}
    for name, part in parts.items():
        key = _room(name, part)
        # fifteen digits: alpha is a short number again where it was one
        value = float(f"{part.scale * grown(kept[name]):.15g}")
        said = kept[name], int(value) if value == int(value) else value, part.experts
        if (rank.setdefault(key, said[0]), alpha.setdefault(key, said[1]), experts.setdefault(key, said[2])) != said:
            raise AdapterError(
                f"The parameters in {printable(key)} have different ranks, and the file does not say which is which."
            )
    unnamed = {_room(name, part) for name, part in parts.items() if _unnamed(name, part)}
    ends = {name[place + 1 :] for name in rank for place, letter in enumerate(name) if letter == "."}
    usual = [Counter(values.values()).most_common(1)[0][0] for values in (rank, alpha)]
    new = {"r": usual[0], "lora_alpha": usual[1]}
    for pattern, values, most in zip(("rank_pattern", "alpha_pattern"), (rank, alpha), usual):
        new[pattern] = {_key(name, ends, unnamed): value for name, value in values.items() if value != most}
    new["init_lora_weights"] = True  # the start is over, and an orthogonal one would refuse an odd rank
    return config | new | ({"eva_config": None} if "eva_config" in config else {})


def _key(name: str, ends: set[str], unnamed: set[str]) -> str:
    """A pattern that PEFT matches with this module alone: it tries them, as expressions, on the ends of names."""
    key = name if re.fullmatch(r"[\w.\-]*", name) else re.escape(name)
    key += r"(\.\w+)?" if name in unnamed else ""  # PEFT's name goes on with that of the parameter
    return "^" + key if name in ends or key != name else key


def _room(name: str, part: Part) -> str:
    """What PEFT gives its rank: the experts' parameter, all of them where it is not known, an attention."""
    if _unnamed(name, part):
        return re.sub(r"(\.base_layer)*$", "", name)
    return name if part.kind == EXPERT else name.removesuffix(OUT_PROJ)


def _unnamed(name: str, part: Part) -> bool:
    """Whether these are experts of a parameter that the file does not name."""
    return part.kind == EXPERT and part.key_A.startswith(f"{PREFIX}{name}.lora_A")


def _common(adapter: Adapter, energy: float) -> dict[str, int]:
    """One rank for all experts and all parts of what has one: the highest that one needs."""
    rooms = {name: _room(name, part) for name, part in adapter.parts.items()}
    several = Counter(rooms.values())
    chosen = {
        name: rooms[name] for name, part in adapter.parts.items() if part.kind == EXPERT or several[rooms[name]] > 1
    }
    need = dict.fromkeys(chosen.values(), 1)
    for name, part, B, A in stored(adapter) if chosen else ():
        for label, left, right in products_of(name, part, B, A) if name in chosen else ():
            _sound(label, left, right)
            values = products.singular_values(left.double(), right.double())
            need[chosen[name]] = max(need[chosen[name]], products.energy_rank(values, energy))
    return {name: need[room] for name, room in chosen.items()}


def _as_stored(part: Part, halves: list[tuple[Tensor, Tensor]], old_B: Tensor, old_A: Tensor) -> tuple[Tensor, Tensor]:
    """What the file holds for the factors of every expert; undoes :meth:`Part.factors`."""
    if part.experts > 1:
        B, A = torch.stack([B for B, _ in halves], -1).flatten(1), torch.cat([A for _, A in halves])
    elif part.transposed:
        B, A = (half.mT for half in halves[0])
    else:
        B, A = halves[0]
        B, A = B.reshape(len(B), -1, *old_B.shape[2:]), A.reshape(-1, *old_A.shape[1:])
    return B.contiguous(), A.contiguous()


def _whole(adapter: Adapter) -> None:
    """Raise where PEFT would not load what is written, or not beside the same base."""
    start = str(adapter.config.get("init_lora_weights"))
    if start.lower().startswith(MOVES_BASE):
        raise AdapterError(
            f"The start {printable(start)} moves the base weights by an amount that depends on the rank, so a smaller "
            "adapter would stand on another base: convert it to plain LoRA first (PEFT's save_pretrained with "
            "path_initial_model_for_weight_conversion)."
        )
    if adapter.faults:
        raise AdapterError(next(iter(adapter.faults.values())).sentence)
    if any(part.kind == EXPERT for part in adapter.parts.values()) and not adapter.config.get("target_parameters"):
        raise AdapterError(
            f"The adapter holds fused experts, but {CONFIG} names no target_parameters, without which PEFT loads none "
            "of them: add them first."
        )
    keys = [key for part in adapter.parts.values() for key in (part.key_A, part.key_B)]
    # a wrapper's name, before or inside the prefix, or a second prefix: PEFT looks for none of these
    loaded = all(key == bare(key) and key.startswith(PREFIX) and key.count(PREFIX) == 1 for key in keys)
    known = any(adapter.config.get(one) for one in ("use_dora", "target_parameters", "alora_invocation_tokens"))
    known = known or any(part.groups > 1 for part in adapter.parts.values())
    if adapter.strict and not (loaded and known):
        raise AdapterError(adapter.strict)


def _sound(label: str, B: Tensor, A: Tensor) -> None:
    sentence = trouble(label, B, A)
    if sentence:
        raise AdapterError(sentence)


def _new_folder(path: str | Path) -> Path:
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise AdapterError(f"{path} exists; give the name of a new folder.")
    if not path.parent.is_dir():
        raise AdapterError(f"There is no folder {path.parent} for the new adapter.")
    return path


def _write(out: Path, config: dict, new: dict[str, Tensor]) -> None:
    """Both files in a folder beside, which then gets its name."""
    aside = out.with_name(f"{out.name}.part{os.getpid()}")
    try:
        aside.mkdir()
        (aside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(new, aside / WEIGHTS, metadata={"format": "pt"})
        aside.rename(out)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AdapterError(f"{out} cannot be written ({printable(why)}).") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
