"""``lorabook run EXPERIMENT``: an experiment of a source, as it was made.

Exit code 0: every run that was asked for has its record.  1: one could not be done, one sentence on stderr.  3: the
scheduler is not there.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
from pathlib import Path

from lorabook.commands.options import not_negative, positive
from lorabook.commands.sweep import progress, tell
from lorabook.sweep.workers import SchedulerError

REHEARSED = "A rehearsal: none of its numbers is a result."


def add(commands) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "run",
        help="run an experiment of a source as it was made",
        description="Train as a table or figure of a source was made, and write a record of each run. What has a "
        "record is skipped, and what was stopped goes on, so the same command goes on where it stopped.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a file of data/experiments, as glue or sst2")
    parser.add_argument("--task", help="one of the experiment's tasks")
    parser.add_argument("--method", help="full, lora, lora_one, proximal, ...")
    parser.add_argument("--rank", type=positive(int), metavar="R", help="of the adapter")
    parser.add_argument("--seed", type=not_negative(int), metavar="S", help="default: the experiment's first")
    parser.add_argument("--rate", type=positive(float), metavar="L", help="learning rate; default: the experiment's")
    parser.add_argument("--decay", type=not_negative(float), metavar="D", help="lambda of the nuclear norm")
    parser.add_argument("--start", help="of factored training: zero, small_1, small_2, small_3, large")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every value of what is not given, the rate excepted; of a rehearsal the first rank and seed",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the records go, a file for each run")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", default="", help="of a Dask scheduler, whose workers do a run each at a time"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    kind.add_argument(
        "--rehearse", action="store_true", help="tiny networks and data made by formula, no network; no result"
    )
    parser.add_argument(
        "--execute-generated-code",
        action="store_true",
        help="run the code that a network writes for HumanEval, without a network, in a file system of its own",
    )
    parser.add_argument("--card", default="A100", help="of the plan: T4, L4, RTX4090, A100, H100, H200")
    parser.set_defaults(run=run)


def run(options) -> str | int:
    """The plan, or where the records are."""
    from lorabook.experiments import ExperimentError, distant, plan, points, run, settings, shelf, together
    from lorabook.sweep import engine

    experiment = settings.load(options.experiment)
    given = {name: getattr(options, name) for name in ("task", "method", "rank", "seed", "rate", "decay", "start")}
    runs = points.runs(experiment, options.all, options.rehearse, **given)
    values = points.values(experiment, options.rehearse)
    if options.dry_run:
        return plan.told(experiment, runs, values, options.card)
    run.may_run(runs, options.execute_generated_code)
    if not options.out:
        raise ExperimentError("Say where the records go: --out FOLDER.")
    if options.scheduler and together.count() > 1:
        raise ExperimentError("Runs go to a scheduler from one process; several share a run here.")
    shelf.quiet()
    out = Path(options.out)
    engine.ready(out)
    with _place(options, experiment) as here:
        if options.scheduler:
            return _distant(options, runs, values, out, here)
        distant.prepared(runs, values, out, here)
        say = lambda line: print(line, file=sys.stderr, flush=True)
        for one in runs:
            run.record(one, values, out, here, say, options.execute_generated_code)
    told = f"{len(runs)} run{'s' if len(runs) > 1 else ''} recorded in {out}."
    return f"{told} {REHEARSED}" if options.rehearse else told


def _distant(options, runs, values, out: Path, here) -> int:
    """Runs on the workers of a scheduler."""
    from lorabook.experiments import distant

    execute = options.execute_generated_code
    try:
        tally = distant.sweep(runs, values, out, here, options.scheduler, execute, progress())
    except SchedulerError as error:
        tell(f"lorabook: {error} The same command finishes the rest.")
        return 3
    tell(f"{tally.line()}: {out}", *(f"failed: {line}" for line in tally.names))
    if options.rehearse:
        tell(REHEARSED)
    return 1 if tally.failed else 0


@contextlib.contextmanager
def _place(options, experiment):
    """Where model and data are from: the Hub, or what a rehearsal makes and removes."""
    from lorabook.experiments import made, shelf

    if not options.rehearse:
        yield shelf.Shelf()
        return
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        made.shelf(Path(folder), experiment)
        gc.freeze()  # a Trainer collects what is garbage, which takes longer than so small a training
        yield shelf.Shelf(Path(folder))
