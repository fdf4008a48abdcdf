"""The sweep's tables.

Two methods are compared on the same test sentences and the same minibatches, seed by seed, by the rule of
:mod:`lorabook.real_fine_tune.compare`; its level is shared by all comparisons (Bonferroni).
"""

from __future__ import annotations

import csv
import datetime
from dataclasses import asdict, fields
from pathlib import Path

import torch

from lorabook.inputs import minilm, sentences
from lorabook.practice.arms import Arm, unpack
from lorabook.real_fine_tune.compare import Difference, paired
from lorabook.real_fine_tune.task import right

MARGIN = {"accuracy": 2.0, "loss": 0.02}  # within which two methods count as equal: points, and test loss
FIELDS = tuple(field.name for field in fields(Arm))
COLUMNS = ("first", "second", "measure", "disagree", *Difference._fields)
HEAD = ("first", "validation", "accuracy", "loss", "seconds")


def rows(known: dict[Arm, dict]) -> list[dict]:
    """One row an arm, sorted."""
    order = sorted(known, key=lambda arm: tuple(map(str, asdict(arm).values())))
    number = lambda value: "" if value is None else f"{value:.6g}"
    return [asdict(arm) | {name: number(known[arm].get(name)) for name in HEAD} for arm in order]


def comparisons(known: dict[Arm, dict], planned: list[tuple[str, list[Arm], str, list[Arm]]]) -> list[dict]:
    """One row for each planned pair both sides of which were run: of accuracy in points, and of test loss."""
    found = []
    for first, arms, second, others in planned:
        pairs = [(a, b) for a, b in zip(arms, others) if a in known and b in known]
        if not pairs:
            continue
        sides = [torch.stack([unpack(known[pair[k]]["losses"]) for pair in pairs]) for k in (0, 1)]
        judged = [right(side).double() * 100 for side in sides]
        disagree = float((judged[0] != judged[1]).double().mean())
        for measure, (one, other) in (("accuracy", judged), ("loss", sides)):
            said = paired(one, other)._asdict()
            row = {"first": first, "second": second, "measure": measure, "disagree": disagree} | said
            found.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    return found


def write(known: dict[Arm, dict], planned, folder: Path, made_of: dict) -> None:
    """``arms.csv``, ``comparisons.csv`` and what they rest on."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "arms.csv", FIELDS + HEAD, rows(known))
    _write(folder / "comparisons.csv", COLUMNS, comparisons(known, planned))
    spent = sum(record.get("seconds", 0.0) for record in known.values())
    day = datetime.datetime.now(datetime.UTC).date()
    (folder / "PROVENANCE.md").write_text(
        f"""# The tables of the chapter "What to do"

| | |
|:--|:--|
| Command | `python -m lorabook.practice`; it goes on where it stopped. `--pilot` makes `pilot.csv` |
| Run | {day}, {len(known)} arms, {spent / 60:.1f} minutes of one processor |
| Versions | torch {made_of["torch"]}, numpy {made_of["numpy"]}, the files that an arm reaches {made_of["files"]} |
| Weights | all-MiniLM-L6-v2, SHA-256 `{minilm.SHA256}` |
| Sentences | {sentences.PACKAGE} {sentences.VERSION}, SHA-256 `{sentences.SHA256}` |

`arms.csv`: an arm is a method at a rank and a rate, trained with a seed; mean loss on the validation sentences before
(`first`) and after; on the test sentences, where it was judged, accuracy and mean loss; seconds of the processor.
`ratio` is that of the rates of B and A where it is not the method's own; `rounded` a dtype of base and start.

`pilot.csv`: the same for the pilot, on another draw of sentences; `falls` says whether the rate fell to 0.

`comparisons.csv`: first minus second, in points of accuracy or in test loss, its standard
`error` and the degrees of `freedom` of that; the share of sentences on which the two `disagree`. The last three come
from the losses of the single sentences, which are not kept: whoever wants them runs the arms again.
The comparisons in `plan.LATER` were asked after the sweep had been looked at, the first because a reader saw the
difference in `arms.csv`. They share the level of all.
""",
        encoding="utf-8",
    )


def pilot(found: list[tuple[bool, Arm, dict]], folder: Path) -> None:
    """``pilot.csv``: whether the rate fell, the arm, what came of it."""
    said = [{"falls": falls} | rows({arm: record})[0] for falls, arm, record in found]
    _write(folder / "pilot.csv", ("falls", *FIELDS, *HEAD), said)


def read_pilot(folder: Path) -> dict[tuple[bool, Arm], dict]:
    """The rows of ``pilot.csv`` by schedule and arm."""
    return {(row.pop("falls") == "True", *_arm(row)[:1]): _arm(row)[1] for row in _rows(folder / "pilot.csv")}


def read(folder: Path) -> tuple[dict[Arm, dict], dict[tuple[str, str, str], tuple[Difference, float]]]:
    """The two tables of a folder: records by arm, and (first, second, measure) with the share that disagrees."""
    known = dict(map(_arm, _rows(folder / "arms.csv")))
    found = {
        (row["first"], row["second"], row["measure"]): (
            Difference(*(float(row[name]) for name in Difference._fields)),
            float(row["disagree"]),
        )
        for row in _rows(folder / "comparisons.csv")
    }
    return known, found


def _arm(row: dict) -> tuple[Arm, dict]:
    """The arm of a row, and its numbers."""
    given = {"rank": int(row["rank"]), "rate": float(row["rate"]), "seed": int(row["seed"])}
    given |= {"ratio": float(row["ratio"]) if row["ratio"] else None, "tested": row["tested"] == "True"}
    numbers = {name: float(row[name]) for name in HEAD if row[name]}
    return Arm(**{name: row[name] for name in FIELDS} | given), numbers


def _write(path: Path, columns: tuple[str, ...], found: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def _rows(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
