"""Which files of a folder hold an adapter's weights, whoever wrote it, and what stands there instead of them."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lorabook.adapters.loading import some
from lorabook.adapters.peft_config import AdapterError, load, printable

WEIGHTS, PICKLE, INDEX = "adapter_model.safetensors", "adapter_model.bin", "adapter_model.safetensors.index.json"
#: Other names of the file with the weights.
FOREIGN_FILES = ("adapters.safetensors", "pytorch_lora_weights.safetensors")
OF_TRAINER = re.compile(r"(optimizer|scheduler|scaler|rng_state.*)\.pth?$|training_args\.bin$")
CANNOT_READ = (
    ("*.npz", "MLX's old format (.npz); newer mlx-lm writes adapters.safetensors"),
    ("*.gguf", "llama.cpp's format (.gguf); give the adapter that it was converted from"),
    ("*.bin *.pt *.pth *.ckpt", "a pickle file, which can run code when it is read: save the adapter as {weights}"),
    ("global_step*", "a DeepSpeed checkpoint in parts: gather it with its zero_to_fp32.py and save the adapter"),
    ("*.distcp", "a distributed checkpoint in parts: gather it and save the adapter with save_pretrained"),
    ("pytorch_model_fsdp*", "an FSDP checkpoint in parts: gather it and save the adapter with save_pretrained"),
)


def weight_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files with the weights, in order, and what there is to say about them.

    Raises:
        AdapterError: there are none that can be read, with the format if it has a name.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS], []
    parts = sorted(folder.glob("adapter_model-*-of-*.safetensors"))
    if parts or (folder / INDEX).is_file():
        return _parts(folder, parts)
    for name in FOREIGN_FILES:
        if (folder / name).is_file():
            return [folder / name], []
    single = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("model")]
    if len(single) == 1:
        return single, []
    if len(single) > 1:
        names = ", ".join(printable(path.name) for path in single[:4]) + (", ..." if len(single) > 4 else "")
        raise AdapterError(f"{folder} holds {len(single)} safetensors files ({names}) and no {WEIGHTS}: give one.")
    if (folder / PICKLE).exists():
        raise AdapterError(
            f"{folder} holds {PICKLE}, a pickle file, which can run code when it is read: save the adapter "
            f"as {WEIGHTS}."
        )
    for patterns, what in CANNOT_READ:
        paths = (path for pattern in patterns.split() for path in sorted(folder.glob(pattern)))
        found = next((path for path in paths if not OF_TRAINER.match(path.name)), None)
        if found:
            raise AdapterError(f"{folder} holds {printable(found.name)}, {what.format(weights=WEIGHTS)}.")
    whole = sorted(folder.glob("model*.safetensors"))
    if any("lora" in key for path in whole for key in _keys(path)):
        return whole, [f"The factors are in {printable(whole[0].name)} among all weights; PEFT looks in {WEIGHTS}."]
    if whole:
        raise AdapterError(f"{folder} has no {WEIGHTS}, but the weights of a whole model.")
    raise AdapterError(f"{folder} has no {WEIGHTS}.")


def _keys(path: Path) -> list[str]:
    """The keys of a file, none if it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            return list(stored.keys())
    except (SafetensorError, OSError):
        return []


def _parts(folder: Path, parts: list[Path]) -> tuple[list[Path], list[str]]:
    """The parts of an adapter, those that the index names or the file names count, and which are missing."""
    wanted = {path.name for path in parts}
    for path in parts:
        of = re.fullmatch(r"adapter_model-(\d+)-of-(\d+)\.safetensors", path.name)
        if of and int(of[2]) <= 9999:
            number = range(1, int(of[2]) + 1)
            wanted |= {f"adapter_model-{k:0{len(of[1])}d}-of-{of[2]}.safetensors" for k in number}
    if (folder / INDEX).is_file():
        named = load(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise AdapterError(f"{INDEX} does not say which file holds which weight.")
        outside = next((name for name in named.values() if name != Path(name).name), None)
        if outside:
            raise AdapterError(f"{INDEX} names {printable(outside)[:80]}, which is no file of its own folder.")
        wanted |= set(named.values())
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if len(missing) == len(wanted):
        raise AdapterError(f"{folder} has none of the {len(wanted)} parts that {INDEX} names.")
    notes = [f"The adapter is in {len(wanted)} parts; PEFT loads it only from one {WEIGHTS}."]
    if missing:
        notes.append(
            f"{len(missing)} of {len(wanted)} parts missing ({some(missing)}): the modules in them are not measured."
        )
    return [folder / name for name in sorted(wanted) if name not in missing], notes
