"""A saved PEFT adapter, read without running anything: what its update is, module by module.

Two files of the folder are read: ``adapter_config.json`` and ``adapter_model.safetensors``.  No pickle, no code from
the folder, no network.  The update ``X = scale * B @ A`` (m, n) of rank at most r is never formed: with the thin
``B = Q_B R_B`` and ``A^T = Q_A R_A`` its singular values are those of the r x r matrix ``scale * R_B R_A^T``.
One module is held at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorabook.linalg import balance

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
PREFIX = "base_model.model."
# bytes of the configuration; entries of one factor; an entry, or alpha
LARGEST_FILE, LARGEST_FACTOR, LARGEST_NUMBER = 2**20, 2**28, 1e100
#: Why a tensor is left out that is in force all the same, and one that is not.
WHOLE, REPLACED = "saved whole, not as factors", "the base model's own, which the adapter replaces"
#: Switches under which the update is no longer scale * B @ A of one weight matrix.
OTHER_KINDS = "use_dora use_qalora use_bdlora kasa_config monteclora_config arrow_config target_parameters".split()
#: Starts that also change the base weights.
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class AdapterError(ValueError):
    """An adapter folder that cannot be read, or is of another kind; one sentence says why."""


@dataclass(frozen=True)
class Measured:
    """One module's update ``X = scale * B @ A`` (m, n)."""

    name: str
    shape: tuple[int, int]  # (m, n)
    allowed: int  # r, the rank that the factors allow
    scale: float
    rank: int  # singular values above 2 eps of the stored dtype times the largest
    stable_rank: float  # ||X||_F^2 / ||X||_2^2, 0 for X = 0
    energy_90: int  # how many leading singular values carry 90 % of ||X||_F^2
    norm: float  # ||X||_F
    largest: float  # ||X||_2
    imbalance: float  # ||B^T B - A A^T||_F / ||A A^T||_F, infinite for A = 0
    singular_values: tuple[float, ...]


@dataclass(frozen=True)
class Adapter:
    """A folder whose two files were checked; the factors are still on disk."""

    folder: Path
    config: dict
    pairs: dict[str, tuple[str, str, int, float]]  # module: keys of B and A, r, scale
    skipped: dict[str, str]  # key: why it is not looked at
    notes: tuple[str, ...]

    def factors(self) -> Iterator[tuple[str, Tensor, Tensor, float]]:
        """Name, B (m, r), A (r, n) as they are stored, and scale; the file is opened anew for each module."""
        for name, (key_B, key_A, _, scale) in self.pairs.items():
            with _opened(self.folder / WEIGHTS) as stored:
                B, A = stored.get_tensor(key_B), stored.get_tensor(key_A)
            if not all(bool((factor.double().abs() < LARGEST_NUMBER).all()) for factor in (B, A)):  # nor is NaN smaller
                raise AdapterError(
                    f"The factors of {printable(name)} have entries that are NaN, infinite or above {LARGEST_NUMBER:g}."
                )
            yield name, B, A, scale


def inspect_folder(path: str | Path, progress: Callable[[str], None] | None = None) -> tuple[Adapter, list[Measured]]:
    """What is in a PEFT adapter folder, and the measures of every module.

    Raises:
        AdapterError: the folder or a file is missing, broken or of another kind.
    """
    adapter, found = read(path), []
    for factors in adapter.factors():
        found.append(measure(*factors))
        if progress:
            progress(f"{len(found)} of {len(adapter.pairs)} modules")
    return adapter, found


def read(path: str | Path) -> Adapter:
    """Check a folder's configuration and the header of its weights; no factor is loaded."""
    folder = Path(path)
    if not folder.exists():
        raise AdapterError(f"There is no folder {folder}.")
    if not folder.is_dir():
        raise AdapterError(f"{folder} is a file; give the folder that holds {CONFIG} and {WEIGHTS}.")
    config = _config(folder / CONFIG)
    weights = folder / WEIGHTS
    if not weights.is_file():
        if (folder / PICKLE).exists():
            raise AdapterError(
                f"{folder} holds {PICKLE}, a pickle file, which can run code when it is read: save the adapter "
                f"as {WEIGHTS}."
            )
        raise AdapterError(f"{folder} has no {WEIGHTS}.")
    pairs, skipped = _pairs(weights, config)
    start = config.get("init_lora_weights")
    notes = []
    if isinstance(start, str) and start.lower().startswith(MOVES_BASE):
        notes.append(
            f"The start {printable(start)} may have changed the base weights too: B A is then not the whole "
            "difference to the pretrained model."
        )
    return Adapter(folder, config, pairs, skipped, tuple(notes))


def measure(name: str, B: Tensor, A: Tensor, scale: float) -> Measured:
    """The measures of one module, from B (m, r) and A (r, n) in the dtype in which they are stored.

    Error:
        Singular values to 1e-14 of the largest, given the stored factors.
    """
    eps, B, A = max(torch.finfo(factor.dtype).eps for factor in (B, A)), B.double(), A.double()
    R_B, R_A = torch.linalg.qr(B).R, torch.linalg.qr(A.mT).R
    s = torch.linalg.svdvals(R_B @ R_A.mT) * abs(scale)
    top = float(s[0])
    square = (s / top).square() if top else s  # squares of small numbers must not become 0
    total, size = float(square.sum()), float(torch.linalg.matrix_norm(A @ A.mT))
    return Measured(
        name,
        (B.shape[0], A.shape[1]),
        A.shape[0],
        scale,
        rank=int((s > 2 * eps * top).sum()),
        stable_rank=total,
        energy_90=int((square.cumsum(0) < 0.9 * total * (1 - 1e-12)).sum()) + 1 if top else 0,
        norm=top * math.sqrt(total),
        largest=top,
        imbalance=float(torch.linalg.matrix_norm(balance(B, A))) / size if size else math.inf,
        singular_values=tuple(s.tolist()),
    )


def printable(text: str) -> str:
    """``text`` from a file without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _config(path: Path) -> dict:
    if not path.is_file():
        inner = next(path.parent.glob(f"*/{CONFIG}"), None)
        raise AdapterError(f"{path.parent} has no {CONFIG}{f', but {inner.parent} has' if inner else ''}.")
    if path.stat().st_size > LARGEST_FILE:
        raise AdapterError(f"{CONFIG} is larger than {LARGEST_FILE} bytes, which no configuration needs.")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise AdapterError(f"{CONFIG} is not valid JSON; it may be truncated.") from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterError(f"{CONFIG} does not name a kind of adapter (peft_type).")
    if config["peft_type"] != "LORA":
        raise AdapterError(
            f"The adapter is of the kind {printable(config['peft_type'])}; only LORA has the factors B and A."
        )
    for switch in OTHER_KINDS:
        if config.get(switch):
            raise AdapterError(f"The adapter sets {switch}, so its update is not scale * B A of one weight matrix.")
    if isinstance(config.get("r"), bool) or not isinstance(config.get("r"), int) or config["r"] < 1:
        raise AdapterError(f"The rank r must be a whole number above 0; {CONFIG} says {_short(config.get('r'))}.")
    _number(config.get("lora_alpha"), "lora_alpha")
    if not isinstance(config.get("use_rslora") or False, bool):
        raise AdapterError(f"use_rslora must be true or false; {CONFIG} says {_short(config['use_rslora'])}.")
    for pattern, least in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        if not isinstance(config.get(pattern) or {}, dict):
            raise AdapterError(
                f"{pattern} must map module names to a {least}; {CONFIG} says {_short(config[pattern])}."
            )
        for key, value in (config.get(pattern) or {}).items():
            _number(value, f"{pattern} of {printable(key)}")
            _expression(key, pattern)
    return config


def _pairs(path: Path, config: dict):
    """Factor pairs with their rank and scale, and the keys that are left out, from the header alone."""
    with _opened(path) as stored:
        header = {key: (stored.get_slice(key).get_shape(), stored.get_slice(key).get_dtype()) for key in stored.keys()}
    halves, skipped = {"A": {}, "B": {}}, {}
    for key, (shape, dtype) in header.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight", key)
        name = match[1].removeprefix(PREFIX) if match else key
        if "lora_magnitude_vector" in key:
            raise AdapterError("The adapter holds magnitude vectors (DoRA), so its update is not scale * B A.")
        if "lora_embedding_" in key:
            skipped[key] = "factors of an embedding"
        elif "trainable_tokens_" in key:
            skipped[key] = "rows of an embedding"
        elif not match:
            skipped[key] = (
                "bias of an adapter" if ".lora_B" in key else REPLACED if ".original_module." in key else WHOLE
            )
        elif len(shape) != 2:
            skipped[key] = "factors of a convolution"
        elif dtype not in DTYPES:
            raise AdapterError(f"{printable(key)} is stored as {dtype}; F16, BF16, F32 and F64 can be read.")
        elif name in halves[match[2]]:
            raise AdapterError(
                f"{printable(name)} has more than one {match[2]}; save each adapter in a folder of its own."
            )
        elif math.prod(shape) > LARGEST_FACTOR:
            raise AdapterError(f"{printable(key)} claims the shape {tuple(shape)}, more than {LARGEST_FACTOR} entries.")
        else:
            halves[match[2]][name] = key
    lonely = sorted(halves["A"].keys() ^ halves["B"].keys())
    if lonely:
        raise AdapterError(f"{printable(lonely[0])} has only one of the factors A and B.")
    if not halves["A"]:
        raise AdapterError(f"{WEIGHTS} holds no LoRA factors of linear layers.")
    pairs = {}
    for name in sorted(halves["A"], key=_natural):
        key_A, key_B = halves["A"][name], halves["B"][name]
        (r, n), (m, inner) = header[key_A][0], header[key_B][0]
        if r != inner or 0 in (r, m, n):
            raise AdapterError(
                f"The factors of {printable(name)} do not multiply: B is {(m, inner)} and A is {(r, n)}."
            )
        said = _pattern(config.get("rank_pattern"), name, config["r"])
        if r != said:
            raise AdapterError(f"The factors of {printable(name)} have rank {r}, but {CONFIG} says {_short(said)}.")
        alpha = _pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        pairs[name] = key_B, key_A, r, alpha / (math.sqrt(r) if config.get("use_rslora") else r)
    return pairs, skipped


def _opened(path: Path):
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path.name} is not a whole safetensors file ({_cut(str(error))}).") from None


def _pattern(patterns: dict | None, name: str, default):
    """PEFT's rule: the first key that matches the end of the module's name, from a dot on."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _expression(key: str, pattern: str) -> None:
    """Keys are regular expressions from a file: only those that end quickly are tried."""
    simple = (
        len(key) <= 256
        and re.fullmatch(r"[\w.\-^$|()\[\]\\*+]*", key)
        and not re.search(r"\)[*+]|[*+][*+]|\\[1-9]", key)
    )
    if not simple or key.count("(") > 4 or len(re.findall(r"[*+]", key)) > 2:
        raise AdapterError(f"{pattern} has the expression {_short(key)}, which is too involved to be tried safely.")
    try:
        re.compile(key)
    except re.error:
        raise AdapterError(f"{pattern} has the expression {_short(key)}, which is not a regular expression.") from None


def _number(value, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LARGEST_NUMBER:
        raise AdapterError(f"{name} must be a positive number below {LARGEST_NUMBER:g}; {CONFIG} says {_short(value)}.")


def _short(value) -> str:
    """A value of the configuration as it stands there."""
    return _cut(json.dumps(value))


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= 80 else text[:77] + "..."


def _natural(name: str) -> list:
    """Sort key under which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in re.split(r"(\d+)", name)]
