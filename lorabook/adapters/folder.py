"""An adapter's folder: which tensors are factors of which module, from the headers alone, and the rest by name.

Two doors.  :func:`read` is for work on the adapter itself: PEFT's format, every factor sound, every update
``scale * B @ A`` of one weight.  :func:`survey` is for looking: whatever can be measured is, the rest has its reason.
No pickle, no code from the folder, no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorabook.adapters.formats import PREFIX, metadata, recognised, sort_foreign
from lorabook.adapters.loading import in_groups
from lorabook.adapters.parts import EMPTY, PLAIN, Fault, Part, Sorting, counted, modules, natural
from lorabook.adapters.peft_config import (
    CONFIG,
    LARGEST_NUMBER,
    MOVES_BASE,
    AdapterError,
    check,
    cut,
    load,
    printable,
)
from lorabook.adapters.peft_keys import sort_peft
from lorabook.adapters.weight_files import WEIGHTS, weight_files

POINTER = b"version https://git-lfs.github.com/spec/"
GATHER = (
    "Under ZeRO-3, save again with the weights gathered (stage3_gather_16bit_weights_on_model_save), or gather the "
    "checkpoint with zero_to_fp32.py."
)
MAPPED = 2**23  # bytes read before a file is opened anew, which returns the memory of what was read


@dataclass(frozen=True)
class Adapter:
    """A folder whose files were checked; the factors are still on disk."""

    folder: Path
    config: dict
    pairs: dict[str, tuple[str, str, int, float]]  # plain linear modules: keys of B and A, r, scale
    skipped: dict[str, str]  # every other key: what it is
    notes: tuple[str, ...]
    others: dict[str, Part] = field(default_factory=dict)  # more modules that can be measured; their keys are skipped
    faults: dict[str, Fault] = field(default_factory=dict)  # modules that cannot
    files: dict[str, Path] = field(default_factory=dict)  # key: where it is
    strict: str = ""  # why the update is not that of plain LoRA in PEFT's format, a whole sentence

    @property
    def parts(self) -> dict[str, Part]:
        """All modules that can be measured, in their natural order."""
        found = {name: Part(*pair) for name, pair in self.pairs.items()} | self.others
        return {name: found[name] for name in sorted(found, key=natural)}

    def factors(self) -> Iterator[tuple[str, Tensor, Tensor, float]]:
        """Name, B (m, r), A (r, n) as they are stored, and scale, of every plain module.

        Raises:
            AdapterError: factors with entries that are NaN, infinite or out of range.
        """
        stored = tensors(self.files, [pair[:2] for pair in self.pairs.values()])
        for (name, pair), (B, A) in zip(self.pairs.items(), stored):
            if unsound(B) + unsound(A):
                raise AdapterError(
                    f"The factors of {printable(name)} have entries that are NaN, infinite or above {LARGEST_NUMBER:g}."
                )
            yield name, B, A, pair[3]


def tensors(files: dict[str, Path], wanted: Iterable[tuple[str, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Tuples of tensors for tuples of keys.  Memory stays that of MAPPED bytes and one tuple."""
    stored: dict[Path, safe_open] = {}
    seen = 0
    for keys in wanted:
        if seen > MAPPED:
            stored, seen = {}, 0
        found = []
        for key in keys:
            if files[key] not in stored:
                stored[files[key]] = opened(files[key])
            found.append(stored[files[key]].get_tensor(key))
        seen += sum(tensor.nbytes for tensor in found)
        yield tuple(found)


def unsound(factor: Tensor) -> int:
    """How many entries are NaN, infinite or out of range."""
    return factor.numel() - int((factor.double().abs() < LARGEST_NUMBER).sum())  # nor is NaN smaller


def read(path: str | Path) -> Adapter:
    """A PEFT adapter of plain LoRA whose every module is sound; no factor is loaded.

    Raises:
        AdapterError: the folder or a file is missing, broken or of another kind.
    """
    adapter = survey(path)
    if adapter.strict:
        raise AdapterError(adapter.strict)
    if adapter.faults:
        raise AdapterError(next(iter(adapter.faults.values())).sentence)
    if not adapter.pairs:
        raise AdapterError(f"{WEIGHTS} holds no LoRA factors of linear layers.")
    return adapter


def survey(path: str | Path) -> Adapter:
    """What a folder, or a file of another trainer's format, holds: all that can be measured, the rest with reasons.

    Raises:
        AdapterError: nothing in it can be measured.
    """
    path = Path(path)
    if not path.exists():
        raise AdapterError(f"There is no folder {path}.")
    file = path.is_file()
    if file and (path.suffix != ".safetensors" or path.name == WEIGHTS):
        raise AdapterError(f"{path} is a file; give the folder that holds {CONFIG} and {WEIGHTS}.")
    place = (path.parent if file else path) / CONFIG
    config = load(place) if place.is_file() else None
    peft = config is not None and "peft_type" in config
    if peft:
        check(config)
    files, notes = ([path], []) if file else _weights(path, config)
    header, home, texts = {}, {}, []
    for one in files:
        stored = opened(one)
        texts.append(stored.metadata())
        for key in stored.keys():
            part = stored.get_slice(key)
            header[key], home[key] = (tuple(part.get_shape()), part.get_dtype()), one
    if not header:
        raise AdapterError(f"{files[0].name} holds no tensor at all. {GATHER}")
    layout = recognised(list(header), peft)
    if not peft and (layout is None or any(PREFIX in key for key in header)):
        if config is not None:
            check(config)
        what = ", and its weights are those of no adapter that is known"
        if any(PREFIX in key for key in header):
            what = f", which says what alpha and r are: write one for the factors in {files[0].name}"
        raise AdapterError(f"{place.parent} has no {CONFIG}{what}.")
    if layout is None:
        found = sort_peft(header, config, files[0].name.startswith("model"))
        if files[0].name != WEIGHTS:
            found.strict = found.strict or f"The weights are not in one {WEIGHTS}, where PEFT looks for them."
        elif any((path / f"model.safetensors{end}").is_file() for end in ("", ".index.json")):
            notes.append(
                "A whole model lies beside the adapter. transformers loads it with the adapter on top, so that X "
                "counts twice if it was merged before."
            )
    else:
        small = {key: value for (key,), (value,) in _small(home, header)}
        found = sort_foreign(header, config or {}, layout, metadata(texts), small.__getitem__)
    start = (config or {}).get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(MOVES_BASE):
        notes.append(
            f"The start {printable(start)} may have changed the base weights too: B A is then not the whole "
            "difference to the pretrained model."
        )
    inner = [] if file else inner_adapters(path)
    if inner:
        names = ", ".join(one.name for one in inner[:3]) + (", ..." if len(inner) > 3 else "")
        lie = "1 more adapter lies" if len(inner) == 1 else f"{len(inner)} more adapters lie"
        notes.append(f"{lie} in it ({printable(names)}): give them to see how modules move.")
    parts = {name: found.parts[name] for name in sorted(found.parts, key=natural)}
    plain = {} if layout else {name: part for name, part in parts.items() if part.kind == PLAIN}
    if not found.parts:
        raise AdapterError(_nothing(found))
    return Adapter(
        path,
        config or {},
        {name: (part.key_B, part.key_A, part.rank, part.scale) for name, part in plain.items()},
        found.skipped,
        (*notes, *found.notes),
        {name: part for name, part in parts.items() if name not in plain},
        found.faults,
        home,
        found.strict or in_groups(parts),
    )


def opened(path: Path):
    """A safetensors file whose header holds together."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
            why = "is a pointer of Git LFS, not the file itself: run git lfs pull"
            raise AdapterError(f"{path.name} {why}.") from None
        raise AdapterError(f"{path.name} is not a whole safetensors file ({cut(str(error))}).") from None


def inner_adapters(folder: Path) -> list[Path]:
    """The folders with an adapter in a folder, in their natural order: a Trainer's checkpoints, or named adapters."""
    return sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=lambda path: natural(path.name))


def _weights(folder: Path, config: dict | None) -> tuple[list[Path], list[str]]:
    """:func:`lorabook.adapters.weight_files.weight_files`, or a better sentence where there is no configuration."""
    inner = [] if config is not None else inner_adapters(folder)
    if inner:
        several = f"{', '.join(map(str, inner[:-1]))} and {inner[-1]} have" if len(inner) > 1 else f"{inner[0]} has"
        raise AdapterError(f"{folder} has no {CONFIG}, but {several}.")
    try:
        return weight_files(folder)
    except AdapterError as error:
        if config is None and str(error) == f"{folder} has no {WEIGHTS}.":
            raise AdapterError(f"{folder} has no {CONFIG}.") from None
        raise


def _small(home: dict[str, Path], header: dict) -> Iterator:
    """Keys and values of single numbers, such as kohya's alphas."""
    keys = [
        (key,) for key, (shape, _) in header.items() if key.endswith(".alpha") and len(shape) < 2 and 0 not in shape
    ]
    return zip(keys, tensors(home, keys))


def none_of(faults: dict[str, Fault]) -> str:
    """Of modules none of which can be measured: the first sentence, and how many more there are."""
    fault = next(iter(faults.values()))
    first, more = fault.sentence, counted(faults.values())[0] - fault.factors
    rest = "the other module" if more == 1 else f"any of the other {modules(more)}"
    return f"{first[:-1]}; nor can {rest} be measured." if more else first


def _nothing(found: Sorting) -> str:
    """Why nothing can be measured, in the most telling sentence."""
    number, rest = counted(found.faults.values())
    if number and all(fault.reason == EMPTY for fault in found.faults.values()):
        more = f" and {rest} other tensor{'s' * (rest != 1)}" * bool(rest)
        return f"The factors of {modules(number)}{more} are {EMPTY}; PEFT fails to load these. {GATHER}"
    if number:
        return none_of(found.faults)
    kinds = sorted(set(found.skipped.values()))
    return f"{WEIGHTS} holds no LoRA factors{' (' + '; '.join(kinds) + ')' if kinds else ''}."
