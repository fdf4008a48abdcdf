"""Names that transformers gives weights on loading where its models have changed since their files were written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any


def new_names(config: dict, keys: Iterable[str]) -> dict[str, str]:
    """The keys of a base's files that transformers renames, by their new names; none where it is not installed.

    Only what is renamed as a whole: weights that are split or put together have no key of their own.

    Args:
        config: the base's ``config.json``, whose classes and types decide, those of its parts too.
    """
    try:
        known = importlib.util.find_spec("transformers.conversion_mapping")
    except ModuleNotFoundError:
        known = None
    if known is None:
        return {}
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    rules = []
    for kind in dict.fromkeys(_kinds(config)):
        classes = MODEL_MAPPING_NAMES.get(kind, ())
        for name in (kind, *((classes,) if isinstance(classes, str) else classes)):
            rules += [rule for rule in get_checkpoint_conversion_mapping(name) or () if type(rule) is WeightRenaming]
    found = {}
    for key in keys:
        new = key
        for rule in rules:
            new = rule.rename_source_key(new)[0]
        if new != key:
            found[new] = key
    return found


def _kinds(config: Any) -> Iterator[str]:
    """The classes and types that a configuration names, with those of its parts."""
    if not isinstance(config, dict):
        return
    named = config.get("architectures")
    yield from (one for one in (named if isinstance(named, list) else []) if isinstance(one, str))
    if isinstance(config.get("model_type"), str):
        yield config["model_type"]
    for part in config.values():
        yield from _kinds(part)
