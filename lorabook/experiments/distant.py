"""Runs on the workers of a Dask scheduler: a run is a point of a sweep, and each worker does one at a time.

A worker keeps record and checkpoints under ``out`` as a run here does, and hands the record to the client, which writes
it too.  Where ``out`` is one folder for all, a run whose worker dies goes on from its checkpoint on another.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorabook
from lorabook.experiments import ExperimentError, kept, plan, run, settings
from lorabook.experiments.points import Point
from lorabook.experiments.shelf import Shelf, cache, quiet
from lorabook.sweep import SweepError, closure, engine

TRIES = 1  # how often what failed is tried again


def sweep(
    runs: list[Point],
    values: dict[str, Any],
    out: Path,
    shelf: Shelf,
    scheduler: str,
    execute: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> engine.Tally:
    """Do the runs on the workers of a scheduler; what has a record is left as it is.

    Args:
        runs, values, out, shelf, execute: of :func:`lorabook.experiments.run.record`.
        scheduler: its address.
        say: takes a line of progress every two seconds.

    Raises:
        SweepError: as :func:`lorabook.sweep.engine.sweep`.
    """
    place = out.resolve()
    points = lambda: ((one.name(values), {}, (one, values, place, shelf, execute)) for one in runs)
    work = engine.Work(_run, functools.partial(_prove, made_of()), retries=TRIES)
    return engine.sweep(work, points, place, scheduler=scheduler, say=say)


def prepared(runs: list[Point], values: dict[str, Any], out: Path, shelf: Shelf) -> None:
    """Raise ExperimentError where the model cannot be had, or this machine has not what the runs take."""
    if shelf.folder is None:
        experiment = settings.load(runs[0].experiment)
        shelf.reach(values["model"], values["model_revision"])
        plan.check([plan.need(experiment, one, values) for one in runs], out, cache())


def _run(one: Point, values: dict[str, Any], out: Path, shelf: Shelf, execute: bool) -> dict:
    """On the worker: the record of a run."""
    quiet()
    try:
        out.mkdir(parents=True, exist_ok=True)
        prepared([one], values, out, shelf)
        place = run.record(one, values, out, shelf, execute=execute)
    except (ExperimentError, OSError) as error:
        raise engine.PointError(f"{platform.node()}: {' '.join(str(error).split())}") from None
    return json.loads(place.read_text(encoding="utf-8"))


def made_of() -> dict[str, str]:
    """What a record rests on beside its settings: versions, and a hash of the code that a run reaches."""
    content = hashlib.sha256()
    for name in sorted(closure.closure([run.__file__])):
        content.update((closure.ROOT / name).read_bytes())
    found = {name: version.split("+")[0] for name, version in kept.versions().items()}
    return found | {"lorabook": f"{lorabook.__version__} (files {content.hexdigest()[:12]})"}


def _prove(wanted: dict[str, str]) -> None:
    """SweepError unless this machine has the same code."""
    found = made_of()
    for name, version in wanted.items():
        if found[name] != version:
            raise SweepError(f"{platform.node()} has {name} {found[name]}, and the runs began with {version}.")
