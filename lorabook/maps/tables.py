"""Fine maps, kept as small tables: ``data/maps/<name>.csv``, written by ``tools/maps.py``.

The first lines, which begin with #, say what made the table.  A wheel does not carry these tables.
"""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

import torch

import lorabook
from lorabook.device import DTYPE
from lorabook.maps.chart import Chart, Region

FOLDER = lorabook.DATA / "maps"
COLUMNS = ("panel", "x", "y", "value")


def place(chart: Chart) -> Path:
    """Where the table of a map lies."""
    return FOLDER / f"{chart.name}.csv"


def text(region: Region, made: dict[str, str]) -> str:
    """The table of a region, six digits of each value, after what is said of how it was made."""
    rows = [
        ",".join((str(panel), f"{x:g}", f"{y:g}", f"{region.values[panel, i, j].item():.6g}"))
        for panel in range(len(region.chart.panels))
        for i, x in enumerate(region.x)
        for j, y in enumerate(region.y)
    ]
    body = "\n".join([",".join(COLUMNS), *rows]) + "\n"
    made = made | {"sha256 of the rows": digest(body)}
    return "".join(f"# {name}: {said}\n" for name, said in made.items()) + body


def digest(body: str) -> str:
    """The hash of a table's rows."""
    return hashlib.sha256(body.encode()).hexdigest()


def made(chart: Chart) -> dict[str, str]:
    """What a table says of how it was made."""
    lines = place(chart).read_text(encoding="utf-8").splitlines()
    return dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))


def read(chart: Chart) -> Region | None:
    """The fine map, or None where its table is not beside the package."""
    if not place(chart).is_file():
        return None
    lines = place(chart).read_text(encoding="utf-8").splitlines()
    rows = [row for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    x, y = (sorted({float(row[axis]) for row in rows}) for axis in "xy")
    values = torch.full((len(chart.panels), len(x), len(y)), math.nan, dtype=DTYPE)
    for row in rows:
        values[int(row["panel"]), x.index(float(row["x"])), y.index(float(row["y"]))] = float(row["value"])
    return Region(chart, x, y, values)
