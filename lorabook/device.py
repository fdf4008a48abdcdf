"""Where and in what precision: one place decides the device, draws are the same on every device.

CUDA when there is one, else the CPU; the environment variable ``LORABOOK_DEVICE``
(``cpu``, ``cuda``, ``cuda:1``, ...) overrides.  Every claim is computed in float64,
so devices without float64 (``mps``) are refused here and nowhere else.
"""

from __future__ import annotations

import os

import torch

DTYPE = torch.float64
VARIABLE = "LORABOOK_DEVICE"


def default_device() -> torch.device:
    """The device on which the notebooks run.

    Returns:
        ``LORABOOK_DEVICE`` if it is set, else the first CUDA device, else the CPU.

    Raises:
        ValueError: the variable names no device of this machine, or one without float64.
    """
    wanted = os.environ.get(VARIABLE, "").strip()
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ValueError(f"{VARIABLE}={wanted!r} is not a device; use cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{VARIABLE}={wanted!r} cannot hold float64 claims; use cpu, cuda or cuda:N.")
    present = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= present:
        raise ValueError(f"{VARIABLE}={wanted!r} is not on this machine, which has {present} such device(s).")
    return device


def tensor(values, device: torch.device | str | None = None) -> torch.Tensor:
    """Numbers, lists of them or an array as a float64 tensor; ``None`` is :func:`default_device`."""
    return torch.tensor(values, dtype=DTYPE, device=default_device() if device is None else device)


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU, whatever the device of the draws: that is what makes them equal."""
    return torch.Generator("cpu").manual_seed(seed)


def normal(shape, source: torch.Generator, device: torch.device | str | None = None) -> torch.Tensor:
    """Independent standard normal entries, the same on every device for the same generator.

    Args:
        shape: shape of the draw.
        source: generator from :func:`generator`; it advances.
        device: where the draw is wanted; ``None`` is :func:`default_device`.

    Returns:
        float64 tensor of ``shape``, drawn on the CPU and then moved.
    """
    draw = torch.randn(tuple(shape), generator=source, dtype=DTYPE, device="cpu")
    return draw.to(default_device() if device is None else device)


def describe(device: torch.device | str | None = None) -> str:
    """Device, threads and torch version in one line, for the end of a page."""
    device = default_device() if device is None else torch.device(device)
    threads = torch.get_num_threads()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {threads} thread{'s' if threads != 1 else ''}"
    )
    return f"{name}, torch {torch.__version__.split('+')[0]}, float64"
