"""PEFT's own keys: ``base_model.model.<module>.lora_A.weight`` (r, n) and ``.lora_B.weight`` (m, r), and more kinds.

- embeddings: ``lora_embedding_A`` (r, rows) and ``lora_embedding_B`` (width, r) of ``A^T B^T`` (rows, width);
- convolutions: A (r, in, k, k) and B (out, r, 1, 1);
- fused experts (``target_parameters``): A (E r, n) and B (m, r E), one wrapper around the other for each parameter;
- DoRA: plain factors and a vector of magnitudes.

:mod:`lorabook.adapters.loading` says what PEFT does with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from lorabook.adapters import loading, promises
from lorabook.adapters.formats import PEFT_KEY, PREFIX, bare
from lorabook.adapters.parts import (
    BASE,
    BIAS,
    DIRECTION,
    EMBEDDING,
    EMPTY,
    EXPERT,
    PLAIN,
    REPLACED,
    TOKENS,
    WHOLE,
    Sorting,
    modules,
)
from lorabook.adapters.peft_config import CONFIG, Patterns, printable

QUIET = "PeftModel.from_pretrained warns of missing keys, a Trainer that resumes does not."


def sort_peft(header: dict, config: dict, among_all: bool = False) -> Sorting:
    """The modules of a file with PEFT's keys; ``config`` was checked.

    Args:
        among_all: the file holds all weights of the model.
    """
    found = Sorting(header)
    halves: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    tables: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    magnitudes, dead, wrapped, compiled, nested = set(), 0, 0, 0, 0
    for key, (shape, _) in header.items():
        plain = bare(key)
        name = plain.rpartition(PREFIX)[2]
        match, table = PEFT_KEY.fullmatch(name), re.fullmatch(r"(.+)\.lora_embedding_([AB])(?:\.[^.]+)?", name)
        if match or table:
            inside = key.startswith(PREFIX) and key.replace("._orig_mod.", ".") == plain != key
            compiled += inside
            wrapped += plain != key and not inside
            nested += plain.count(PREFIX) > 1
            dead += plain == key and not key.startswith(PREFIX)
        if "lora_magnitude_vector" in plain:
            magnitudes.add(name.partition(".lora_magnitude_vector")[0])
            found.skipped[key] = "magnitudes of DoRA"
        elif table:
            found.skipped[key] = "factors of an embedding"
            found.half(tables, table[2], table[1], key)
        elif "trainable_tokens_" in plain:
            found.skipped[key] = TOKENS
        elif match:
            if len(shape) > 2:
                found.skipped[key] = "factors of a convolution"
            found.half(halves, match[2], match[1], key)
        elif ".lora_B" in name:
            found.skipped[key] = BIAS
        else:
            mine = not among_all or ".modules_to_save." in name
            found.skipped[key] = REPLACED if ".original_module." in name else WHOLE if mine else BASE
        if key in found.skipped and not (match or table) and 0 in shape:
            found.fault(name, (key,), EMPTY, f"{printable(name)} is empty, of the shape {shape}: {EMPTY}.", False)
    targets = config.get("target_parameters") or []
    scale, named = _Scale(config), _parameters(halves["A"], targets)
    for name, key_A, key_B in found.both(halves):
        name = named.get(name, name)
        rank, said, c = scale.of(name)
        fused = bool(targets or re.search(r"expert|moe", name, re.I))
        found.place(name, key_A, key_B, c, rank=rank, said=said, fused=fused)
    for name, key_A, key_B in found.both(tables):
        rank, said, c = scale.of(name)
        # A^T, which starts at 0, is the left factor of the update of the weight (rows, width)
        found.place(name, key_B, key_A, c, kind=EMBEDDING, transposed=True, rank=rank, said=said)
    _switches(found, config, targets, magnitudes)
    _prefixes(found, dead, wrapped, compiled, nested)
    if all(name in named.values() for name, part in found.parts.items() if part.kind == EXPERT):
        found.notes += scale.unused(found.faults)
    loading.from_files(found, config)
    names = (name for pairs in (halves, tables) for half in pairs.values() for name in half)
    found.notes += promises.unkept(found, config, names)
    return found


class _Scale:
    """Rank and scale of a module: PEFT's rule for the patterns, and alpha / r or alpha / sqrt(r)."""

    def __init__(self, config: dict):
        self.config = config
        self.rank = Patterns(config.get("rank_pattern"), "rank_pattern")
        self.alpha = Patterns(config.get("alpha_pattern"), "alpha_pattern")

    def of(self, name: str) -> tuple[int, object, float]:
        name = name.removesuffix(loading.OUT_PROJ)  # PEFT gives it what nn.MultiheadAttention has
        said = self.rank.of(name, self.config["r"])
        rank = said if isinstance(said, int) else -1
        alpha = self.alpha.of(name, self.config["lora_alpha"])
        return rank, said, alpha / (math.sqrt(said) if self.config.get("use_rslora") else said)

    def unused(self, more: Iterable[str]) -> Iterator[str]:
        """Sentences about keys of both patterns that count for no module, nor for ``more``, or only by their order."""
        for name in more:
            self.of(name)
        for one in (self.rank, self.alpha):
            keys = one.unused()
            if keys:
                yield (
                    f"{len(keys)} of {len(one.keys)} keys of {one.name} count for no module here "
                    f"({loading.some(keys)}): none has such a name, or a key before it fits too."
                )
        if self.alpha.torn:
            yield (
                f"Several keys of alpha_pattern fit {loading.some(self.alpha.torn)}. PEFT takes the first, and sorts "
                "them when it saves: the adapter may have been trained with another alpha."
            )


def _parameters(names: Iterable[str], targets: list[str]) -> dict[str, str]:
    """Module: the parameter that it stands for, under which PEFT looks up its rank and alpha, where that is sure.

    PEFT wraps a module once for each of its target_parameters, the first of the module's definition innermost; every
    model of transformers defines gate_up_proj before down_proj.
    """
    rooms: dict[str, list[str]] = {}
    for name in names:
        rooms.setdefault(re.sub(r"(\.base_layer)+$", "", name), []).append(name)
    found = {}
    for room, wrapped in rooms.items():
        likely = re.search(r"expert|moe", room, re.I)
        of_room = lambda place: f".{room}".endswith(f".{place}") if place else likely
        inner = {target.rpartition(".")[2] for target in targets if of_room(target.rpartition(".")[0])}
        if not targets and likely and f"{room}.base_layer" in wrapped:
            inner = {"gate_up_proj", "down_proj"}
        if len(wrapped) == len(inner) and (len(inner) == 1 or inner == {"gate_up_proj", "down_proj"}):
            found |= {name: f"{room}.{parameter}" for name, parameter in zip(sorted(wrapped, key=len), sorted(inner))}
    return found


def _switches(found: Sorting, config: dict, targets: list[str], magnitudes: set[str]) -> None:
    """What DoRA and fused experts mean for what was measured."""
    if magnitudes or config.get("use_dora"):
        for name, part in found.parts.items():
            if part.kind == PLAIN and (name in magnitudes or not magnitudes):
                found.parts[name] = part._replace(kind=DIRECTION)
                found.skipped |= dict.fromkeys((part.key_A, part.key_B), DIRECTION)
        what = "sets use_dora" if config.get("use_dora") else "holds magnitude vectors (DoRA)"
        found.strict = f"The adapter {what}, so its update is not scale * B A of one weight matrix."
        in_use = (
            "the weight in use is W0 + scale * B A with its rows, of an embedding its columns, scaled to the stored "
            "magnitudes."
        )
        if not config.get("use_dora"):
            in_use = f"{CONFIG} does not set use_dora, so PEFT drops the magnitudes and uses W0 + scale * B A."
        found.notes.append(f"DoRA: what is measured is the direction part, scale * B A; {in_use}")
        bare = len(found.parts.keys() - magnitudes) if config.get("use_dora") else 0
        if bare:
            found.notes.append(
                f"DoRA: no magnitudes are stored for {modules(bare)}. PEFT leaves them at the norms of W0, whatever "
                "was trained."
            )
    experts = [part for part in found.parts.values() if part.kind == EXPERT]
    if targets:
        found.strict = "The adapter sets target_parameters, so its update is not scale * B A of one weight matrix."
    elif experts:
        found.strict = "The adapter holds fused experts, so its update is not scale * B A of one weight matrix."
        found.notes.append(
            f"{modules(len(experts))} with a multiple of the rank in {CONFIG}: taken for fused experts (MoE), though "
            "it has no target_parameters, without which PEFT cannot load them."
        )


def _prefixes(found: Sorting, dead: int, wrapped: int, compiled: int, nested: int) -> None:
    """Say which keys PEFT will not load."""
    if wrapped:
        found.notes.append(
            f"{wrapped} of {len(found.header)} keys carry the prefix of a wrapper (_orig_mod of torch.compile, "
            f"module of data parallelism, or FSDP's): PEFT loads none of these, so the adapter is dead there. {QUIET} "
            "Save the inner model, or take the prefix out of the keys."
        )
        found.strict = found.strict or "The keys carry the prefix of a wrapper (_orig_mod), so PEFT loads none of them."
    if compiled:
        found.notes.append(
            f"{compiled} of {len(found.header)} keys carry _orig_mod inside, the prefix of a wrapper (torch.compile): "
            "PEFT loads these into a model in which the same part is compiled, and none of them into any other. "
            f"{QUIET} Take the prefix out of the keys."
        )
        found.strict = found.strict or (
            "The keys carry _orig_mod inside, so PEFT loads them only into a model that is compiled in the same place."
        )
    if dead:
        found.notes.append(
            f"{dead} of {len(found.header)} keys do not begin with {PREFIX}: PEFT loads none of these. {QUIET}"
        )
    if nested:
        found.notes.append(
            f"{nested} of {len(found.header)} keys have {PREFIX} twice, as where get_peft_model gets a PEFT model: "
            f"PEFT loads none of these into a plain base. {QUIET}"
        )
        found.strict = found.strict or f"The keys have {PREFIX} twice, so PEFT loads none of them into a plain base."
