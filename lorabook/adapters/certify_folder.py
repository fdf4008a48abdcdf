"""The certificate for a saved adapter: base model and data from local files, and nothing else.

The base model is a folder that transformers loads from safetensors, without remote code and without network.  PEFT is
not used: the update is added to the weights, whose gradient is then ``dL/dW`` at ``W0 + scale * B @ A``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from lorabook.adapters.certificate import Factors, Verdict, certify_layers
from lorabook.adapters.inspect import PREFIX, WEIGHTS, Adapter, AdapterError, printable
from lorabook.adapters.peft_targets import alone
from lorabook.device import default_device

TASKS = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
LENGTH = 128  # tokens of a sentence, where the model has as many positions
WHOLE = "saved whole, not as factors"


def certify_folder(adapter: Adapter, model_folder: str | Path, data: str | Path, weight_decay: float, *, batch_size: int = 16,
                   max_length: int | None = None, tolerance: float = 1e-2, passes: int | None = None, progress: Callable[[str], None] | None = None) -> dict[str, Verdict]:
    """The verdict for every module of a saved adapter.

    Args:
        adapter: from :func:`lorabook.adapters.inspect.read`, of the task SEQ_CLS or CAUSAL_LM.
        model_folder: config.json, tokenizer files, model.safetensors.
        data: lines of JSON, ``{"text": ..., "label": 0}`` for SEQ_CLS, ``{"text": ...}`` for CAUSAL_LM: the training set.
        weight_decay: lambda that the factors were trained with.
        batch_size, max_length: sentences at once, tokens of a sentence (default LENGTH, or the model's positions).  tolerance, passes: as for ``certify``.

    Raises:
        AdapterError: files that are missing or do not fit each other.
        ValueError: labels out of range, no data.
    """
    task = adapter.config.get("task_type")
    if task not in TASKS:
        raise AdapterError(f"The certificate needs an adapter of the task {' or '.join(TASKS)}; this one says {printable(str(task))}.")
    odd = next((key for key, why in adapter.skipped.items() if why != WHOLE), None)
    if odd:
        raise AdapterError(f"{printable(odd)} ({adapter.skipped[odd]}) cannot be put into the model, so there is no certificate.")
    rows = _rows(Path(data), task)
    model, tokenizer = _base(Path(model_folder), task, adapter)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and max_length and max_length > positions:
        raise AdapterError(f"The length {max_length} is more than the {positions} positions of the base model.")
    max_length = max_length or min(LENGTH, positions or LENGTH)
    layers = _insert(model, adapter)
    model.to(default_device())
    return certify_layers(model, layers, _Batches(rows, tokenizer, task, batch_size, max_length), weight_decay, tolerance=tolerance, passes=passes, progress=progress)


class _Batches:
    """Batches in the order of the file, made anew on every pass."""

    def __init__(self, rows, tokenizer, task, batch_size, max_length):
        self.rows, self.tokenizer, self.task, self.batch_size, self.max_length = rows, tokenizer, task, batch_size, max_length

    def __iter__(self):
        for begin in range(0, len(self.rows), self.batch_size):
            rows = self.rows[begin : begin + self.batch_size]
            batch = dict(self.tokenizer([row["text"] for row in rows], truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"))
            if self.task == "SEQ_CLS":
                batch["labels"] = torch.tensor([row["label"] for row in rows])
            else:
                batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            yield batch


def _rows(path: Path, task: str) -> list[dict]:
    if not path.is_file():
        raise AdapterError(f"There is no data file {path}.")
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows.append(_row(line, number, task))
        except UnicodeDecodeError:
            raise AdapterError(f"{path.name} is not text in UTF-8.") from None
    if not rows:
        raise AdapterError(f"{path.name} is empty: the gradient needs data.")
    return rows


def _row(line: str, number: int, task: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise AdapterError(f"Line {number} of the data is not JSON.") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise AdapterError(f"Line {number} of the data has no text.")
    label = row.get("label")
    if task == "SEQ_CLS" and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
        raise AdapterError(f"Line {number} of the data needs a label that is a whole number from 0 on.")
    return row


def _base(folder: Path, task: str, adapter: Adapter):
    """The base model in float32 with the adapter's whole weights in place, and its tokenizer."""
    try:
        import transformers
    except ImportError:
        raise AdapterError("The certificate needs transformers: run `pip install transformers`.") from None
    if not (folder / "config.json").is_file():
        raise AdapterError(f"{folder} is not a folder with a base model: it has no config.json.")
    whole = {}
    with safe_open(adapter.folder / WEIGHTS, framework="pt", device="cpu") as stored:
        for key in adapter.skipped:
            whole[key.removeprefix(PREFIX).replace(".base_layer.", ".")] = stored.get_tensor(key).float()
    safe = {"local_files_only": True, "trust_remote_code": False}
    # the head's last matrix has one row per class; it is the smallest of those that are saved
    heads = [len(value) for value in whole.values() if value.ndim == 2]
    options = {"num_labels": min(heads)} if heads and task == "SEQ_CLS" else {}
    loud, bar = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # its report of a missing head is checked below
    transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
        model, found = getattr(transformers, TASKS[task]).from_pretrained(
            folder, **safe, **options, use_safetensors=True, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True)
    except Exception as error:  # transformers raises many kinds for a folder that it cannot load
        raise AdapterError(f"{folder} cannot be loaded as a base model ({printable(str(error).strip().splitlines()[0])[:120] or type(error).__name__}).") from None
    finally:
        transformers.logging.set_verbosity(loud)
        if bar:
            transformers.logging.enable_progress_bar()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    blank = sorted((set(found["missing_keys"]) | {key for key, *_ in found["mismatched_keys"]}) - whole.keys())
    if blank:
        raise AdapterError(f"Neither the base model nor the adapter has the weights of {printable(blank[0])}.")
    places = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in whole.items():
        if name not in places or places[name].shape != value.shape:
            raise AdapterError(f"The base model has no {printable(name)} of shape {tuple(value.shape)}: the adapter belongs to another model.")
        places[name].data.copy_(value)
    return model, tokenizer


def _insert(model: nn.Module, adapter: Adapter) -> dict[str, Factors]:
    """Add every update to its weight."""
    modules, layers = dict(model.named_modules()), {}
    home = default_device()
    for name, B, A, scale, eps in adapter.factors():
        module, shape = modules.get(name), (B.shape[0], A.shape[1])
        if module is None:
            raise AdapterError(f"The base model has no module {printable(name)}: the adapter belongs to another model.")
        if type(module) is not nn.Linear or module.weight.shape != shape:
            came = tuple(module.weight.shape) if isinstance(getattr(module, "weight", None), torch.Tensor) else "no weight"
            raise AdapterError(f"The update of {printable(name)} is {shape}, but the base model's {type(module).__name__} has {came}.")
        module.weight.data.add_((scale * (B @ A)).float())
        layers[name] = Factors(module.weight, B.to(home), A.to(home), scale, eps)
    alone(model, {name: layer.weight for name, layer in layers.items()})
    return layers
