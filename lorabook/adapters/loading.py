"""What PEFT does with an adapter's files where that is not what one would think, from names and shapes alone.

Each sentence was seen in runs of PEFT 0.21.2, which the tests repeat.  :mod:`lorabook.adapters.fits` goes on beside
the base.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from lorabook.adapters.formats import PREFIX, bare
from lorabook.adapters.parts import BIAS, TOKENS, WHOLE, Part, Sorting, modules
from lorabook.adapters.peft_config import CONFIG, printable

#: What PEFT's keys add to the name of an ``nn.MultiheadAttention`` for its second projection.
OUT_PROJ = ".base_layer.out_proj"
#: Tasks for which PEFT saves a head whole, where it has one of these names.
HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


def from_files(found: Sorting, config: dict) -> None:
    """Add to the notes of sorted keys what their files tell, and what makes an update none of one weight."""
    found.notes += [*_attention(found), *_convolutions(found), *_biases(found), *_tokens(found, config)]
    found.notes += _whole(found, config)
    if config.get("alora_invocation_tokens"):
        found.notes.append("aLoRA: X acts on the tokens from the invocation on, no others, and PEFT does not merge it.")
        found.strict = (
            found.strict or "The adapter sets alora_invocation_tokens, so its update is not that of a weight."
        )


def in_groups(parts: dict[str, Part]) -> str:
    """A sentence if there is a convolution in groups, whose update is none of its weight."""
    name = next((name for name, part in parts.items() if part.groups > 1), None)
    if name is None:
        return ""
    return f"The convolution {printable(name)} is in groups, and its update reaches across them: its weight does not."


def plain_name(key: str) -> str:
    """A key without PEFT's prefix and without what wrappers put into it."""
    return bare(key).rpartition(PREFIX)[2]


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def biased(skipped: dict[str, str]) -> list[str]:
    """The modules that have a bias of the adapter's own."""
    return [plain_name(key).partition(".lora_B")[0] for key, why in skipped.items() if why == BIAS]


def token_rows(skipped: dict[str, str], config: dict) -> Iterator[tuple[str, str, list[int]]]:
    """Key, module and indices of the single rows of an embedding that were trained, where the indices are known."""
    given = config.get("trainable_token_indices")
    for key in (key for key, why in skipped.items() if why == TOKENS):
        match = re.fullmatch(r"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.[^.]+)?", plain_name(key))
        own = given
        if match and isinstance(given, dict):
            own = next((rows for end, rows in given.items() if f".{match[1]}".endswith(f".{end}")), None)
        if match and isinstance(own, list) and all(isinstance(row, int) for row in own):
            yield key, match[1], own


def _attention(found: Sorting) -> Iterator[str]:
    twice = [name for name in found.parts if name.endswith(OUT_PROJ) and name.removesuffix(OUT_PROJ) in found.parts]
    if twice:
        yield (
            f"PEFT up to 0.21.2 adds the update of an nn.MultiheadAttention's out_proj twice, in use and in a merge, "
            f"so that the model has 2 X there: {some(twice)}."
        )
    idle = [name for one in twice if (name := f"{one.removesuffix(OUT_PROJ)}.out_proj") in found.parts]
    if idle:
        yield f"PEFT does not use the update of {some(idle)}: an nn.MultiheadAttention that is adapted has another."


def _convolutions(found: Sorting) -> Iterator[str]:
    for name, part in found.parts.items():
        if part.groups > 1:
            yield (
                f"{printable(name)} is taken for a convolution in {part.groups} groups, by the shapes of its factors. "
                "PEFT does not merge it, since X reaches across the groups; truncate leaves it as it is."
            )
    # PEFT takes every kernel that begins with 1 x 1 for that of a Conv2d
    points = [name for name, part in found.parts.items() if _kernel(found, part.key_A)[:2] == (1, 1)]
    points = [name for name in points if len(_kernel(found, found.parts[name].key_A)) == 3]
    if points:
        yield f"PEFT up to 0.21.2 fails to merge a Conv3d with a kernel of 1 x 1 x k: {some(points)}."


def _kernel(found: Sorting, key: str) -> tuple[int, ...]:
    return found.header[key][0][2:]


def _biases(found: Sorting) -> Iterator[str]:
    names = biased(found.skipped)
    if names:
        has = "has a bias of its" if len(names) == 1 else "have biases of their"
        yield (
            f"{modules(len(names))} {has} own (lora_bias), which is no part of X. PEFT's merge stops with an error at "
            "a layer whose base has no bias, and leaves the layers before it merged."
        )


def _tokens(found: Sorting, config: dict) -> Iterator[str]:
    for key, name, indices in token_rows(found.skipped, config):
        rows = found.header[key][0][0]
        if len(indices) != rows:
            yield f"{rows} rows of {printable(name)} are stored, but {CONFIG} names {len(indices)}: PEFT loads none."
        below = [row for row in indices if row < 0]
        if below:
            yield f"trainable_token_indices has {below[0]} for {printable(name)}, below 0: PEFT fails to use it."


def _whole(found: Sorting, config: dict) -> Iterator[str]:
    whole = [key for key, why in found.skipped.items() if why == WHOLE]
    factors = [key for part in found.parts.values() for key in (part.key_A, part.key_B)]
    if whole:
        what = "1 tensor is saved whole" if len(whole) == 1 else f"{len(whole)} tensors are saved whole"
        yield f"{what}, {_megabytes(found, whole)} MB beside {_megabytes(found, factors)} MB of factors."
    elif str(config.get("task_type")) in HEADS and found.parts:
        names = " or ".join(HEADS[config["task_type"]])
        yield (
            f"The task is {config['task_type']}, but no head is saved (modules_to_save): PEFT fails to load the "
            f"adapter (KeyError) into a model whose head is called {names}, and in any other uses the head of the "
            "model, which is random unless the base brings one."
        )


def _megabytes(found: Sorting, keys: list[str]) -> str:
    bits = sum(
        math.prod(shape) * int((re.search(r"\d+", dtype) or ["8"])[0]) for shape, dtype in map(found.header.get, keys)
    )
    return f"{bits / 8e6:.3g}"
