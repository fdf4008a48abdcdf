"""What differs on a GPU?  Runs the package's routines and then the notebooks, fastest first, and prints it as it comes.

python tools/gpu.py                               on a machine with a GPU, in less than eight minutes
LORABOOK_DEVICE=cpu python tools/gpu.py           the same steps on a machine that has none
"""

import argparse
import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from lorabook import device  # noqa: E402
from tools import processors  # noqa: E402

# Routines of a few dozen operations in float64: what is more than rounding lies above.
ROUNDING = 1e-9


def leaves(value):
    """The tensors in a result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [found for part in value for found in leaves(part)] if isinstance(value, (tuple, list)) else []


def faults(name, found, wanted, where):
    """Sentences on a result that is elsewhere or differs; singular vectors are known up to their sign."""
    if found.device.type != where.type:
        yield f"{name} gave a tensor on {found.device}"
    if wanted.numel():
        wanted = wanted.double().abs()
        gap = float((found.cpu().double().abs() - wanted).abs().max())
        if not gap <= ROUNDING * (1 + float(wanted.max())):
            yield f"{name} differs by {gap:.1e}"


def routines(where):
    """Sentences on those of the routines under test whose results leave the device or differ from those on the CPU."""
    import test_device_discipline as calls

    said = []
    for name, (routine, arguments) in calls.GUARDED.items():
        given = arguments()
        try:
            there = leaves(routine(*(tensor.to(where) for tensor in given)))
            pairs = zip(there, leaves(routine(*given)), strict=True)
            said += [sentence for pair in pairs for sentence in faults(name, *pair, where)]
        except RuntimeError as error:  # what a device does not know
            said.append(f"{name} stopped: {str(error).splitlines()[0]}")
    if where.type == "cuda":  # these make their tensors there themselves
        for name, call in calls.FAKE.items():
            said += [f"{name} gave a tensor on {found.device}" for found in leaves(call()) if not found.is_cuda]
    print(f"{len(calls.GUARDED)} routines on {where}: {len(said)} differ.", *said, sep="\n", flush=True)
    return said


def books(setting, paths, lines):
    """The notebooks under a setting; the names of those that differ."""
    differing = []
    for path in paths:
        start = time.monotonic()
        result = processors.execute(path, setting)
        count = processors.moved(path, result)
        print(f"{path.stem}: {count} cells differ ({time.monotonic() - start:.0f} s)", flush=True)
        processors.show(path, setting, result, lines)
        differing += [path.stem] * bool(count)
    return differing


def main(arguments=None):
    """1 where anything differs, 2 where there is no GPU; whatever is not done in time is left out."""
    parser = argparse.ArgumentParser(description="Run the routines and the fast notebooks on the GPU.")
    parser.add_argument("notebooks", nargs="*", help="the fastest first where none is named")
    parser.add_argument("--minutes", type=float, default=7.5, help="when to stop")
    parser.add_argument("--show", type=int, default=3, help="differing lines to show of each cell")
    given = parser.parse_args(arguments)
    try:
        where = device.default_device()
    except ValueError as error:
        print(error)
        return 2
    if where.type == "cpu" and not os.environ.get(device.VARIABLE):
        print(f"There is no GPU here: set {device.VARIABLE}=cpu to try the steps on the CPU.")
        return 2
    print(f"{device.describe(where)}; at most {given.minutes:g} minutes.", flush=True)
    threading.Timer(60 * given.minutes, stop).start()
    known = sorted(processors.known().values(), key=processors.usual)
    paths = [path for path in known if not given.notebooks or path.stem in given.notebooks]
    said = routines(where)
    differing = books("native" if where.type == "cpu" else "cuda", paths, given.show)
    print("Differing notebooks:", ", ".join(differing) or "none")
    return int(bool(said or differing))


def stop():
    print("Time is over; what is not told above was not run.", flush=True)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the timer may still be waiting
