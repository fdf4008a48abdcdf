"""Adapters that others than PEFT's ``save_pretrained`` wrote: which format it is, where B and A are, and the scale.

PEFT's own keys are ``base_model.model.<module>.lora_A.weight`` (r, n) and ``.lora_B.weight`` (m, r).  Every format here
holds the same two factors under other names, some transposed, and its own rule for the scale.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorabook.adapters.parts import BIAS, DIRECTION, PLAIN, Sorting, modules, stacked
from lorabook.adapters.peft_config import LARGEST_NUMBER, AdapterError, load, printable

WEIGHTS, PICKLE, INDEX = "adapter_model.safetensors", "adapter_model.bin", "adapter_model.safetensors.index.json"
PREFIX = "base_model.model."
PEFT_KEY = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
#: What torch.compile, data parallelism, FSDP and checkpointing put into names.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^module\.")


class Layout(NamedTuple):
    """How one format names its factors."""

    name: str
    key: re.Pattern  # groups: module, and which half
    halves: dict[str, str]  # what the second group says: A or B
    transposed: bool  # stored as A^T (n, r) and B^T (r, m)
    advice: str


DOWN_UP = {"down": "A", "up": "B"}
LAYOUTS = (
    Layout(
        "kohya (sd-scripts)",
        re.compile(r"(.+)\.lora_(down|up)\.weight"),
        DOWN_UP,
        False,
        "PEFT does not load it; diffusers' load_lora_weights does",
    ),
    Layout(
        "diffusers, before PEFT",
        re.compile(r"(.+?)(?:[._]lora|\.lora_linear_layer)\.(down|up)\.weight"),
        DOWN_UP,
        False,
        "PEFT does not load it; diffusers' load_lora_weights does, and save_lora_adapter then writes PEFT's format",
    ),
    Layout(
        "XLabs (Flux)",
        re.compile(r"(.+_lora\d)\.(down|up)\.weight"),
        DOWN_UP,
        False,
        "PEFT does not load it; diffusers' load_lora_weights does",
    ),
    Layout(
        "NeMo (Megatron)",
        re.compile(r"(.+)\.adapter\.linear_(in|out)\.weight"),
        {"in": "A", "out": "B"},
        False,
        "PEFT does not load it; Megatron Bridge exports adapters in PEFT's format",
    ),
    Layout(
        "diffusers",
        re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight"),
        {"A": "A", "B": "B"},
        False,
        "load it with diffusers' load_lora_weights; PEFT needs an adapter_config.json and its own prefix",
    ),
    Layout(
        "torchtune",
        re.compile(r"(.+)\.lora_([ab])\.weight"),
        {"a": "A", "b": "B"},
        False,
        "PEFT does not load it; torchtune's checkpointer can write PEFT's format",
    ),
    Layout(
        "MLX",
        re.compile(r"(.+)\.lora_([ab])"),
        {"a": "A", "b": "B"},
        True,
        "PEFT does not load it; mlx_lm.fuse merges it into its base",
    ),
    Layout(
        "loralib",
        re.compile(r"(.+)\.lora_([AB])"),
        {"A": "A", "B": "B"},
        False,
        "PEFT does not load it; rename lora_A to lora_A.weight and add an adapter_config.json",
    ),
)
#: Keys of adapters that have no factors B and A.
OTHERS = (
    (re.compile(r"\.hada_w[12]_[ab]$"), "LoHa (LyCORIS), a product of two low-rank matrices entry by entry"),
    (re.compile(r"\.lokr_(w[12](_[ab])?|t2)$"), "LoKr (LyCORIS), a Kronecker product"),
    (re.compile(r"\.oft_(blocks|diag|r)|\.oft_R"), "OFT, a rotation"),
    (re.compile(r"\.ia3_l|\.on_input$"), "IA3, a rescaling"),
    (re.compile(r"prompt_embeddings|prompt_encoder"), "prompt tuning"),
)
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
            f"{len(missing)} of {len(wanted)} parts missing ({printable(', '.join(missing))[:160]}): the modules in "
            "them are not measured."
        )
    return [folder / name for name in sorted(wanted) if name not in missing], notes


def bare(key: str) -> str:
    """A key without what wrappers put into it."""
    return WRAPPERS.sub("", key)


def recognised(keys: list[str], peft: bool) -> Layout | None:
    """The foreign layout of these keys; None for PEFT's own, which ``peft`` expects where both would do.

    Raises:
        AdapterError: they are the keys of an adapter without factors.
    """
    if peft and any(PEFT_KEY.fullmatch(key) or "lora_embedding_" in key for key in keys):
        return None
    for layout in LAYOUTS:
        if any(layout.key.fullmatch(key) for key in keys):
            return layout
    for pattern, what in OTHERS:
        if any(pattern.search(key) for key in keys):
            raise AdapterError(f"The file holds {what}; only LoRA has the factors B and A.")
    return None


def sort_foreign(header: dict, config: dict, layout: Layout, said: dict, tensor: Callable[[str], Tensor]) -> Sorting:
    """The modules of a file in another trainer's format.

    Args:
        said: what diffusers wrote into the header; see :func:`metadata`.
        tensor: reads a small tensor by its key.
    """
    found = Sorting(header)
    scales = _Scales(layout, config, said)
    halves: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    alphas = {key.removesuffix(".alpha"): key for key in header if key.endswith(".alpha")}
    third = {key.partition(".lora_mid")[0] for key in header if ".lora_mid" in key}
    dora = False
    for key in header:
        match = layout.key.fullmatch(key)
        if match:
            found.skipped[key] = f"factors in the format of {layout.name}"
            found.half(halves, layout.halves[match[2]], match[1], key)
        elif not key.endswith(".alpha"):
            magnitude = re.search(r"dora_scale$|\.m$|magnitude", key)
            dora = dora or bool(magnitude)
            rest = BIAS if ".lora_B." in key else "not a pair of factors"
            found.skipped[key] = "magnitudes of DoRA" if magnitude else rest
    for name, key_A, key_B in found.both(halves):
        fault = lambda reason, sentence: found.fault(name, (key_A, key_B), reason, sentence)
        if name in third:
            fault(
                "with a third factor", f"The update of {printable(name)} has a third factor (LoCon in Tucker's form)."
            )
            continue
        (A, _), (B, _) = header[key_A], header[key_B]
        transposed = layout.transposed and len(A) == 2
        r = (A or (0,))[-1 if transposed else 1 if stacked(A, B) else 0]
        own = next((alphas[at] for at in (name, f"{name}.lora", f"{name}_lora") if at in alphas), None)
        alpha = float(tensor(own).double().sum()) if own and math.prod(header[own][0]) == 1 else None
        if alpha is not None and not 0 < alpha < LARGEST_NUMBER:
            fault("with an alpha that is none", f"The alpha of {printable(name)} is {alpha:g}, not a positive number.")
            continue
        kind = DIRECTION if dora else PLAIN
        found.place(name, key_A, key_B, scales.of(name, max(r, 1), alpha), kind=kind, transposed=transposed)
    found.strict = f"The format is that of {layout.name}, not PEFT's: {layout.advice}."
    found.notes.append(f"The format is that of {layout.name}: {layout.advice}.")
    if scales.unknown:
        found.notes.append(f"No alpha or scale is stored for {modules(scales.unknown)}: measured with scale 1.")
    if dora:
        found.notes.append("DoRA: what is measured is the direction part, scale * B A.")
    return found


class _Scales:
    """The scale of a module of a foreign format: its own alpha, else what the file or the configuration says."""

    def __init__(self, layout: Layout, config: dict, metadata: dict):
        self.said = metadata if layout.name == "diffusers" else {}
        inner = config.get("lora_parameters")
        inner = inner if isinstance(inner, dict) else {}
        number = lambda value: float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
        self.fixed = None
        if layout.name == "MLX":
            self.fixed, alpha, r = (number(inner.get(key)) for key in ("scale", "alpha", "rank"))
            if alpha and r:
                self.fixed = (1.0 if self.fixed is None else self.fixed) * alpha / r
        self.alpha = number(config.get("lora_alpha")) if layout.name in ("torchtune", "loralib") else None
        self.unknown = 0

    def of(self, module: str, r: int, alpha: float | None) -> float:
        """c for a module of rank r whose own alpha, if any, was stored beside the factors."""
        if alpha is not None:
            return alpha / r
        if self.fixed is not None:
            return self.fixed
        room = module.split(".")[0]
        stored = self.said.get(f"{room}.lora_alpha", self.said.get("lora_alpha"))
        inner = module.removeprefix(room + ".")
        patterns = self.said.get(f"{room}.alpha_pattern")
        for pattern, found in (patterns if isinstance(patterns, dict) else {}).items():
            if inner == pattern or inner.endswith("." + pattern):
                stored = found
                break
        stored = self.alpha if stored is None else stored
        if isinstance(stored, (int, float)) and not isinstance(stored, bool) and 0 < stored < 1e100:
            return stored / (r**0.5 if self.said.get(f"{room}.use_rslora") is True else r)
        self.unknown += 1
        return 1.0


def metadata(texts: list[dict | None]) -> dict:
    """What diffusers writes about its adapters into the header."""
    found: dict = {}
    for text in texts:
        said = (text or {}).get("lora_adapter_metadata")
        try:
            said = json.loads(said) if isinstance(said, str) and len(said) < 2**24 else {}
        except (ValueError, RecursionError):
            said = {}
        found |= said if isinstance(said, dict) else {}
    return found
