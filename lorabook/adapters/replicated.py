"""Layers that PEFT's ``layer_replication`` repeats: which layer of the base each one is, and how often it is there."""

from __future__ import annotations

import re

from lorabook.adapters.peft_config import CONFIG, AdapterError, short

MOST_LAYERS = 10_000  # of a base


def original(name: str, config: dict) -> tuple[str, int]:
    """The name that a module has in the base, and how many layers of the model share its weight.

    Args:
        config: the adapter's, whose ``layer_replication`` is a list of ranges ``[begin, end)`` of the base's layers.

    Raises:
        AdapterError: it is none.
    """
    ranges = config.get("layer_replication") or []
    try:
        layers = [k for begin, end in ranges for k in range(max(begin, 0), min(end, MOST_LAYERS))]
    except (TypeError, ValueError):
        raise AdapterError(f"layer_replication must be a list of ranges; {CONFIG} says {short(ranges)}.") from None
    number = re.search(r"(?:^|\.)(?:layers|layer|h)\.(\d+)(?=\.)", name) if layers else None
    if not number or int(number[1]) >= len(layers):
        return name, 1
    layer = layers[int(number[1])]
    return name[: number.start(1)] + str(layer) + name[number.end(1) :], layers.count(layer)
