"""Modules of an adapter from the shapes of its tensors: pairs of factors that multiply, the rest with its reason.

A module's update is ``X = scale * B @ A`` (m, n) with B (m, r) and A (r, n).  Embeddings, convolutions and fused
experts hold such pairs too, each in its own order; :meth:`Part.factors` brings them into this one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lorabook.adapters.peft_config import CONFIG, printable, short

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
LARGEST_FACTOR = 2**28  # entries
#: Why a tensor is left out that is in force all the same, and one that is not.
WHOLE, REPLACED = "saved whole, not as factors", "the base model's own, which the adapter replaces"
BASE, BIAS, TOKENS = "the base model's own, stored along", "bias of an adapter", "rows of an embedding"
PLAIN, EMBEDDING, CONVOLUTION, EXPERT, DIRECTION = "", "embedding", "convolution", "expert", "direction part (DoRA)"
EMPTY = "empty tensors, as ZeRO-3 leaves them where the weights were not gathered before saving"
FAULTY = "cannot be measured"


class Part(NamedTuple):
    """One module whose update is ``scale * B @ A``, and how its factors lie in the file."""

    key_B: str
    key_A: str
    rank: int  # of each expert
    scale: float
    kind: str = PLAIN
    experts: int = 1
    transposed: bool = False  # A^T and B^T are stored
    groups: int = 1  # of a convolution: each has its rows of B (m, r / groups), and its rows of A

    def factors(self, B: Tensor, A: Tensor) -> list[tuple[Tensor, Tensor]]:
        """B (m, r), A (r, n) of every expert, of which there is mostly one, from the stored tensors."""
        if self.transposed:
            B, A = B.mT, A.mT
        if self.experts > 1 and A.ndim == 3:  # stacked: (E, m, r) and (E, r, n)
            return list(zip(B, A))
        if self.experts > 1:  # PEFT: A holds one expert after the other, and B's columns change the expert fastest
            return list(zip(B.view(len(B), -1, self.experts).permute(2, 0, 1), A.view(self.experts, -1, A.shape[-1])))
        if self.groups > 1:
            B = torch.block_diag(*B.flatten(1).chunk(self.groups))
        return [(B.flatten(1), A.flatten(1))]  # a convolution is the matrix out x (in k k)


class Fault(NamedTuple):
    """Why a module cannot be measured: in a few words, and as a sentence with its name."""

    reason: str
    sentence: str
    factors: bool = True  # or a tensor that is no factor of a module


class Sorting:
    """Every key of the headers in its place: a half of a module, something else with its name, or a fault."""

    def __init__(self, header: dict[str, tuple[tuple[int, ...], str]]):
        self.header = header  # key: shape and dtype
        self.parts: dict[str, Part] = {}
        self.skipped: dict[str, str] = {}
        self.faults: dict[str, Fault] = {}
        self.notes: list[str] = []
        self.strict = ""  # why the update is not that of plain LoRA

    def half(self, halves: dict[str, dict[str, str]], half: str, name: str, key: str) -> None:
        """``key`` is the factor ``half`` of the module ``name``."""
        if name in halves[half]:
            sentence = f"{printable(name)} has more than one {half}; save each adapter in a folder of its own."
            self.fault(name, (key, halves[half][name]), "several adapters in one file", sentence)
        halves[half][name] = key

    def both(self, halves: dict[str, dict[str, str]]) -> Iterator[tuple[str, str, str]]:
        """Module, key of A and key of B, where there are both."""
        for name in sorted(halves["A"].keys() | halves["B"].keys(), key=natural):
            if name in self.faults:
                self.skipped |= {halves[half][name]: FAULTY for half in "AB" if name in halves[half]}
            elif name in halves["A"] and name in halves["B"]:
                yield name, halves["A"][name], halves["B"][name]
            else:
                key = halves["A"].get(name) or halves["B"][name]
                self.fault(name, (key,), "one factor alone", f"{printable(name)} has only one of the factors A and B.")

    def fault(self, name: str, keys: tuple[str, ...], reason: str, sentence: str, factors: bool = True) -> None:
        """The module, or the tensor, ``name`` cannot be measured."""
        self.faults.setdefault(name, Fault(reason, sentence, factors))
        self.skipped |= dict.fromkeys(keys, FAULTY)

    def place(
        self,
        name: str,
        key_A: str,
        key_B: str,
        scale: float,
        *,
        kind: str = PLAIN,
        transposed: bool = False,
        rank: int | None = None,
        said=None,
        fused: bool = False,
    ) -> None:
        """Sort one module by the shapes of its factors.

        Args:
            rank: what the configuration says, which ``said`` quotes; None where it says nothing.
            fused: a multiple of ``rank`` is that of several experts.
        """
        (A, dtype_A), (B, dtype_B) = self.header[key_A], self.header[key_B]
        label = printable(name)
        fault = lambda reason, sentence: self.fault(name, (key_A, key_B), reason, sentence)
        if 0 in (*A, *B):
            return fault(EMPTY, f"The factors of {label} are empty: B is {B} and A is {A}; {EMPTY}.")
        for key, shape, dtype in ((key_A, A, dtype_A), (key_B, B, dtype_B)):
            if dtype not in DTYPES | FP8:
                sentence = f"{printable(key)} is stored as {dtype}; F16, BF16, F32, F64 and F8 can be read."
                return fault(f"stored as {dtype}", sentence)
            if math.prod(shape) > LARGEST_FACTOR:
                sentence = f"{printable(key)} claims the shape {shape}, more than {LARGEST_FACTOR} entries."
                return fault("too large", sentence)
        if transposed:
            A, B = (*A[:-2], *A[-2:][::-1]), (*B[:-2], *B[-2:][::-1])
        experts = groups = 1
        if stacked(A, B):
            experts, kind, inner, outer = A[0], EXPERT, A[1], B[2]
        elif len(A) == len(B) == 2:
            inner, outer = A[0], B[1]
        elif len(A) == len(B) > 2 and all(side == 1 for side in B[2:]):
            inner, outer, kind = A[0], B[1], CONVOLUTION
            if inner > outer and not inner % outer and not B[0] % (inner // outer):
                groups, outer = inner // outer, inner
        else:
            inner, outer = 0, 1
        if inner != outer:
            return fault(
                "factors that do not multiply", f"The factors of {label} do not multiply: B is {B} and A is {A}."
            )
        if rank is not None and inner != rank:
            if not fused or rank < 1 or inner % rank or len(A) != 2:
                sentence = f"The factors of {label} have rank {inner}, but {CONFIG} says {short(said)}."
                return fault(f"of another rank than {CONFIG} says", sentence)
            experts, kind, inner = inner // rank, EXPERT, rank
        if dtype_A in FP8 or dtype_B in FP8:
            self.strict = self.strict or f"{label} is stored as {dtype_A}; F16, BF16, F32 and F64 can be read."
            word = (
                f"Factors stored as {dtype_A} are taken as they are: scales stored apart from them would not be known."
            )
            self.notes += [word] * (word not in self.notes)
        if kind:
            self.skipped |= {key: self.skipped.get(key, kind) for key in (key_A, key_B)}
        self.parts[name] = Part(key_B, key_A, inner, scale, kind, experts, transposed, groups)


def stacked(A: tuple[int, ...], B: tuple[int, ...]) -> bool:
    """Whether these are shapes of experts one above the other, (E, r, n) and (E, m, r), and not of a convolution."""
    return len(A) == len(B) == 3 and A[0] == B[0] and A[1] == B[2] and B[1:] != (A[0], 1)


def counted(faults: Iterable[Fault]) -> tuple[int, int]:
    """How many modules cannot be measured, and how many tensors that are no factors."""
    kinds = [fault.factors for fault in faults]
    return sum(kinds), len(kinds) - sum(kinds)


def modules(number: int) -> str:
    """``1 module`` or ``3 modules``."""
    return f"{number} module{'s' if number != 1 else ''}"


def natural(name: str) -> list:
    """Sort key under which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in re.split(r"(\d+)", name)]
