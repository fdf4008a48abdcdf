"""The published tables of the sources, copied by hand: ``data/published/*.csv``, with ``PROVENANCE.md`` beside them."""

from __future__ import annotations

import csv
from pathlib import Path

import lorabook

FOLDER = lorabook.DATA / "published"


def read(name: str, folder: Path = FOLDER) -> list[dict]:
    """Rows of ``data/published/<name>.csv`` by column; numbers as float, empty cells as None, without comments."""
    lines = (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [{key: _number(text) for key, text in row.items()} for row in rows]


def _number(text: str):
    try:
        return float(text)
    except ValueError:
        return text or None
