"""Base weights that a start has moved: they are refused, and those that ``slides`` moved can be saved.

After ``W0 <- W0 - scale * B0 A0`` the adapter alone no longer describes the model.  What was trained is
``W0 + scale * (B A - B0 A0)``, plain LoRA of rank 2 r with the factors ``[B, -B0]`` and ``[A; A0]`` on the weights that
were pretrained: ``save_pretrained`` of a model that ``slides`` has started writes this.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorabook.adapters.inspect import MOVES_BASE
from lorabook.adapters.targets import Target

#: On the base's own layer, which outlives the adapter: the sum of the weight that was moved.  A merge changes it.
MOVED = "lora_one_moved"
TAKEN_OFF = "lora_one_taken_off"  # on PEFT's layer: by adapter, the factors whose product was taken off its weight


def refuse_moved(model: Any) -> None:
    """Raise ValueError if a start has moved the base weights: the gradient there is not that at the pretrained ones."""
    for name, config in model.peft_config.items():
        start = str(getattr(config, "init_lora_weights", "")).lower()
        if start.startswith(MOVES_BASE):
            raise ValueError(
                f"The start {start!r} of the adapter {name!r} has moved the base weights, so that they are no longer "
                "the pretrained ones: make the PEFT model with init_lora_weights=True."
            )
    if any(hasattr(one, TAKEN_OFF) or getattr(one, MOVED, None) == _sum(one.weight) for one in _marked(model)):
        raise ValueError(
            "The start 'slides' has moved the base weights of this model before: load the pretrained model again."
        )


def take_off(model: Any, adapter: str, started: dict[str, Target]) -> None:
    """``W0 <- W0 - scale * B A`` for the present factors, remembered, so that the adapter can be saved."""
    for target in started.values():
        target.weight.copy_(target.matrix(offset(target, target.B, target.A)))
        base = cast(Any, target.layer).get_base_layer()
        setattr(base, MOVED, _sum(base.weight))
        setattr(target.layer, TAKEN_OFF, {adapter: (target.B.detach().clone(), target.A.detach().clone())})
        target.layer.register_load_state_dict_pre_hook(_read_back)
    model.save_pretrained = MethodType(_save, model)


def _marked(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, TAKEN_OFF) or hasattr(module, MOVED)]


def _sum(weight: Tensor) -> float:
    return float(weight.detach().double().sum())


def offset(target: Target, B: Tensor, A: Tensor) -> Tensor:
    """``W0 - scale * B A`` (m, n), in the weight's dtype."""
    weight = target.matrix(target.weight)
    return (weight.double() - target.scale * (B.double() @ A.double())).to(weight.dtype)


def _save(model: Any, save_directory, safe_serialization: bool = True, *args, **options) -> None:
    """PEFT's ``save_pretrained``, after which every adapter that ``slides`` started is plain LoRA of rank 2 r."""
    if not safe_serialization:
        raise ValueError("A model that 'slides' has started is saved as safetensors only.")
    type(model).save_pretrained(model, save_directory, True, *args, **options)
    if options.get("is_main_process", True):
        for adapter in options.get("selected_adapters") or model.peft_config:
            folder = Path(save_directory) / ("" if adapter == "default" else adapter)
            _convert(model, adapter, folder)


def _read_back(layer: nn.Module, state: dict, prefix: str, *_) -> None:
    """What was saved from this very start is read back into it, as a Trainer does with its best checkpoint."""
    for adapter, (B0, A0) in getattr(layer, TAKEN_OFF).items():
        key_B, key_A = f"{prefix}lora_B.{adapter}.weight", f"{prefix}lora_A.{adapter}.weight"
        B, A, rank = state.get(key_B), state.get(key_A), len(A0)
        if B is None or A is None or len(A) != 2 * rank:
            continue
        if torch.equal(B[:, rank:], -B0.to(B)) and torch.equal(A[rank:], A0.to(A)):
            state[key_B], state[key_A] = B[:, :rank], A[:rank]


def _convert(model: Any, adapter: str, folder: Path) -> None:
    path, config = folder / "adapter_model.safetensors", copy.deepcopy(model.peft_config[adapter])
    moved = {name: getattr(layer, TAKEN_OFF, {}).get(adapter) for name, layer in model.named_modules()}
    if not any(moved.values()):
        return
    tensors = load_file(path)
    # every pair of factors has the rank that is written for it, and the scale that it had
    ranks, alphas = {}, {}
    for name, layer in _lora_layers(model, adapter):
        rank, scale = layer.r[adapter], layer.scaling[adapter]
        if moved[name]:
            B0, A0 = (part.to("cpu") for part in moved[name])
            key_B, key_A = f"{name}.lora_B.weight", f"{name}.lora_A.weight"
            tensors[key_B] = torch.cat([tensors[key_B], -B0.to(tensors[key_B])], 1)
            tensors[key_A] = torch.cat([tensors[key_A], A0.to(tensors[key_A])], 0)
            rank = 2 * rank
        short = name.removeprefix("base_model.model.")
        ranks[short], alphas[short] = rank, scale * (rank**0.5 if config.use_rslora else rank)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata={"format": "pt"})
    written = json.loads((folder / "adapter_config.json").read_text())
    written |= {"r": max(ranks.values()), "lora_alpha": next(iter(alphas.values())), "init_lora_weights": True}
    written |= {"rank_pattern": _exact(ranks, written["r"]), "alpha_pattern": _exact(alphas, written["lora_alpha"])}
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True))


def _exact(values: dict[str, float], usual: float) -> dict[str, float]:
    """A pattern of PEFT's for the modules that differ from the usual value."""
    return {f"^{name}": value for name, value in values.items() if value != usual}


def _lora_layers(model: nn.Module, adapter: str):
    for name, layer in model.named_modules():
        if adapter in getattr(layer, "lora_A", {}) and adapter in layer.scaling:
            yield name, layer
