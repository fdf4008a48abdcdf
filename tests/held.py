"""What a notebook's test says when a printed number moves.

nbval runs the cells and decides: a text that differs from the reference outputs fails, and nothing here softens that.
This plugin writes the report: the cell, counted as the build counts (all cells, from 1), and its heading; for each
claim what was and what is, the band, and whether the verdict flips; every other text that moved; what to type if the
change is meant.  The conftest.py above loads it.
"""

import difflib
import re
from itertools import zip_longest

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

from lorabook.page import claims, lists

# What a verdict's record holds, and what it is called on its card.
NUMBERS = {
    "value": "value",
    "probe": "counter-probe",
    "repair": "corrected statement",
    "constant": "constant",
    "over": "range",
    "note": "note",
}
PLAINEST = ["text/plain", "text/markdown"]
LONGEST_LINE, MOST_LINES = 160, 40


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    collected = yield
    return [
        HeldFile.from_parent(parent, path=file_path) if isinstance(one, IPyNbFile) else one for one in collected or []
    ]


class HeldFile(IPyNbFile):
    """A notebook whose cells are counted as the build counts them."""

    def collect(self):
        items = list(super().collect())
        numbers = [number for number, cell in enumerate(self.nb.cells, 1) if cell.cell_type == "code"]
        for number, item in zip(numbers, items, strict=True):
            yield HeldCell.from_parent(
                self, name=f"Cell {number}", cell_num=number, cell=item.cell, options=item.options
            )


class HeldCell(IPyNbCell):
    """A cell that says all that moved in it."""

    moved = ()

    def compare_outputs(self, test, ref, skip_compare=None):
        same = super().compare_outputs(test, ref, skip_compare)
        if not same:
            self.moved = differences(ref, test, self.parent.skip_compare)
        return same

    def repr_failure(self, excinfo):
        error, place = excinfo.value, f"{self.path.name}, cell {self.cell_num}{self.heading()}"
        if not isinstance(error, NbCellError):
            return f"{place} was not run: {error}"
        if not self.moved:  # an exception, a timeout, a reference that was never run
            return "\n".join(filter(None, [f"{place}: {self.last_words(error)}", error.source, error.inner_traceback]))
        meant = f"If this is meant, type: make reference NOTEBOOKS={self.path.stem}\nand read what `git diff` shows."
        return "\n".join([f"{place}: what it prints has moved.", *self.moved, meant])

    def heading(self):
        """The last heading above the cell, in brackets."""
        above = self.parent.nb.cells[: self.cell_num]
        found = [re.findall(r"^#{1,6} +(.+)$", cell.source, re.M) for cell in above if cell.cell_type == "markdown"]
        return next((f" ({titles[-1]})" for titles in reversed(found) if titles), "")

    def last_words(self, error):
        """Why the cell stopped, in one line."""
        last = self.test_outputs[-1] if self.test_outputs else {}
        return f"stopped with {last['ename']}: {last['evalue']}" if "ename" in last else str(error)


def differences(reference, fresh, skip=()):
    """All that moved between two lists of outputs, as lines: claims first told by their numbers, then texts."""
    said = []
    for old, new in pairs(reference, fresh, skip):
        if new is None:
            said += [
                "  missing: the reference holds this, and this run prints nothing in its place",
                *quoted(old, skip),
            ]
        elif old is None:
            said += ["  new: this run prints this, and the reference holds nothing in its place", *quoted(new, skip)]
        elif record(old).get("id") and record(old) != record(new):
            said += claim_moved(record(old), record(new))
        else:
            said += text_moved(texts(old, skip), texts(new, skip))
    return said


def pairs(reference, fresh, skip):
    """Outputs side by side: by the claim's id, else by their text, else in order; None where one side has none."""
    reference, fresh = ([one for one in side if texts(one, skip)] for side in (reference, fresh))
    names = [[record(one).get("id") or tuple(texts(one, skip).items()) for one in side] for side in (reference, fresh)]
    for _, a, b, c, d in difflib.SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        for old, new in zip_longest(reference[a:b], fresh[c:d]):
            if old is None or new is None or texts(old, skip).keys() & texts(new, skip).keys():
                yield old, new
            else:  # printed text in place of a table: nothing to compare line by line
                yield from [(old, None), (None, new)]


def record(output):
    """What the output records of a verdict, or nothing."""
    return output.get("metadata", {}).get(claims.METADATA, {}) if output else {}


def texts(output, skip):
    """The texts that are compared, by their kind, the plainest first."""
    if output["output_type"] == "stream":
        return {output["name"]: output["text"]}
    if output["output_type"] == "error":
        return {"error": f"{output['ename']}: {output['evalue']}"}
    data = {kind: str(text) for kind, text in output.get("data", {}).items() if kind not in skip}
    return {kind: data[kind] for kind in [*PLAINEST, *sorted(data)] if kind in data}


def quoted(output, skip):
    """The plainest text of an output."""
    plainest = next(iter(texts(output, skip).values()))
    return shortened(f"    {line[:LONGEST_LINE]}" for line in plainest.rstrip("\n").split("\n"))


def claim_moved(old, new):
    """The numbers of a claim that moved, its band, and what became of the verdict."""
    if old["id"] != new.get("id"):
        return [f"  {old['id']}: no verdict on it; in its place stands {new.get('id', 'an output without a claim')}"]
    flips = (
        f'the verdict stays "{old["verdict"]}"'
        if old["verdict"] == new["verdict"]
        else f'THE VERDICT FLIPS from "{old["verdict"]}" to "{new["verdict"]}"'
    )
    lines = [f"  {old['id']}: {flips}"]
    for key, name in NUMBERS.items():
        if old.get(key) != new.get(key):
            lines.append(f"    {name}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}")
    try:
        claim = lists.find(old["id"])
        return [*lines, f"    wanted: {claim.wanted() if claim.band else claim.reason}"]
    except lists.ClaimError as error:
        return [*lines, f"    {error}"]


def text_moved(old, new):
    """The lines that moved in the plainest text that did."""
    for kind in [*old, *(kind for kind in new if kind not in old)]:
        if old.get(kind) != new.get(kind):
            return [f"  {kind}:", *shortened(lines_moved(old.get(kind, "").split("\n"), new.get(kind, "").split("\n")))]
    return []


def lines_moved(old, new):
    """Each line that moved: as it was, and as it is."""
    for same, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if same != "equal":
            for before, after in zip_longest(old[a:b], new[c:d]):
                start = max(0, first_difference(before or "", after or "") - LONGEST_LINE // 2)
                yield from (
                    f"    {word}: {'...' if start else ''}{line[start : start + LONGEST_LINE]}"
                    for word, line in (("was", before), ("is ", after))
                    if line is not None
                )


def first_difference(left, right):
    return next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))


def shortened(lines):
    """The first lines, and how many are left out."""
    lines = list(lines)
    left = len(lines) - MOST_LINES
    return lines[:MOST_LINES] + ([f"    and {left} lines more"] if left > 0 else [])
