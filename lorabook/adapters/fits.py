"""Whether an adapter fits its base, beyond the updates: biases, rows of embeddings, attention, weights that are shared.

From names and shapes, and from weights that the adapter brings; :mod:`lorabook.adapters.against_base` measures the
updates themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from lorabook.adapters.base_weights import EMBEDDINGS, HEADS, BaseWeights, last_word
from lorabook.adapters.folder import Adapter, opened
from lorabook.adapters.loading import OUT_PROJ, biased, plain_name, some, token_rows
from lorabook.adapters.outside import relative
from lorabook.adapters.parts import DTYPES, EMBEDDING, WHOLE, Part, modules
from lorabook.adapters.peft_config import printable
from lorabook.adapters.replicated import original
from lorabook.adapters.tied import shares_output


def misfits(adapter: Adapter, base: BaseWeights) -> list[str]:
    """What PEFT cannot load into this base, cannot merge with it or does not use in it, in sentences."""
    said = [*_biases(adapter, base), *_tokens(adapter, base), *_whole(adapter, base), *_attention(adapter, base)]
    return [*said, *_tied(adapter, base), *_copies(adapter, base)]


def _key(adapter: Adapter, base: BaseWeights, name: str) -> str | None:
    """The key in the base of a module's weight, that of the layer which it may be a copy of."""
    return base.key(original(name, adapter.config)[0])


def _copies(adapter: Adapter, base: BaseWeights) -> Iterator[str]:
    many = [name for name in adapter.parts if original(name, adapter.config)[1] > 1 and _key(adapter, base, name)]
    if many:
        yield (
            f"layer_replication repeats layers, and copies share the base's weights ({some(many)}): a merge puts the "
            "updates of all copies into one weight, which each of them then has. Do not merge; lost is left out there."
        )


def _biases(adapter: Adapter, base: BaseWeights) -> Iterator[str]:
    weights = {name: _key(adapter, base, name) for name in biased(adapter.skipped)}
    bare = [name for name, key in weights.items() if key and f"{key.removesuffix('weight')}bias" not in base.header]
    if bare:
        yield f"The adapter has a bias and the base has none in {modules(len(bare))}: PEFT cannot merge {some(bare)}."


def _tokens(adapter: Adapter, base: BaseWeights) -> Iterator[str]:
    for _, name, indices in token_rows(adapter.skipped, adapter.config):
        key = base.key(name)
        rows = base.header[key][1][0] if key else None
        if rows is not None and max(indices, default=0) >= rows:
            yield (
                f"trainable_token_indices go up to {max(indices)}, but {printable(name)} of the base has {rows} rows: "
                "PEFT cannot load the adapter until they are added (resize_token_embeddings)."
            )
        shared = [other for other, (_, shape, _) in base.header.items() if other.endswith("bias") and shape == (rows,)]
        if key and shared and shares_output(base, key, adapter.config):
            yield (
                f"The output layer shares {printable(name)}, and PEFT up to 0.21.2 leaves out its bias, "
                f"{some(shared[:1])}, while an adapter with trained tokens is in use; after a merge it is there again."
            )


def _whole(adapter: Adapter, base: BaseWeights) -> Iterator[str]:
    for stored in (key for key, why in adapter.skipped.items() if why == WHOLE):
        name, _, tail = plain_name(stored).replace(".base_layer", "").rpartition(".")
        key = base.key(name) if tail == "weight" else None
        shape = tuple(opened(adapter.files[stored]).get_slice(stored).get_shape())
        if key and 0 not in shape and base.header[key][1] != shape:
            yield (
                f"{printable(name)} is saved whole as {shape}, and the base has {base.header[key][1]}: PEFT cannot "
                "load it until the base is of that size (resize_token_embeddings, or num_labels of a head)."
            )
        elif key and ".base_layer." in stored and base.header[key][2] in DTYPES:
            own, other = opened(adapter.files[stored]), opened(base.header[key][0])
            far = relative(own.get_tensor(stored), other.get_tensor(key))
            if far:
                yield (
                    f"The adapter brings a weight of {printable(name)} of its own (relative distance {far:.2g}), which "
                    "PEFT puts in the place of the base's; what stands beside W0 is beside the base's."
                )


def _attention(adapter: Adapter, base: BaseWeights) -> Iterator[str]:
    rooms = {name: name.removesuffix(".out_proj") for name in adapter.parts if name.endswith(".out_proj")}
    weights = {
        name: _key(adapter, base, name) for name, room in rooms.items() if f"{room}{OUT_PROJ}" not in adapter.parts
    }
    inside = lambda key: f"{key.removesuffix('out_proj.weight')}in_proj_weight" in base.header
    idle = [name for name, key in weights.items() if key and OUT_PROJ not in name and inside(key)]
    if idle:
        yield (
            f"An nn.MultiheadAttention never calls its out_proj, so that PEFT's update there is not in use and gets no "
            f"gradient, though a merge adds it: {some(idle)}. Name the attention itself in target_modules."
        )


def _tied(adapter: Adapter, base: BaseWeights) -> Iterator[str]:
    rooms: dict[str, list[tuple[str, bool]]] = {}  # the weights of embeddings: whose they are in the adapter
    for name, part in adapter.parts.items():
        if part.kind == EMBEDDING or last_word(name) in HEADS:
            keys, lent = base.home(name, _shape(adapter, part))
            if len(keys) == 1 and (lent or part.kind == EMBEDDING):
                rooms.setdefault(keys[0], []).append((name, lent))
    for key, found in rooms.items():
        names = [name for name, _ in found]
        heads = [name for name in names if last_word(name) in HEADS]
        yield from _unused(base, key, [name for name in names if last_word(name) == "shared"])
        output = not heads and not _kept(adapter, HEADS) and shares_output(base, key, adapter.config)
        lent = found[0][1] and not _kept(adapter, EMBEDDINGS)
        unless = "unless they are untied before"
        puts = "makes both changes to it, one after the other"  # each with norms of its own
        if not adapter.config.get("use_dora"):
            puts = "adds the updates of both to it, so twice the same one under ensure_weight_tying"
        if len(names) == 2 and len(heads) == 1:
            yield (
                f"{printable(heads[0])} shares its weight with the embedding ({printable(key)}): a merge {puts}, "
                f"{unless}; lost is left out."
            )
        elif len(names) > 1:
            too = ", which is that of the output layer too" if output else ""
            yield (
                f"{some(names)} share one weight ({printable(key)}){too}: a merge puts the updates of all into it, "
                f"{unless}; lost is left out."
            )
        elif lent or output:
            of = "the output layer" if output else f"the embedding ({printable(key)})"
            yield f"{printable(names[0])} shares its weight with {of}: a merge changes both, {unless}."


def _kept(adapter: Adapter, words: tuple[str, ...]) -> bool:
    """Whether a layer of such a name is in modules_to_save, where PEFT copies it: its weight is then its own."""
    kept = adapter.config.get("modules_to_save") or []
    return isinstance(kept, list) and any(isinstance(name, str) and last_word(name) in words for name in kept)


def _unused(base: BaseWeights, key: str, names: list[str]) -> Iterator[str]:
    sides = [any(f".{side}." in f".{other}" for other in base.header) for side in ("encoder", "decoder")]
    if names and all(sides):
        yield (
            f"The encoder and the decoder have embeddings of their own beside {some(names)}, with the same weight: "
            f"PEFT's update there is not in use and gets no gradient, though a merge adds it to {printable(key)}. "
            "Name embed_tokens in target_modules."
        )


def _shape(adapter: Adapter, part: Part) -> tuple[int, int]:
    """(m, n) of an update that is no convolution's."""
    B, A = (tuple(opened(adapter.files[key]).get_slice(key).get_shape()) for key in (part.key_B, part.key_A))
    return (B[-1], A[0]) if part.transposed else (B[0], A[-1])
