"""Write the fine maps of the chapter on validity: ``python -m tools.maps [NAME ...]``, all without a name.

Each is written when it is done, as ``data/maps/NAME.csv``, with what made it on its first lines.
"""

import argparse
import hashlib
import platform
import time
from datetime import UTC, datetime

import numpy
import torch

import lorabook
from lorabook import device, maps
from lorabook.maps import tables
from lorabook.sweep import closure


def code() -> str:
    """The hash of all code of this package that a map runs."""
    files = closure.closure(["lorabook/maps/__init__.py"])
    return hashlib.sha256(b"".join((closure.ROOT / file).read_bytes() for file in files)).hexdigest()


def write(chart: maps.Chart) -> None:
    begun, hashed = time.process_time(), code()
    region = maps.region(chart, fine=True)
    made = {
        "map": f"{chart.name}, {len(region.x)} x {len(region.y)} cells, {chart.draws[1]} draws",
        "command": f"python -m tools.maps {chart.name}",
        "made on": f"{datetime.now(UTC):%Y-%m-%d} in {time.process_time() - begun:.0f} s of processor time, "
        f"{device.describe()}",
        "versions": f"lorabook {lorabook.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}",
        "sha256 of the code": hashed,
    }
    tables.FOLDER.mkdir(exist_ok=True)
    tables.place(chart).write_text(tables.text(region, made), encoding="utf-8")
    print(f"{made['map']}: {made['made on']}", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(maps.ATLAS))
    torch.set_num_threads(1)
    for name in options.parse_args().names or maps.ATLAS:
        write(maps.ATLAS[name])
