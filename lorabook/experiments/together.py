"""Several processes that share a run, as ``accelerate launch`` starts them: who writes, and who does which part.

A step's rows are divided among them, so that it is the step of one process up to rounding, as long as the loss is a
mean over rows.  Where an epoch's rows are no multiple of a step's, some of the first ones are read again in its last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lorabook import checks
from lorabook.device import default_device
from lorabook.experiments import ExperimentError


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        _state().wait_for_everyone()


def each(rows: int) -> int:
    """Of a step's rows those of one process.

    Raises:
        ExperimentError: they cannot be divided.
    """
    if rows % count():
        raise ExperimentError(f"{rows} rows in a step cannot be divided among {count()} processes.")
    return rows // count()


def spread(rows: list, work: Callable[[list], dict[str, list]]) -> dict[str, list]:
    """``work`` of all rows, a part of them on each process: columns in the order of the rows, on every process."""
    if count() == 1:
        return work(rows)
    from accelerate.utils import gather_object

    rank = int(os.environ["RANK"])
    _state()
    numbers = list(range(rank, len(rows), count()))
    parts = gather_object([(numbers, work([rows[k] for k in numbers]))])
    order = [k for mine, _ in parts for k in mine]
    joined = {name: sum((columns[name] for _, columns in parts), []) for name in parts[0][1]}
    sort = lambda column: [one for _, one in sorted(zip(order, column), key=lambda pair: pair[0])]
    return {name: sort(column) for name, column in joined.items()}


def _state() -> Any:
    return checks.package("accelerate", "experiments").PartialState(cpu=default_device().type == "cpu")
