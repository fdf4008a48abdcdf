"""Points to records, on Dask: no scheduling of our own.

A point is a name, a head (what is known before it runs) and the arguments of a function that runs on a worker and
returns the rest of its record.  Only the client writes the folder, a record at a time and each as a whole, so what
stops (Ctrl-C, a killed client, a dead scheduler) loses the points under way and no other.  A point whose worker dies
runs elsewhere; one that fails leaves a record with the sentence of its failure.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lorabook.sweep import SweepError
from lorabook.sweep.workers import SchedulerError, cluster, fit

TICK = 2.0  # seconds between two lines of progress, and two looks at the scheduler
NAMED = 10  # failed points that are named at the end

Point = tuple[str, dict, tuple]


@dataclass(frozen=True)
class Work:
    """What becomes of a point on a worker."""

    run: Callable[..., dict]  # from a point's arguments to the rest of its record; raises where the point fails
    prove: Callable[[], None]  # before any point; raises SweepError where the worker computes with other code
    resources: dict = field(default_factory=dict)  # what a point asks of its worker
    retries: int = 0  # how often a point that failed is tried again


class PointError(Exception):
    """Why one point failed, in one sentence; the others go on."""


@dataclass
class Tally:
    """How far a sweep is."""

    total: int
    recorded: int = 0  # before it began
    ran: int = 0
    failed: int = 0
    names: list[str] = field(default_factory=list)  # of the first that failed
    begun: float = field(default_factory=time.monotonic)

    def fail(self, name: str, sentence: str) -> None:
        self.failed += 1
        if len(self.names) < NAMED:
            self.names.append(f"{name}: {sentence}")

    def line(self) -> str:
        """Where the sweep stands, with the time left."""
        done, spent = self.recorded + self.ran, time.monotonic() - self.begun
        parts = [f"{done:,} of {self.total:,} points"]
        if self.recorded:
            parts.append(f"{self.recorded:,} of them from before")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.ran and done < self.total:
            parts.append(f"about {duration(spent / self.ran * (self.total - done))} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def write(path: Path, text: str | bytes) -> None:
    """A file as a whole or not at all; SweepError where the disk does not take it."""
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_bytes(text.encode() if isinstance(text, str) else text)
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        why = "there is no space left on the disk" if error.errno == errno.ENOSPC else error.strerror
        raise SweepError(f"{path} cannot be written: {why}.") from None


def read(path: Path) -> dict:
    """A record; SweepError where the file holds none, or a part of one."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    raise SweepError(
        f"{path} is no record of a sweep or a run: remove it, and the command that wrote it makes it again."
    )


def ready(folder: Path) -> None:
    """Make a folder for records; SweepError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except FileExistsError:
        raise SweepError(f"{folder} is a file, and records need a folder.") from None
    except OSError as error:
        raise SweepError(f"{folder} cannot be written: {error.strerror}.") from None


def place(folder: Path, name: str) -> Path:
    """Where the record of a point lies."""
    return folder / f"{name}.json"


def sweep(
    work: Work,
    points: Callable[[], Iterable[Point]],
    folder: Path,
    workers: int | None = None,
    scheduler: str = "",
    limit: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tally:
    """Run every point that has no record, and those with a failed one where the work has retries.

    Args:
        work: what workers do.
        points: an iterable of (name, head, arguments), asked for twice, and never held as a whole.
        folder: where the records lie, a file for each.
        workers: processes on this machine (default: its processors).
        scheduler: the address of one elsewhere, in their place.
        limit: run so many at most.
        say: takes a line of progress every two seconds.

    Raises:
        SchedulerError: no scheduler answers, or no longer.
        SweepError: a worker computes with other code, or the disk takes no record.
    """
    ready(folder)
    tally = Tally(0)
    for name, _, _ in points():
        tally.total += 1
        known = failure(folder, name)
        tally.recorded += not _open(known, work.retries)
        if known and not work.retries:
            tally.fail(name, known)
    if tally.recorded == tally.total:
        return tally
    todo = itertools.islice((one for one in points() if _open(failure(folder, one[0]), work.retries)), limit)
    with cluster(workers, scheduler, work.resources) as client:
        try:
            for record in _records(client, work, todo, tally, say):
                write(place(folder, record["point"]), json.dumps(record, indent=1) + "\n")
        except (OSError, CancelledError) as error:  # of the connection: a write that fails raises SweepError
            raise SchedulerError(f"The scheduler at {scheduler or 'this machine'} is gone.") from error
    return tally


def _records(client, work: Work, todo: Iterator[Point], tally: Tally, say) -> Iterator[dict]:
    """The records of points as they come; no more points are with the scheduler than its workers soon need."""
    done: queue.SimpleQueue = queue.SimpleQueue()
    under_way: dict[str, tuple] = {}  # a point, and the future that must not be forgotten

    def submit(point: Point) -> None:
        name, _, arguments = point
        asked = {"resources": work.resources or None, "retries": work.retries, "key": name, "pure": False}
        future = client.submit(work.run, *arguments, **asked)
        under_way[name] = point, future
        future.add_done_callback(done.put)

    workers, looked = fit(client, work.prove, work.resources), time.monotonic()
    more = True
    while more or under_way:
        while more and len(under_way) < 2 * len(workers) + 2:
            point = next(todo, None)
            more = point is not None
            if more:
                submit(point)
        if time.monotonic() - looked > TICK:
            if client.status != "running":
                raise OSError("the connection is lost")
            workers, looked = fit(client, work.prove, work.resources, workers), time.monotonic()
            say(tally.line() if workers else f"{tally.line()}: waiting for a worker")
        try:
            future = done.get(timeout=TICK)
        except queue.Empty:
            continue
        point, _ = under_way.pop(future.key)
        record = _record(future, client)
        if record is None:  # the scheduler forgot it
            submit(point)
            continue
        name, head, _ = point
        tally.ran += 1
        if "failure" in record:
            tally.fail(name, record["failure"])
        yield {"point": name, **head, **record, "ended": datetime.now(UTC).isoformat(timespec="seconds")}


def _record(future, client) -> dict | None:
    """What came of a point: the rest of its record, or its failure; None where it has to be asked for again."""
    import distributed

    if future.status in ("cancelled", "lost", "pending"):
        if client.status != "running":
            raise OSError("the connection is lost")
        return None
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, (SweepError, ImportError)):
        raise SweepError(f"A worker stopped the sweep: {error}")
    if isinstance(error, distributed.scheduler.KilledWorker):
        times = error.allowed_failures + 1
        return {"failure": f"each of the {times} workers that took it died, perhaps for want of memory"}
    return {"failure": str(error) if isinstance(error, PointError) else f"{type(error).__name__}: {error}"}


def _open(known: str | None, retries: int) -> bool:
    """Whether a point is to run: it has no record, or a failed one and another try is asked for."""
    return known is None or bool(known and retries)


def failure(folder: Path, name: str) -> str | None:
    """The sentence of a failed record, "" of a good one, None where there is none."""
    path = place(folder, name)
    return read(path).get("failure", "") if path.is_file() else None
