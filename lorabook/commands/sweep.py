"""``lorabook sweep``, ``table`` and ``map``.

Exit code 0: all is done.  1: a point failed, or the sweep could not begin or go on.  3: the scheduler is not there.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from pathlib import Path

from lorabook.commands.options import not_negative, positive
from lorabook.sweep import SweepError, engine, grid, notebook, results
from lorabook.sweep.workers import SchedulerError

MOST = 10_000  # points that nobody has to confirm


def add(commands) -> None:
    """Add the parsers of these commands."""
    one = commands.add_parser(
        "sweep",
        help="run a notebook over a grid of parameters",
        description="Run a notebook over a grid of parameters, one record per point. What has a record is skipped, so "
        "the same command goes on where it stopped.",
    )
    one.add_argument("notebook", metavar="NOTEBOOK", help="the notebook, an .ipynb")
    one.add_argument("grid", metavar="GRID.yml", help="fixed, cross, zip, seeds, resources; or lists by name")
    one.add_argument("--out", metavar="FOLDER", required=True, help="where the records go, a file for each point")
    place = one.add_mutually_exclusive_group()
    place.add_argument(
        "--workers", type=positive(int), metavar="N", help="processes on this machine (default: its cores)"
    )
    place.add_argument("--scheduler", metavar="ADDRESS", default="", help="of a Dask scheduler, tcp://host:8786")
    one.add_argument(
        "--retries", type=not_negative(int), metavar="K", default=0, help="try a failed point again, K times"
    )
    one.add_argument("--yes", action="store_true", help=f"start more than {MOST:,} points without asking")
    one.set_defaults(run=_sweep)
    one = commands.add_parser("table", help="show the records of a sweep as a table")
    one.add_argument("folder", metavar="FOLDER")
    one.add_argument("--out", metavar="X.csv|X.parquet", default="", help="a file (default: print CSV)")
    one.set_defaults(run=_table)
    one = commands.add_parser("map", help="draw where a claim holds over two parameters")
    one.add_argument("folder", metavar="FOLDER")
    for name, metavar, text in (
        ("--x", "P", "the parameter across"),
        ("--y", "Q", "the parameter up"),
        ("--claim", "ID", "the claim, as lora_one.theorem-3-2-start"),
        ("--out", "X.svg", "the drawing"),
    ):
        one.add_argument(name, metavar=metavar, required=True, help=text)
    one.set_defaults(run=_map)


def _sweep(options) -> int:
    book = notebook.read(options.notebook)
    defaults = book.defaults()
    points = grid.read(options.grid, defaults)
    check = notebook.guard(book)
    for values in points:
        check(defaults | values)
    made_of = notebook.identity(book)

    def named():
        for values in points:
            full = defaults | values
            head = {"notebook": book.name, "parameters": full, "made_of": made_of}
            yield notebook.key(book, made_of, full), head, (book, full, made_of)

    prove = functools.partial(notebook.same, book, made_of)
    work = engine.Work(notebook.run, prove, points.resources, options.retries)
    limit = 1 if len(points) > MOST and not options.yes else None
    try:
        tally = engine.sweep(work, named, Path(options.out), options.workers, options.scheduler, limit, progress())
    except KeyboardInterrupt:
        tell(f"Stopped. {_stands(named, options.out)}; the same command goes on from there.")
        return 130
    except SchedulerError as error:
        tell(f"lorabook: {error} {_stands(named, options.out)}; the same command finishes the rest.")
        return 3
    if limit:
        raise SweepError(f"{_cost(named, options.out, len(points))} Say --yes to start.")
    tell(f"{tally.line()}: {options.out}", *(f"failed: {line}" for line in tally.names))
    if tally.failed:
        tell("Failed points stay as they are; --retries 1 tries them again.")
    return 1 if tally.failed else 0


def tell(*lines: str) -> None:
    """Lines on stderr; on a terminal below the progress."""
    print("\n" if sys.stderr.isatty() else "", end="", file=sys.stderr)
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def progress():
    """What shows a line of progress: on a terminal each over the last one, else one a minute."""
    if sys.stderr.isatty():
        return lambda line: print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
    last = [-math.inf]

    def say(line: str) -> None:
        if time.monotonic() - last[0] >= 60:
            last[0] = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    return say


def _stands(named, out: str) -> str:
    names = [engine.place(Path(out), name).is_file() for name, _, _ in named()]
    return f"{sum(names):,} of {len(names):,} points are recorded"


def _cost(named, out: str, total: int) -> str:
    """How many points there are, and how long they take, by the first that has a record."""
    paths = (engine.place(Path(out), name) for name, _, _ in named())
    first = engine.read(next(path for path in paths if path.is_file()))
    if "failure" in first:
        return f"These are {total:,} points, and the first failed: {first['failure']}."
    one = first["seconds"]
    return (
        f"These are {total:,} points. One took {engine.duration(one)}, so all take about "
        f"{engine.duration(one * total)} on one worker, and the Nth part of that on N."
    )


def _table(options) -> int:
    sys.stdout.write(results.table(options.folder, options.out))
    return 0


def _map(options) -> int:
    note = results.draw(options.folder, options.x, options.y, options.claim, options.out)
    if note:
        print(note, file=sys.stderr)
    return 0
