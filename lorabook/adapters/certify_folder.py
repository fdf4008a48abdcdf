"""The certificate for a saved adapter: base model and data from local files, and nothing else.

The base model is a folder that transformers loads from safetensors, without remote code and without network.  PEFT is
not used: the update is added to the weights, whose gradient is then ``dL/dW`` at ``W0 + scale * B @ A``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lorabook.adapters.certificate import LayerVerdict, certify_layers
from lorabook.adapters.inspect import MOVES_BASE, PREFIX, REPLACED, WEIGHTS, WHOLE, Adapter, AdapterError, printable
from lorabook.adapters.targets import Target
from lorabook.adapters.training_rows import batch_of, need_template, read_rows
from lorabook.checks import package
from lorabook.device import default_device

TASKS = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
LENGTH = 128  # tokens of a sentence, where the model has as many positions
TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model", "tekken.json")  # without any, transformers makes up an empty one


def certify_folder(
    adapter: Adapter,
    model_folder: str | Path,
    data: str | Path,
    weight_decay: float,
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    tolerance: float = 1e-2,
    **reading,
) -> dict[str, LayerVerdict]:
    """The verdict for every module of a saved adapter.

    Args:
        adapter: from :func:`lorabook.adapters.inspect.read`, of the task SEQ_CLS or CAUSAL_LM.
        model_folder: config.json, tokenizer files, model.safetensors.
        data: training set, lines of JSON: ``{"text": ..., "label": 0}`` for SEQ_CLS; for CAUSAL_LM those of
            :mod:`lorabook.adapters.training_rows`.
        weight_decay: lambda that the factors were trained with.
        batch_size, max_length: sentences at once, tokens of a sentence (default LENGTH, or the model's positions).
        tolerance, reading: as for ``certify``, whose ``decoupled``, ``passes`` and ``progress`` they are; ``left``
            takes modules without a verdict, with the reason.

    Raises:
        AdapterError: files that are missing or do not fit each other.
        ValueError: labels out of range, no data.
        ImportError: transformers is not installed.
    """
    task = _task(adapter)
    rows: Any = read_rows(Path(data), task)
    model, tokenizer = _base(Path(model_folder), task, adapter)
    need_template(rows, tokenizer, model_folder)
    longest = tokenizer.model_max_length
    positions = min(getattr(model.config, "max_position_embeddings", None) or longest, longest)
    if max_length and max_length > positions:
        raise AdapterError(f"The length {max_length} is more than the {positions} positions of the base model.")
    layers = _insert(model, adapter)
    model.to(default_device())
    collate = lambda rows: batch_of(rows, tokenizer, task, max_length or min(LENGTH, positions))
    batches = DataLoader(rows, batch_size, collate_fn=collate, generator=torch.Generator())
    try:
        return certify_layers(model, layers, batches, weight_decay, tolerance, **reading)
    # a tokenizer with more tokens than the model, too little memory
    except (RuntimeError, IndexError, TypeError) as error:
        raise AdapterError(f"The base model cannot be run on the data ({_first_line(error)}).") from None


def _task(adapter: Adapter) -> str:
    """The adapter's task, if its update can be put into a base model."""
    task = str(adapter.config.get("task_type") or "none")
    if task not in TASKS:
        raise AdapterError(
            f"The certificate needs an adapter of the task {' or '.join(TASKS)}; this one says {printable(task)}. For "
            "another task, such as question answering, use certify(model, batches, weight_decay, loss=...) in Python."
        )
    start = str(adapter.config.get("init_lora_weights")).lower()
    if start.startswith(MOVES_BASE):
        raise AdapterError(
            f"The start {printable(start)} changed the base weights, and the folder does not hold them, so there "
            "is no certificate."
        )
    for switch in ("layer_replication", "alora_invocation_tokens"):
        if adapter.config.get(switch):
            raise AdapterError(
                f"The adapter sets {switch}, so its update is not that of one weight for all tokens, and there "
                "is no certificate."
            )
    odd = next((key for key, why in adapter.skipped.items() if why not in (WHOLE, REPLACED)), None)
    if odd:
        raise AdapterError(
            f"{printable(odd)} ({adapter.skipped[odd]}) cannot be put into the model, so there is no certificate."
        )
    return task


def _base(folder: Path, task: str, adapter: Adapter):
    """The base model in float32 with the adapter's whole weights in place, and its tokenizer."""
    transformers = package("transformers", "real")
    if not (folder / "config.json").is_file():
        raise AdapterError(f"{folder} is not a folder with a base model: it has no config.json.")
    if not any(True for pattern in TOKENIZERS for _ in folder.glob(pattern)):
        raise AdapterError(f"{folder} has no tokenizer.")
    whole = {}
    with safe_open(adapter.folder / WEIGHTS, framework="pt", device="cpu") as stored:
        for key in (key for key, why in adapter.skipped.items() if why == WHOLE):
            name = re.sub(r"\.(base_layer|modules_to_save)\.", ".", key.removeprefix(PREFIX))
            whole[name] = stored.get_tensor(key).float()
    safe = {"local_files_only": True, "trust_remote_code": False}
    # PEFT always saves the head, under one of two names; its last matrix, the smallest, has one row per class
    last = re.compile(r"(.*\.)?(classifier|score)\.")
    heads = [len(value) for name, value in whole.items() if value.ndim == 2 and last.match(name)]
    options = {"num_labels": min(heads)} if heads and task == "SEQ_CLS" else {}
    loud, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # its report of a missing head is checked below
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **safe, **options)
        if getattr(config, "quantization_config", None):
            raise ValueError("its weights are quantised")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
        model, found = getattr(transformers, TASKS[task]).from_pretrained(
            folder,
            **safe,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers raises many kinds for a folder that it cannot load
        raise AdapterError(f"{folder} cannot be loaded as a base model ({_first_line(error)}).") from None
    finally:
        transformers.logging.set_verbosity(loud)
        if bar:
            transformers.logging.enable_progress_bar()
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise AdapterError(f"The tokenizer of {folder} has no token to pad with.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"  # positions are those of the text alone, and no token is predicted from padding
    # a causal model judges a text by its last token before these
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    blank = sorted((set(found["missing_keys"]) | {key for key, *_ in found["mismatched_keys"]}) - whole.keys())
    if blank:
        raise AdapterError(f"Neither the base model nor the adapter has weights that fit {printable(blank[0])}.")
    modules = dict(model.named_modules())
    for name, value in whole.items():
        room, _, last = name.rpartition(".")
        old = getattr(modules.get(room), last, None)
        if not isinstance(old, Tensor):
            raise AdapterError(f"The base model has no {printable(name)}: the adapter belongs to another model.")
        if old.shape != value.shape:
            sizes = f"{tuple(value.shape)} in the adapter and {tuple(old.shape)} in the base model"
            # transformers' resize_token_embeddings changes these two alone
            ends = [model.get_input_embeddings(), model.get_output_embeddings()]
            grown = modules[room] in ends and old.shape[1:] == value.shape[1:]
            advice = f"; resize its embeddings to {len(value)} tokens and save it with the tokenizer of the training"
            raise AdapterError(f"{printable(name)} is {sizes}{advice if grown else ''}.")
        setattr(modules[room], last, nn.Parameter(value) if isinstance(old, nn.Parameter) else value)
    return model, tokenizer


def _insert(model: nn.Module, adapter: Adapter) -> dict[str, Target]:
    """Add every update to its weight; another layer that shared the weight keeps it as it was, as with PEFT."""
    modules, layers, home = dict(model.named_modules()), {}, default_device()
    for name, B, A, scale in adapter.factors():
        module, shape = modules.get(name), (B.shape[0], A.shape[1])
        if module is None:
            # the root has no name
            near = next((one for one in modules if one and (one.endswith(f".{name}") or name.endswith(f".{one}"))), "")
            why = f"but {near}: the adapter was trained on another class of it" if near else "so it is of another model"
            raise AdapterError(f"The base model has no module {printable(name)}, {why}.")
        turned = type(module).__name__ == "Conv1D"
        if type(module) is not nn.Linear and not turned:
            raise AdapterError(
                f"{printable(name)} is a layer of type {type(module).__name__} in the base model; the "
                "certificate is for linear layers."
            )
        update = (scale * (B.double() @ A.double())).float()
        update = update.mT if turned else update
        if module.weight.shape != update.shape:
            raise AdapterError(
                f"The update of {printable(name)} is {shape}, and the base model's weight is "
                f"{tuple(module.weight.shape)}."
            )
        module.weight = nn.Parameter(module.weight.detach() + update)
        layers[name] = Target(module, module.weight, B.to(home), A.to(home), scale, turned)
    return layers


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:120].rstrip(".")
