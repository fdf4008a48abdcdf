"""Which layers of a PEFT model the tools work on: plain linear layers with plain LoRA, not merged.

Everything else is refused by name, because its update is not ``scale * B @ A`` beside a weight with a gradient.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor, nn

from lorabook.checks import package


class Target(NamedTuple):
    """One adapted layer: ``W = W0 + scale * B @ A``."""

    layer: nn.Module  # PEFT's layer, or the base's own where the update was added to its weight
    weight: nn.Parameter  # (m, n) of the base; its gradient is dL/dW
    B: Tensor  # (m, r), as A in the dtype in which it is stored
    A: Tensor  # (r, n)
    scale: float


def targets(model: nn.Module, adapter: str | None = None) -> dict[str, Target]:
    """The adapted layers of a PEFT model, by the name of the module in it.

    Args:
        model: what ``peft.get_peft_model`` returns.
        adapter: name of the adapter; default the active one.

    Raises:
        ValueError: no PEFT model, several active adapters, or a layer that is not plain LoRA on ``nn.Linear``.
        ImportError: PEFT is not installed.
    """
    PeftModel = package("peft", "real").PeftModel
    from peft.tuners.lora import Linear, LoraLayer

    if not isinstance(model, PeftModel):
        raise ValueError(
            f"The model must be a PEFT model, as peft.get_peft_model makes it; got {type(model).__name__}."
        )
    active = list(model.base_model.active_adapters)
    if adapter is None and len(active) != 1:
        raise ValueError(f"Say which adapter is meant: {len(active)} are active ({', '.join(active)}).")
    adapter = active[0] if adapter is None else adapter
    if adapter not in model.peft_config:
        raise ValueError(f"The model has no adapter {adapter!r}; it has {', '.join(model.peft_config)}.")
    kind = str(getattr(model.peft_config[adapter].peft_type, "value", model.peft_config[adapter].peft_type))
    if kind != "LORA":
        raise ValueError(f"The adapter {adapter!r} is of the kind {kind}; only LoRA has the factors B and A.")
    found = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in {**layer.lora_A, **layer.lora_embedding_A}:
            continue
        name = name.removeprefix("base_model.model.")
        refuse = _trouble(layer, adapter, Linear)
        if refuse:
            raise ValueError(f"{name} {refuse}: only plain LoRA on linear layers can be used.")
        B, A = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
        found[name] = Target(layer, layer.get_base_layer().weight, B, A, float(layer.scaling[adapter]))
    if not found:
        raise ValueError(f"The adapter {adapter!r} has no LoRA layer.")
    alone(model, {name: target.weight for name, target in found.items()})
    return found


def alone(model: nn.Module, weights: dict[str, nn.Parameter]) -> None:
    """Raise ValueError if a weight serves in several places of the model: its gradient is then a sum over them."""
    times = Counter(id(one) for module in model.modules() for one in module._parameters.values() if one is not None)
    for name, weight in weights.items():
        if times[id(weight)] > 1:
            raise ValueError(
                f"The weight of {name} is shared with another layer, so its gradient is not this layer's alone."
            )


def _trouble(layer, adapter: str, linear: type[Any]) -> str:
    base = layer.get_base_layer()
    if adapter in layer.lora_variant or layer.use_dora.get(adapter):
        variant = type(layer.lora_variant.get(adapter)).__name__.removesuffix("LinearVariant")
        return f"uses the variant {variant or 'DoRA'}"
    if type(layer) is not linear or type(base) is not nn.Linear:
        return f"adapts a layer of type {type(base).__name__}"
    if not base.weight.is_floating_point() or base.weight.dtype.itemsize < 2 or base.weight.is_meta:
        return f"has a base weight of type {base.weight.dtype} without gradients"
    if layer.merged:
        return "is merged into its base weight (call unmerge_adapter first)"
    if layer.lora_bias.get(adapter):
        return "has a bias in its adapter"
    return ""
