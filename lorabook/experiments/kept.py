"""What is kept of a run: what came out, from which weights, in how many seconds, with which versions and device."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import time
from collections.abc import Iterator

import torch
from torch import nn

from lorabook import checks
from lorabook.device import default_device, describe
from lorabook.experiments import ExperimentError, together
from lorabook.experiments.results import accuracy

PACKAGES = ("lorabook", "numpy", "torch", "accelerate", "transformers", "peft")  # each after what it needs
CURVE = ("epoch", "step", "loss", "learning_rate", "eval_loss", "eval_accuracy", "rank", "first_value_rank", "norm")
HEARD = {"loss", "eval_loss", "rank"}  # an entry of the Trainer's history with none of these says nothing of the run


def found(point, files, origin, curve, predictions, clock, notes, trained) -> dict:
    """The part of a record that says what came out; ``trained`` is how many numbers were."""
    try:
        value, error = accuracy(predictions)
    except ValueError:
        raise ExperimentError(f"{point.method} ended in numbers that are not finite: take a smaller --rate.") from None
    return {
        "data": files,
        "model": {"sha256": origin, "trained": trained},
        "curve": [kept for entry in curve if set(kept := {key: entry[key] for key in CURVE if key in entry}) & HEARD],
        "predictions": predictions,
        "metric": {"name": "accuracy", "value": value, "error": error},
        "seconds": clock.seconds,
        "notes": notes,
    }


class Clock:
    """Seconds since the last call, by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, what: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[what], self.last = now - self.last, now


def circumstances() -> dict:
    """Versions, device and the most memory that was in use, in bytes."""
    import resource

    home = default_device()
    memory = (
        torch.cuda.max_memory_allocated(home)
        if home.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    found = {"versions": versions(), "device": describe(), "processes": together.count()}
    return found | {"peak_memory": memory}


def versions() -> dict[str, str]:
    """Of the packages that a run rests on; ImportError where one is missing."""
    for name in PACKAGES[1:]:
        checks.package(name, "experiments")
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def counted(model: nn.Module) -> int:
    """How many numbers of a model are trained."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def state_hash(model: nn.Module) -> str:
    """SHA-256 of all weights, in the order of their names."""
    total = hashlib.sha256()
    for name, one in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything that draws, from one seed; what it was before is put back afterwards."""
    transformers = checks.package("transformers", "experiments")
    with torch.random.fork_rng():
        transformers.set_seed(seed)
        yield
