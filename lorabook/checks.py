"""The public door: shapes, dtype and finiteness are checked once, and the message says what came."""

from __future__ import annotations

import importlib
import math
import numbers
from types import ModuleType

import torch

from lorabook.device import default_device


def matrix(value: torch.Tensor, name: str) -> torch.Tensor:
    """Return ``value`` if it is a finite float64 tensor (..., rows, columns).

    Raises:
        ValueError: it is not; the sentence names ``name`` and says what came.
    """
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float64:
        came = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a float64 tensor; got {came}.")
    if value.ndim < 2 or 0 in value.shape[-2:]:
        raise ValueError(f"{name} must be a matrix (..., rows, columns); got shape {tuple(value.shape)}.")
    finite(value, name)
    return value


def finite(value: torch.Tensor, name: str) -> None:
    """Raise ValueError if ``value`` has NaN or infinite entries.  Tensors without data pass."""
    if not is_fake(value) and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} has entries that are NaN or infinite.")


#: Closed forms take squares of squares, so their sizes must lie in this range, whose fourth powers fit into float64.
SMALLEST, LARGEST = 1e-75, 1e75


def sizes(**named: torch.Tensor) -> None:
    """Raise ValueError where a size that is not 0 lies outside 1e-75 to 1e75.  Tensors without data pass."""
    for name, value in named.items():
        if not is_fake(value):
            size = value.abs()
            out = size[(size != 0) & ((size < SMALLEST) | (size > LARGEST))]
            if out.numel():
                raise ValueError(
                    f"{name} must be 0 or of a size between {SMALLEST:g} and {LARGEST:g}; got {out[0].item():g}. "
                    "Rescale the problem."
                )


def factors(B: torch.Tensor, A: torch.Tensor, W0: torch.Tensor | None = None, target: str = "W0") -> None:
    """Raise ValueError unless ``B`` (..., m, r), ``A`` (..., r, n) and ``W0`` (..., m, n), called ``target``, fit.

    The rank may not exceed the smaller dimension, the leading dimensions broadcast, and all live on one device.
    """
    matrix(B, "B"), matrix(A, "A")
    (m, r), (inner, n) = B.shape[-2:], A.shape[-2:]
    if r != inner:
        raise ValueError(f"B {tuple(B.shape)} and A {tuple(A.shape)} do not multiply: ranks {r} and {inner} differ.")
    if r > min(m, n):
        raise ValueError(f"The rank {r} is above the smaller dimension {min(m, n)} of the update.")
    if W0 is not None and matrix(W0, target).shape[-2:] != (m, n):
        raise ValueError(f"{target} {tuple(W0.shape)} and the update B A {(m, n)} have different shapes.")
    given = {"B": B, "A": A} | ({} if W0 is None else {target: W0})
    if len({value.device for value in given.values()}) > 1:
        homes = ", ".join(f"{name} on {value.device}" for name, value in given.items())
        raise ValueError(f"The matrices must live on one device; got {homes}.")
    batch(**{name: value.shape[:-2] for name, value in given.items()})


def batch(**leading) -> torch.Size:
    """The common leading dimensions of the named shapes.

    Raises:
        ValueError: they do not broadcast; the sentence gives every one.
    """
    try:
        return torch.broadcast_shapes(*leading.values())
    except RuntimeError:
        came = ", ".join(f"{name} {tuple(shape)}" for name, shape in leading.items())
        raise ValueError(f"The leading dimensions do not fit each other: {came}.") from None


def number(value, name: str, like: torch.Tensor | None = None, positive: bool = False) -> torch.Tensor:
    """``value`` as a finite float64 tensor on the device of ``like``.

    Raises:
        ValueError: it is no number or tensor of numbers, not finite, or not ``positive`` where it should be.
    """
    try:
        found = torch.as_tensor(value, dtype=torch.float64, device=None if like is None else like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number or a tensor of numbers; got {value!r}.") from None
    finite(found, name)
    if positive and not is_fake(found) and bool((found <= 0).any()):
        raise ValueError(f"{name} must be positive; the smallest is {found.min().item():g}.")
    return found


def count(value, name: str, least: int) -> int:
    """``value`` if it is a whole number >= ``least``; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}; got {value!r}.")
    return value


def positive(value, name: str) -> float:
    """``value`` if it is a finite number above 0; else ValueError."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite; got {value!r}.")
    return value


def times(values, like: torch.Tensor, name: str = "times") -> torch.Tensor:
    """Flow times as a float64 vector (T,), T >= 1, on the device of ``like``.

    Raises:
        ValueError: negative, NaN or infinite times, none at all, or more than one dimension.
    """
    values = number(values, name, like)
    if values.ndim > 1 or values.numel() == 0:
        raise ValueError(f"{name} must be a number or a vector (T,) of at least one; got shape {tuple(values.shape)}.")
    if not is_fake(values) and bool((values < 0).any()):
        raise ValueError(f"{name} must not be negative; the smallest is {values.min().item():g}.")
    return values.reshape(-1)


def together(*values) -> list[torch.Tensor]:
    """Numbers and tensors as float64 tensors on one device: the first tensor's, else the default one."""
    homes = [value.device for value in values if isinstance(value, torch.Tensor)]
    home = homes[0] if homes else default_device()
    return [torch.as_tensor(value, dtype=torch.float64, device=home) for value in values]


def is_fake(value: torch.Tensor) -> bool:
    """True for tensors without data (``meta`` and fake tensors), on which no value can be checked."""
    return value.is_meta or type(value).__name__ == "FakeTensor"


def package(module: str, extra: str, name: str = "") -> ModuleType:
    """The top-level ``module`` of a package called ``name`` (default: as its module) that an extra of lorabook brings.

    Raises:
        ImportError: it is not installed; the sentence says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # it is there, and something that it needs is not
            raise
        name = name or module
        raise ImportError(
            f"This needs {name}: run `pip install {name}`, or install lorabook with its extra `{extra}`.", name=module
        ) from None
