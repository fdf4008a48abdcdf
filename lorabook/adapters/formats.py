"""Adapters that others than PEFT's ``save_pretrained`` wrote: which format it is, where B and A are, and the scale.

PEFT's own keys are ``base_model.model.<module>.lora_A.weight`` (r, n) and ``.lora_B.weight`` (m, r).  Every format here
holds the same two factors under other names, some transposed, and its own rule for the scale.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from lorabook.adapters.parts import BIAS, DIRECTION, PLAIN, Sorting, modules, stacked
from lorabook.adapters.peft_config import LARGEST_NUMBER, AdapterError, printable

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
