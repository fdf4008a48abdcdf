"""What the engine of sweeps costs: a point that does nothing, a notebook's own time, and two workers beside each other.

    python -m benchmarks.sweep [POINTS] [NOTEBOOK] [RUNS]      (default: 100000 rushka_low_rank 100)

nothing      POINTS points that return at once, on two worker processes: points a second and the memory of the client,
             at tenths of the way; flat memory and a steady rate say that more points only take longer (Dask keeps the
             names of the last 100,000 points, half a kilobyte each)
a point      one worker, a notebook of one cell that imports torch: the wall time of a point, the start of the workers
             left out, beside that of the cell, which it measures itself
two workers  RUNS points of NOTEBOOK with other seeds on two workers, against half of the sum of their own times; the
             time of a run alone, through papermill in this process, is beside it
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil

from lorabook.sweep import engine, notebook, results

ROOT = Path(__file__).resolve().parent.parent
CELL = """import time
begun = time.perf_counter()
import torch, lorabook.device
from pathlib import Path
Path(diary, str(seed)).write_text(str(time.perf_counter() - begun))"""


def nothing() -> dict:
    """The work of a point that does nothing."""
    return {}


def idle(count: int, folder: Path) -> None:
    """Points that do nothing."""
    memory, begun, last, asked = psutil.Process(), time.perf_counter(), [0, 0.0], []

    def points() -> Iterator[engine.Point]:
        asked.append(time.perf_counter())
        for k in range(count):
            if len(asked) == 2 and k and k % (count // 10) == 0:  # the first time they are only counted
                now = time.perf_counter()
                rate = (k - last[0]) / (now - (last[1] or asked[-1]))
                print(f"{k:>8,} points  {rate:6.0f} a second  client {memory.memory_info().rss / 2**20:5.0f} MiB")
                last[:] = k, now
            yield f"nothing-{k:08d}", {"parameters": {"k": k}}, ()

    work = engine.Work(nothing, nothing)
    tally = engine.sweep(work, points, folder, workers=2)
    spent = time.perf_counter() - begun
    print(f"{tally.ran:>8,} points  {1e3 * spent / count:.2f} ms a point, {spent:.0f} s in all")
    begun = time.perf_counter()
    engine.sweep(work, points, folder, workers=2)
    print(f"the same again, all there: {time.perf_counter() - begun:.1f} s")


def swept(path: Path, seeds: int, workers: int, folder: Path) -> tuple[float, list[dict]]:
    """Seconds, and the records of a notebook with so many seeds."""
    book = notebook.read(path)
    made_of = notebook.identity(book)

    def points() -> Iterator[engine.Point]:
        for seed in range(seeds):
            values = book.defaults() | {"seed": seed}
            head = {"notebook": book.name, "parameters": values, "made_of": made_of}
            yield notebook.key(book, made_of, values), head, (book, values, made_of)

    begun = time.perf_counter()
    tally = engine.sweep(engine.Work(notebook.run, nothing), points, folder, workers=workers)
    spent = time.perf_counter() - begun
    if tally.failed:
        sys.exit(tally.names[0])
    return spent, list(results.records(folder))


def small(folder: Path) -> Path:
    """A notebook whose one cell imports torch, as every notebook of the book does, and notes how long it took."""
    cells = [
        nbformat.v4.new_code_cell(f"seed = 0\ndiary = {str(folder)!r}", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "small.ipynb")
    return folder / "small.ipynb"


def main(count: int = 100_000, name: str = "rushka_low_rank", runs: int = 100) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print("Points that do nothing, two workers:")
        idle(count, folder / "idle")
        print("A notebook of one cell that imports torch, one worker:")
        path = small(folder)
        few, many = (swept(path, count, 1, folder / f"small-{count}")[0] for count in (4, 16))
        cell = statistics.median(float((folder / str(seed)).read_text()) for seed in range(16))
        print(f"  {(many - few) / 12:.2f} s a point, of which the cell takes {cell:.2f} s")
        if runs:
            path = ROOT / f"notebooks/{name}.ipynb"
            alone = swept(path, 3, 1, folder / "alone")[1]
            own = statistics.median(one["seconds"] for one in alone)
            spent, found = swept(path, runs, 2, folder / "two")
            total = sum(one["seconds"] for one in found)
            print(f"{runs} points of {name}, two workers: {spent:.0f} s")
            print(f"  over half of the sum of their times: {2 * spent / total:.3f}")
            print(f"  over half of {runs} times that of one alone, {own:.1f} s: {2 * spent / (runs * own):.3f}")


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, str, int), sys.argv[1:])))
