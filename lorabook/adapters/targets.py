"""Which layers of a PEFT model the tools work on: plain LoRA beside a linear layer, not merged.

``nn.Linear`` and transformers' ``Conv1D``, which stores its weight transposed.  Every other layer is named with the
reason: its update is not ``scale * B @ A`` beside a weight whose gradient is this layer's.

A start asks for less, since it is taken where the adapter is off.  It also takes parameters (``target_parameters``),
fused experts one by one, and DoRA beside a linear layer: with its magnitudes at the norms of the rows of
``W0 + scale * B @ A`` its weight is ``W0 + scale * B @ A``, and this is how PEFT makes them.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lorabook.checks import package

NAMED = 3  # names in a sentence; the others are counted


class Target(NamedTuple):
    """One adapted layer: ``W = W0 + scale * B @ A``."""

    layer: nn.Module  # PEFT's layer, or the base's own where the update was added to its weight
    weight: nn.Parameter  # of the base: W (m, n), or its transpose
    B: Tensor  # (m, r), as A in the dtype in which it is stored
    A: Tensor  # (r, n)
    scale: float
    transposed: bool = False  # the weight is stored as (n, m)
    parameter: bool = False  # the weight is no linear layer's own
    expert: int | None = None  # which of the matrices that the weight (E, m, n) holds; B and A are then views
    magnitudes: nn.Parameter | None = None  # (m,) of DoRA

    def matrix(self, stored: Tensor) -> Tensor:
        """(m, n) of what is stored like the weight, as its gradient is; of a layer alone the same turns it back."""
        stored = stored if self.expert is None else stored[self.expert]
        return stored.mT if self.transposed else stored


def targets(model: nn.Module, adapter: str | None = None) -> dict[str, Target]:
    """The layers of :func:`sort_out` that can be used; ValueError if there are none."""
    found, left = sort_out(model, adapter)
    if not found:
        raise ValueError(f"No module can be used: {describe(left)}.")
    return found


def sort_out(
    model: nn.Module, adapter: str | None = None, start: bool = False
) -> tuple[dict[str, Target], dict[str, str]]:
    """The adapted layers of a PEFT model, by the name of the module in it.

    Args:
        model: what ``peft.get_peft_model`` returns.
        adapter: name of the adapter; default the active one.
        start: also what only a start can be taken of; experts by the name of their parameter and a number in brackets.

    Returns:
        Those that can be used, and of the others the reason.

    Raises:
        ValueError: no PEFT model, several active adapters, no LoRA layer.
        ImportError: PEFT is not installed.
    """
    PeftModel = package("peft", "real").PeftModel
    from peft.tuners.lora import LoraLayer

    if not isinstance(model, PeftModel):
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        hint = ": pass the model inside it" if isinstance(inner, PeftModel) else ""
        raise ValueError(
            f"The model must be a PEFT model, as peft.get_peft_model makes it; got {type(model).__name__}{hint}."
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
    uses = Counter(id(one) for module in model.modules() for one in module._parameters.values() if one is not None)
    found, left = {}, {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in {**layer.lora_A, **layer.lora_embedding_A}:
            continue
        name = name.removeprefix("base_model.model.")
        trouble = _trouble(layer, adapter, uses, start)
        if trouble:
            left[name] = trouble
        elif getattr(layer, "parameter_name", None):
            found |= _matrices(name, layer, adapter)
        else:
            B, A, base = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight, layer.get_base_layer()
            turned = type(base) is not nn.Linear
            vector = layer.lora_magnitude_vector[adapter].weight if layer.use_dora.get(adapter) else None
            scale = float(layer.scaling[adapter])
            found[name] = Target(layer, base.weight, B, A, scale, turned, magnitudes=vector)
    if not found and not left:
        raise ValueError(f"The adapter {adapter!r} has no LoRA layer.")
    return found, left


def describe(left: dict[str, str]) -> str:
    """The reasons, each with the names that it holds for, without a full stop."""
    groups: dict[str, list[str]] = {}
    for name, reason in left.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(
        f"{reason} ({', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''})"
        for reason, names in groups.items()
    )


def _matrices(name: str, layer: Any, adapter: str) -> dict[str, Target]:
    """A parameter that is adapted, as one matrix or expert by expert.

    PEFT's A holds one expert after the other, and the columns of its B change the expert fastest.
    """
    label = re.sub(r"(\.base_layer)+$", "", name) + f".{layer.parameter_name}"
    weight, scale = layer.get_param(), float(layer.scaling[adapter])
    B, A = (half[adapter].weight.detach() for half in (layer.lora_B, layer.lora_A))
    if weight.ndim == 2:
        return {label: Target(layer, weight, B, A, scale, parameter=True)}
    count = len(weight)
    Bs, As = B.view(len(B), -1, count).permute(2, 0, 1), A.view(count, -1, A.shape[1])
    turned = bool(getattr(layer.get_base_layer(), "is_transposed", False))
    return {f"{label}[{k}]": Target(layer, weight, Bs[k], As[k], scale, turned, True, k) for k in range(count)}


def _trouble(layer: Any, adapter: str, uses: Counter, start: bool) -> str:
    """Why a layer cannot be used; empty if it can."""
    from peft.tuners.lora import Linear
    from transformers.pytorch_utils import Conv1D

    base, parameter = layer.get_base_layer(), getattr(layer, "parameter_name", None)
    if adapter in layer.lora_variant or layer.use_dora.get(adapter):
        variant = type(layer.lora_variant.get(adapter)).__name__.removesuffix("Variant")
        if not (start and variant == "DoraLinear"):
            return f"uses the variant {variant.removesuffix('Linear') or 'DoRA'}, not plain LoRA"
    if parameter and not start:
        return "adapts a parameter (target_parameters), as of fused experts, not a linear layer"
    if parameter:
        weight = layer.get_param()
        if weight.ndim > 3 or weight.ndim == 3 and len(weight) == 1:
            return f"adapts a parameter of the shape {tuple(weight.shape)}"
    elif isinstance(base, NonDynamicallyQuantizableLinear):
        return "is the out_proj of an nn.MultiheadAttention, which takes the weight from it and never calls it"
    elif type(layer) is not Linear or type(base) not in (nn.Linear, Conv1D):
        return f"adapts a layer of type {type(base).__name__}, not a linear one"
    else:
        weight = base.weight
    if not all(part.numel() for part in (weight, layer.lora_B[adapter].weight, layer.lora_A[adapter].weight)):
        return "has no entries in this process: ZeRO-3 keeps its weights in parts, which must be gathered first"
    if not weight.is_floating_point() or weight.dtype.itemsize < 2 or weight.is_meta:
        return f"has a base weight of type {weight.dtype} without gradients"
    if layer.merged:
        return "is merged into its base weight (call unmerge_adapter first)"
    if layer.lora_bias.get(adapter):
        return "has a bias in its adapter"
    if uses[id(weight)] > 1:
        return "has a weight that is shared with another layer, so that its gradient is not this layer's alone"
    return ""
