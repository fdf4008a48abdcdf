"""Who computes the points of a sweep: processes on this machine, or the workers of a Dask scheduler elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from lorabook.sweep import SweepError

PATIENCE = 10.0  # seconds in which a scheduler has to answer


class SchedulerError(SweepError):
    """The scheduler is not there, or not there any more."""


@contextlib.contextmanager
def cluster(workers: int | None, scheduler: str, resources: dict) -> Iterator[Any]:
    """A client of the scheduler at an address, or of worker processes on this machine, which end with it."""
    from lorabook import checks

    checks.package("distributed", "sweep")
    import distributed

    for name in ("distributed", "distributed.client"):  # of a lost connection one sentence is enough
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler:
        try:  # of a client that never was, Dask would complain once more
            if not scheduler.startswith("inproc://"):  # which has no port
                distributed.comm.get_address_host_port(scheduler, strict=True)
        except ValueError:
            raise SweepError(f"{scheduler!r} is no address of a scheduler, such as tcp://host:8786.") from None
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except OSError:
            raise SchedulerError(f"There is no scheduler at {scheduler}: start one with `dask scheduler`.") from None
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=2)
        return
    with _deaf():
        local = distributed.LocalCluster(
            n_workers=workers or os.cpu_count() or 1,
            threads_per_worker=1,
            processes=True,
            resources=resources or None,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any free port: another sweep may have Dask's own
            memory_limit=0,  # the kernels are processes of their own
            silence_logs="CRITICAL",
        )
    with local, distributed.Client(local, set_as_default=False) as client:
        yield client


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that begin here do not hear Ctrl-C: it reaches the client, which ends them."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def fit(client, prove: Callable[[], None], resources: dict, known: frozenset = frozenset()) -> frozenset:
    """The addresses of the workers; SweepError where one that is not ``known`` computes with other code or would run
    kernels side by side, and where none has what a point asks."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    new = [address for address in workers if address not in known]
    for address in new:
        threads = workers[address]["nthreads"]
        if threads != 1:
            raise SweepError(
                f"The worker {address} has {threads} threads and would run as many kernels at once: start it with "
                "`dask worker ... --nthreads 1`, and several at once with --nworkers."
            )
    able = [w for w in workers.values() if all(w["resources"].get(k, 0) >= v for k, v in resources.items())]
    if workers and not able:
        asked = " ".join(f"{name}={amount}" for name, amount in resources.items())
        raise SweepError(f'No worker offers {asked}: start them with `dask worker ... --resources "{asked}"`.')
    for address, error in (client.run(prove, workers=new, on_error="return") if new else {}).items():
        if isinstance(error, SweepError):
            raise SweepError(f"The worker {address}: {error}")
        if isinstance(error, (ImportError, AttributeError)):
            raise SweepError(f"The worker {address} has no lorabook like the one here ({error}): install it there.")
    return frozenset(workers)
