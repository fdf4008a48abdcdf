"""Whether a base model's output layer has the weight of its embedding, from its config.json and the names in its files.

No output layer that is stored, in a class that has one, is the sign.  ``tie_word_embeddings`` is asked too: families
whose files leave it out have it from the default of their class, where transformers is there to tell.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from lorabook.adapters.base_weights import EMBEDDINGS, HEADS, OWN, BaseWeights
from lorabook.adapters.folder import opened

#: Tasks of PEFT whose models have an output layer over the vocabulary, and those whose models have none.
WORDS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
NO_WORDS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
#: Classes of transformers with such a layer, by a part of their name.
CLASSES = re.compile(r"CausalLM|MaskedLM|LMHead|Seq2SeqLM|Generation|PreTraining|DoubleHeads")


def shares_output(base: BaseWeights, key: str, adapter: dict) -> bool:
    """Whether ``key``, the weight of an embedding in the base's files, is also that of the output layer.

    Args:
        adapter: the adapter's configuration, whose task says whether there is such a layer.
    """
    if key.rpartition(".")[0].rpartition(".")[2] not in EMBEDDINGS:
        return False
    writes, said = _writes(base.config, adapter), _said(base.config)
    if writes is False:
        return False
    stored = _stored(base, key)
    if stored:
        # transformers ties equal weights alone where both are stored
        return said is True and len(stored) == 1 and _equal(base, key, stored[0])
    return said is not False


def _writes(config: dict, adapter: dict) -> bool | None:
    """Whether the class of the adapter's model has an output layer over the vocabulary; None if it is not known."""
    task = adapter.get("task_type")
    if task in WORDS or task in NO_WORDS:
        return task in WORDS
    mapping = adapter.get("auto_mapping")
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if not isinstance(name, str):
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str):
        return None
    if CLASSES.search(name):
        return True
    return False if re.search(r"Model$|For[A-Z]\w+$", name) else None


def _said(config: dict) -> bool | None:
    """What the configuration says of tie_word_embeddings; where it is silent, the default of its class, if known."""
    inner = config.get("text_config")
    said = [one.get("tie_word_embeddings") for one in (config, inner) if isinstance(one, dict)]
    said = [one for one in said if isinstance(one, bool)]
    if said:
        return any(said)
    try:
        from transformers import CONFIG_MAPPING

        default: Any = CONFIG_MAPPING[config["model_type"]]().tie_word_embeddings
    except Exception:  # no transformers, no such family, or one whose configuration has no defaults
        return None
    return default if isinstance(default, bool) else None


def _stored(base: BaseWeights, key: str) -> list[str]:
    """The keys of an output layer's own weight."""
    found = []
    for other, (_, shape, _) in base.header.items():
        room = other.rpartition(".")[0]
        word = room.rpartition(".")[2]
        if other == key or other.endswith("bias") or re.search(r"\.\d+\.", f".{room}."):
            continue
        alike = shape == base.header[key][1] and word in HEADS
        if alike or word in OWN:
            found.append(other)
    return found


def _equal(base: BaseWeights, *keys: str) -> bool:
    one, other = (opened(base.header[key][0]).get_tensor(key) for key in keys)
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
