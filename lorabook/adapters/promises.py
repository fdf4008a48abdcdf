"""What the configuration says that PEFT loads, beside what the file holds: modules, whole weights, tokens, biases.

Each sentence was seen in runs of PEFT 0.21.2, which the tests repeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lorabook.adapters.expressions import Expression, Undecided
from lorabook.adapters.formats import PREFIX
from lorabook.adapters.loading import HEADS, plain_name, some
from lorabook.adapters.parts import EXPERT, TOKENS, WHOLE, Sorting, modules
from lorabook.adapters.peft_config import CONFIG

if TYPE_CHECKING:  # which read the keys that are sorted here
    from lorabook.adapters.base_weights import BaseWeights
    from lorabook.adapters.folder import Adapter

#: What PEFT takes for a wish that the base alone can tell.
ALL_LINEAR = "all-linear"


def unkept(found: Sorting, config: dict, names: Iterable[str]) -> Iterator[str]:
    """Sentences about what one of both has and the other has not.

    Args:
        names: the modules of which the file holds factors, by its own keys.
    """
    yield from _refused(config) or _excluded(found, config, names)
    yield from _empty(found)
    yield from _heads(found, config)
    yield from _tokens(found, config)
    lost = lost_biases(found.skipped, config)
    if lost:
        yield lost


def _refused(config: dict) -> list[str]:
    """Settings that PEFT's LoraConfig does not take together."""
    chosen = [name for name in ("layers_to_transform", "layers_pattern") if config.get(name) is not None]
    if chosen and isinstance(config.get("target_modules"), str):
        what = f"{chosen[0]} beside target_modules that are an expression"
    elif config.get("layers_pattern") and config.get("layers_to_transform") is None:
        what = "layers_pattern without layers_to_transform"
    else:
        return []
    return [f"{CONFIG} has {what}: PEFT refuses to load it."]


# ---------------------------------------------------------------- modules


class Targets:
    """PEFT's rule for the modules that get factors (``check_target_module_exists``), from their names alone."""

    def __init__(self, config: dict):
        self.config = config
        self.known: dict[str, Expression] = {}
        self.listed = {name: frozenset(_strings(config.get(name))) for name in ("target_modules", "exclude_modules")}

    def against(self, name: str) -> str:
        """The setting that keeps the module ``name`` out, or nothing.

        Raises:
            Undecided: the base alone can tell, or an expression cannot be tried.
        """
        targets, out = self.config.get("target_modules"), self.config.get("exclude_modules")
        if targets is None or isinstance(targets, str) and targets.lower() == ALL_LINEAR:
            raise Undecided("The base alone can tell.")
        if out and (self._fits(out, name) if isinstance(out, str) else self._ends("exclude_modules", name)):
            return "exclude_modules"
        if any(self._fits(rf"(?:(^|.*\.){one}($|\..*)).*", name) for one in saved_whole(self.config)):
            return "modules_to_save"
        if isinstance(targets, str):
            return "" if self._fits(targets, name) else "target_modules"
        if name in self.listed["target_modules"]:
            return ""
        if not self._ends("target_modules", name):
            return "target_modules"
        return "" if self._of_layer(name) else "layers_to_transform"

    def _ends(self, setting: str, name: str) -> bool:
        listed = self.listed[setting]
        return name in listed or any(name[dot.end() :] in listed for dot in re.finditer(r"\.", name))

    def _fits(self, expression: str, name: str) -> bool:
        if expression not in self.known:
            self.known[expression] = Expression(expression)
        return self.known[expression].fits(name)

    def _of_layer(self, name: str) -> bool:
        """Whether the layer of ``name`` is one of those that are transformed, if these are chosen."""
        chosen, pattern = (self.config.get(one) for one in ("layers_to_transform", "layers_pattern"))
        if chosen is None or chosen == []:
            return True
        chosen = [chosen] if isinstance(chosen, int) else chosen
        rooms = [r"[^.]*"] if not pattern else [pattern] if isinstance(pattern, str) else _strings(pattern)
        begin = r".*\." if not pattern else r"(?:.*\.)?"
        if not isinstance(chosen, list) or not all(isinstance(one, int) for one in chosen):
            raise Undecided("The layers are no numbers.")
        for room in rooms:
            for number in re.finditer(r"\.(\d+)(?=\.)", name):
                if self._fits(begin + room, name[: number.start()]):
                    return int(number[1]) in chosen
        return False


def saved_whole(config: dict) -> list[str]:
    """The modules that PEFT saves whole: those that are named, and the usual heads of the task."""
    return list(dict.fromkeys([*_strings(config.get("modules_to_save")), *HEADS.get(str(config.get("task_type")), ())]))


def _excluded(found: Sorting, config: dict, names: Iterable[str]) -> Iterator[str]:
    targets, out, kept = Targets(config), dict[str, str](), 0
    inner = [one.rpartition(".")[0] for one in _strings(config.get("target_parameters"))]
    kinds = {plain_name(part.key_A).partition(".lora_")[0]: part.kind for part in found.parts.values()}
    for stored in () if _dead(found) else dict.fromkeys(names):
        name = stored.partition(".base_layer")[0]
        if (
            not inner
            and kinds.get(stored) == EXPERT
            or config.get("ensure_weight_tying")
            and not re.search(r"\d", name)
        ):
            kept += 1  # the one is said elsewhere, and of what shares a weight the base alone can tell
        elif any(not room or f".{name}".endswith(f".{room}") for room in inner):
            kept += 1
        else:
            try:
                why = targets.against(name)
            except Undecided:
                return
            kept += not why
            if why:
                out[stored] = why
    if out:
        which = " and ".join(sorted(set(out.values())))
        left = f"{len(out)} of {modules(len(out) + kept)} of the file" if kept else "every module of the file"
        more = "without a warning" if kept else "and fails where the base has no other module that it names"
        yield f"PEFT leaves out {left}, {more}, as {CONFIG} says ({which}): {some(out)}."


# ---------------------------------------------------------------- the rest


def _empty(found: Sorting) -> Iterator[str]:
    empty = [key for key, (shape, _) in found.header.items() if 0 in shape and key.startswith(PREFIX)]
    if empty and not _dead(found):
        yield (
            f"{len(empty)} of {len(found.header)} tensors are empty: PEFT fails to load the adapter (size mismatch). "
            "With ignore_mismatched_sizes it leaves these as they start, and warns."
        )


def _heads(found: Sorting, config: dict) -> Iterator[str]:
    whole = [plain_name(key) for key, why in found.skipped.items() if why == WHOLE and ".base_layer." not in key]
    has = lambda name: any(f"{name}." in key for key in whole)
    usual = {name for heads in HEADS.values() for name in heads}
    headed = any(has(name) for name in usual) or str(config.get("task_type")) in HEADS
    # PEFT names several usual heads, of which a model has one
    gone = [
        name for name in _strings(config.get("modules_to_save")) if not has(name) and not (headed and name in usual)
    ]
    if gone and not _dead(found):
        yield (
            f"modules_to_save names {some(gone)}, of which nothing is in the file: PEFT fails to load the adapter "
            "(KeyError) into a model that has such a module with weights."
        )


def _tokens(found: Sorting, config: dict) -> Iterator[str]:
    given = config.get("trainable_token_indices")
    stored = [plain_name(key) for key, why in found.skipped.items() if why == TOKENS]
    if isinstance(given, dict):
        has = {name: any(f"{name}.t" in key for key in stored) for name in given}
        # the rows of an output layer that shares the embedding's are saved once
        kept = [given[name] for name, known in has.items() if known]
        gone = [name for name, known in has.items() if not known and given[name] not in kept]
    else:
        gone = ["the embedding"] if isinstance(given, list) and not stored else []
    if gone and not _dead(found):
        yield (
            f"trainable_token_indices names rows of {some(gone)}, of which none are in the file: PEFT fails to load "
            "the adapter (KeyError)."
        )


def lost_biases(skipped: dict[str, str], config: dict, certain: bool = False) -> str:
    """What there is to say of biases that were trained and are not in the file, ``certain`` if the base has some."""
    if config.get("bias") not in ("all", "lora_only"):
        return ""
    whole = [plain_name(key) for key, why in skipped.items() if why == WHOLE]
    heads = saved_whole(config)
    if any(key.endswith("bias") and not any(f"{name}." in key for name in heads) for key in whole):
        return ""
    which = "the base has biases" if config["bias"] == "all" else "the layers of the base have biases"
    return (
        f"bias is {config['bias']} in {CONFIG}, and no bias is in the file. {'As' if certain else 'Where'} {which}, "
        "those that were trained are lost (PEFT 0.19.1 did not save them): PEFT loads the adapter with the biases of "
        "the base and says nothing."
    )


def beside(adapter: Adapter, base: BaseWeights) -> tuple[str, ...]:
    """The notes of the adapter, of which its base decides one: whether it has biases that could be lost."""
    said = lost_biases(adapter.skipped, adapter.config)
    if adapter.config.get("bias") == "all":
        has = any(key.endswith("bias") for key in base.header)
    else:
        keys = (base.key(name) for name in adapter.parts)
        has = any(key and f"{key.removesuffix('weight')}bias" in base.header for key in keys)
    certain = lost_biases(adapter.skipped, adapter.config, certain=True)
    return tuple(certain if note == said else note for note in adapter.notes if has or note != said)


def _dead(found: Sorting) -> bool:
    """Whether the keys are none that PEFT looks for, which is said elsewhere."""
    return bool(found.strict) and found.strict.startswith("The keys")


def _strings(given: Any) -> list[str]:
    """The names in a setting that is a list, or none."""
    return [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
