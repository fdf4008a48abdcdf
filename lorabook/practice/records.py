"""Arms as points of :mod:`lorabook.sweep`'s engine: a record each, in a folder; what exists is skipped."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from lorabook.practice import arms, plan
from lorabook.sweep import SweepError, closure, engine, workers


@cache
def identity() -> dict:
    """What a record rests on beside its arm: versions, and a hash of the files that an arm reaches."""
    content = hashlib.sha256()
    for file in closure.closure(["lorabook/practice/arms.py"]):
        content.update(file.encode() + (closure.ROOT / file).read_bytes())
    found = {name: importlib.metadata.version(name).split("+")[0] for name in ("torch", "numpy")}
    return {"files": content.hexdigest()[:12], **found}


def same(made_of: dict) -> None:
    """On a worker: SweepError unless its code is that of the client."""
    if identity() != made_of:
        raise SweepError(f"it has {identity()}, and the sweep {made_of}.")


def run(fields: dict) -> dict:
    """On a worker: :func:`lorabook.practice.arms.run`."""
    return arms.run(arms.Arm(**fields))


def point(arm: arms.Arm) -> engine.Point:
    """A name, what is known before, and what :func:`run` takes."""
    known = {"arm": asdict(arm), "made_of": identity()}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:20], known, (asdict(arm),)


def read(folder: Path) -> dict[arms.Arm, dict]:
    """The records of a folder by their arms; those of other code, and failed ones, are left out."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("[!.]*.json"))]
    return {arms.Arm(**one["arm"]): one for one in found if one["made_of"] == identity() and "failure" not in one}


def sweep(folder: Path, minutes: float = float("inf"), say: Callable[[str], None] = print) -> None:
    """Run what the plan asks for, stage by stage, on one worker; begin none after so many ``minutes``.

    Raises:
        SweepError: an arm failed, or as :func:`lorabook.sweep.engine.sweep`.
    """
    until, work = time.monotonic() + 60 * minutes, engine.Work(run, partial(same, identity()))
    with workers.cluster(1, "", {}) as client:  # one worker for all stages: it holds the sentences
        while time.monotonic() < until:
            stage, arms_now = plan.todo(read(folder))
            if not arms_now:
                return
            points = [point(arm) for arm in arms_now]
            tally = engine.sweep(work, lambda: points, folder, scheduler=client.scheduler.address)
            say(f"{time.strftime('%H:%M:%S')} {stage}: {tally.line()}")
            if tally.failed:
                raise SweepError("; ".join(tally.names))
