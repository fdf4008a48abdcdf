"""Claims: frozen lists, and verdicts computed from a run.

``data/claims/<source>.yml`` says what is claimed, what is measured, and in which band the measured
value must lie.  A notebook calls :func:`check` once per claim.  The verdict is computed, never typed,
and rests on a witness on each side of the band:

- the value lies inside and the counter-probe (the nearest false statement) outside: it *holds*, *holds with a
  constant* or *holds in the range tested*.  A claim of scope *proved* brings its proof along (:mod:`lorabook.exact`);
  it *holds* where the proof goes through;
- the value lies outside: it *fails as printed*, and the corrected statement, where there is one, must lie inside;
- the value lies inside and nothing outside: *not testable here*, since the check could not have failed.

A turned knob may leave a statement's range, so no verdict raises; the card says what happened.  The
reference outputs are held to more: there every failure has a corrected statement that was met, and
:func:`lorabook.page.ledger.loose_ends` finds what falls short of that.
"""

from __future__ import annotations

import functools
import html
import math
from dataclasses import dataclass

import yaml

import lorabook

HOLDS = "holds"
CONSTANT = "holds with a constant"
RANGE = "holds in the range tested"
FAILS = "fails as printed"
UNTESTABLE = "not testable here"
VERDICTS = {HOLDS: "holds", CONSTANT: "constant", RANGE: "range", FAILS: "fails", UNTESTABLE: "untestable"}
KINDS = ("theorem", "equation", "figure", "table", "remark", "beyond")
SCOPES = ("exact", "sampled", "proved")
GRADES = ("slip", "constant or hypothesis missing", "overstated words", "false")
METADATA = "lorabook"  # key of the record in the metadata of a notebook's output
LISTS = lorabook.DATA / "claims"
HEAD = ("title", "version", "read", "claims")  # what every list has


class ClaimError(ValueError):
    """An unknown or malformed claim, or a check with a number missing or NaN."""


@dataclass(frozen=True)
class Claim:
    """One entry of a claim list; the text fields may hold MyST mathematics."""

    id: str  # <source>.<name>
    where: str  # place in the source
    kind: str  # one of KINDS
    statement: str  # ours, in house letters
    measured: str  # what the number is
    band: tuple[float, float] | None  # closed interval in which the number must lie
    band_reason: str
    scope: str  # "exact": an identity, checked to rounding; "sampled": on a finite range; "proved": on a whole box
    quote: str = ""  # the source's words
    hypotheses: str = ""
    reading: str = ""  # how the source's words are read, where they can be read in more than one way
    probe: str = ""  # the nearest false statement that was tried: which hypothesis or constant the counter-probe breaks
    right: str = ""  # the corrected statement, where the printed one is suspected
    ruled_out: str = ""  # what else could have explained a failure, and does not
    grade: str = ""  # of a failure: one of GRADES
    witness: tuple[str, str] | None = None  # what the few lines in book/errata print: as printed, and right
    consequence: str = ""  # whether the source's conclusion stands without the printed statement
    constant: str = ""  # the constant that the source lacks or hides
    reason: str = ""  # why it cannot be tested here
    floor: float = 1e-12  # numbers below are rounding and are not told apart
    ceiling: float = math.inf  # numbers above differ between processors and are not told apart

    def contains(self, number: float) -> bool:
        """Whether a measured number lies in the band; an infinite one never does."""
        return math.isfinite(number) and self.band[0] <= number <= self.band[1]

    def rounded(self, number: float | None) -> str:
        """``number`` as far as it is reproducible: three digits, or the bound beyond which it is not."""
        if number is None:
            return ""
        exact = self.band[0] == self.band[1]
        if abs(number) < self.floor and not (exact and number == 0):
            return f"below {self.floor:.0e}".replace("e-0", "e-")
        if abs(number) > self.ceiling:
            return f"above {self.ceiling:g}"
        return f"{number:.3g}".replace("e-0", "e-").replace("e+0", "e")

    def wanted(self) -> str:
        digits = 4 if f"{self.band[0]:.4g}" != f"{self.band[1]:.4g}" else 12
        low, high = (f"{edge:.{digits}g}".replace("e-0", "e-") for edge in self.band)
        if self.band[0] == self.band[1]:
            return f"exactly {high}"
        if self.band[0] == -math.inf or (self.band[0] == 0 and self.band[1] < math.inf):
            return f"at most {high}"
        return f"at least {low}" if self.band[1] == math.inf else f"between {low} and {high}"


@dataclass(frozen=True)
class Verdict:
    """What a run says of one claim.  Shown as a card on the page, kept as metadata of the output."""

    claim: Claim
    verdict: str
    value: str = ""
    probe: str = ""
    repair: str = ""
    constant: str = ""
    over: str = ""
    proof: str = ""  # the box of parameters for which a proof went through
    note: str = ""  # what is missing from a full verdict; empty where nothing is

    def lines(self) -> list[str]:
        """The verdict in a few lines: what was measured, and on what it rests."""
        claim = self.claim
        if claim.reason:
            return [claim.reason]
        measured = claim.measured[:1].upper() + claim.measured[1:]
        parts = [f"Proved: {self.proof}."] if self.proof else []
        parts.append(f"{measured}: {self.value}, wanted {claim.wanted()}.")
        if self.constant:
            parts.append(f"Constant ({claim.constant}): {self.constant}.")
        if self.probe:
            parts.append(f"Counter-probe ({claim.probe}): {self.probe}.")
        if self.repair:
            parts.append(f"Corrected statement: {self.repair}.")
        if claim.witness and self.verdict == FAILS:
            parts.append("In a few lines of code: as printed {}; right {}.".format(*claim.witness))
        if self.over:
            parts.append(f"Range: {self.over}.")
        return [*parts, self.note] if self.note else parts

    def sentence(self) -> str:
        return " ".join(self.lines())

    def record(self) -> dict:
        keys = ("verdict", "value", "probe", "repair", "constant", "over", "proof", "note")
        return {"id": self.claim.id} | {key: getattr(self, key) for key in keys if getattr(self, key)}

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        word = self.verdict + ", proved" * bool(self.proof)
        spans = {"badge": word, "claim": self.claim.id, "where": html.escape(self.claim.where)}
        head = " ".join(f'<span class="lb-{name}">{text}</span>' for name, text in spans.items())
        body = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines())
        card = f'<div class="lb-verdict lb-{VERDICTS[self.verdict]}">{head}{body}</div>'
        plain = f"[{self.verdict}] {self.claim.id}: {self.sentence()}"
        return {"text/plain": plain, "text/html": card}, {METADATA: self.record()}


class Hypotheses:
    """Small table that evaluates each hypothesis on this very data.

    Args:
        *rows: (hypothesis, what was found, whether it holds); plain text, text, bool.
    """

    def __init__(self, *rows: tuple[str, str, bool]):
        self.rows = rows

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        words = [(what, found, "holds" if holds else "does not hold") for what, found, holds in self.rows]
        plain = "\n".join(": ".join(row[:2]) + f" ({row[2]})" for row in words)
        cells = [[text.replace("|", r"\|") for text in row] for row in words]
        lines = ["| hypothesis | on this data | |", "|:--|:--|:--|", *(f"| {' | '.join(row)} |" for row in cells)]
        return {"text/plain": plain, "text/markdown": "\n".join(lines)}


@functools.cache
def load(source: str) -> dict[str, Claim]:
    """The claim list of one source, by id.

    Raises:
        ClaimError: no such list, one that cannot be read, or an entry that is incomplete, doubled or malformed.
    """
    path = LISTS / f"{source}.yml"
    if not path.exists():
        raise ClaimError(f"There is no claim list {path.name}; the sources are {', '.join(sources())}.")
    entries = {}
    for raw in _read(source)["claims"]:
        claim = _parse(source, dict(raw))
        if claim.id in entries:
            raise ClaimError(f"The claim {claim.id} stands twice in {path.name}.")
        entries[claim.id] = claim
    return entries


@functools.cache
def _read(source: str) -> dict:
    try:
        head = yaml.safe_load((LISTS / f"{source}.yml").read_text(encoding="utf-8"))
        missing = [key for key in HEAD if not (isinstance(head, dict) and head.get(key))]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        if not isinstance(head["claims"], list) or not all(isinstance(raw, dict) for raw in head["claims"]):
            raise ValueError("its claims are no list of entries `name: value`")
    except yaml.MarkedYAMLError as error:
        # The second mark stands where the reader gave up on a key, the first where that began.
        mark = error.context_mark if "could not find expected ':'" in error.problem else error.problem_mark
        raise ClaimError(f"data/claims/{source}.yml cannot be read: line {mark.line + 1}: {error.problem}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ClaimError(f"data/claims/{source}.yml cannot be read: {' '.join(str(error).split())}.") from None
    return head


def title(source: str) -> str:
    """What the book calls the source."""
    return _read(source)["title"]


def version(source: str) -> str:
    """Which version of the source was read, and when: one sentence."""
    head = _read(source)
    return f"{' '.join(head['version'].split())} Read on {head['read']}."


def withdrawn(source: str) -> list[dict]:
    """What this book once called an error of the source and no longer does: ``id``, ``date``, ``now`` and ``why``."""
    return _read(source).get("withdrawn", [])


def witness_code(identifier: str) -> str:
    """The few lines that show an erratum without this package; empty where the book's pages are not beside it."""
    path = lorabook.DATA.parent / "book" / "errata" / f"{identifier}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def sources() -> list[str]:
    """Names of the sources that have a claim list."""
    return sorted(path.stem for path in LISTS.glob("[!.]*.yml"))


def _parse(source: str, raw: dict) -> Claim:
    if not raw.get("id"):
        raise ClaimError(f"A claim in {source}.yml has no id.")
    name = f"{source}.{raw.pop('id')}"
    band = raw.pop("band", None)
    raw.setdefault("scope", "sampled")
    shown = raw.pop("witness", None)
    try:
        low, high = (0.0, 0.0) if band is None else map(float, band)
        if not low <= high:
            raise ValueError(f"the band [{low:g}, {high:g}] holds no number")
        interval = None if band is None else (low, high)
        claim = Claim(
            id=name,
            band=interval,
            floor=float(raw.pop("floor", 1e-12)),
            ceiling=float(raw.pop("ceiling", math.inf)),
            witness=shown and (str(shown["printed"]), str(shown["right"])),
            **{"measured": "", "band_reason": ""} | {key: " ".join(str(text).split()) for key, text in raw.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClaimError(f"The claim {name} is malformed: {error}.") from None
    known = claim.where and claim.statement and claim.kind in KINDS and claim.scope in SCOPES
    tested = claim.band and claim.measured and claim.band_reason and (claim.probe or claim.right)
    # a failure of the source's own words is judged in full; our own statements have no words to misread
    judged = claim.reading and claim.grade in GRADES and claim.witness and claim.consequence
    graded = judged if claim.right and claim.kind != "beyond" else not claim.grade
    if not known or not graded or not (claim.band is None if claim.reason else tested):
        raise ClaimError(
            f"The claim {name} is incomplete: it needs a place, a statement, a kind, a band with its reason and "
            "a probe, the nearest false statement, or a correction with its reading, grade, witness and consequence."
        )
    return claim


def find(identifier: str) -> Claim:
    """The claim called ``<source>.<name>``; ClaimError if no list has it."""
    claim = load(identifier.split(".", 1)[0]).get(identifier)
    if claim is None:
        raise ClaimError(f"No claim list has the claim {identifier!r}.")
    return claim


def check(
    identifier: str,
    value: float,
    probe: float | None = None,
    repair: float | None = None,
    constant: float | None = None,
    over: str = "",
    proof: tuple[bool, str] | None = None,
) -> Verdict:
    """Compute the verdict on one claim.

    Args:
        identifier: ``<source>.<name>``.
        value: the measured number, under the statement as printed.
        probe: the same number for the nearest false statement.
        repair: the same number under the corrected statement.
        constant: the constant that the source lacks or hides.
        over: the range tested: sizes, ranks, horizon, seeds.
        proof: whether the proof went through, and its box of parameters; for claims of scope "proved" and no others.

    Returns:
        :class:`Verdict`.

    Raises:
        ClaimError: a number is missing or NaN, or a proof is missing or not wanted.
    """
    claim = find(identifier)
    numbers = {"value": value, "probe": probe, "repair": repair, "constant": constant}
    numbers = {name: None if number is None else float(number) for name, number in numbers.items()}
    if claim.band is None:
        raise ClaimError(f"{identifier} is marked as not testable: {claim.reason}")
    if any(number is not None and math.isnan(number) for number in numbers.values()):
        raise ClaimError(f"{identifier}: a measured number is NaN.")
    if numbers["repair"] is not None and not claim.right:
        raise ClaimError(f"{identifier}: a corrected statement was measured, but the list has none.")
    for name, declared in (("probe", claim.probe), ("constant", claim.constant)):
        if bool(declared) != (numbers[name] is not None):
            raise ClaimError(f"{identifier}: the list and the call disagree on whether there is a {name}.")
    if (claim.scope == "proved") != (proof is not None):
        raise ClaimError(f"{identifier}: the list and the call disagree on whether there is a proof.")
    word, note = _judge(claim, **{name: numbers[name] for name in ("value", "probe", "repair")})
    read, box = {name: claim.rounded(number) for name, number in numbers.items()}, ""
    if proof is not None and word in (HOLDS, CONSTANT):
        goes_through, box = proof
        if not goes_through:
            word, note, box = RANGE, f"The proof did not go through: {box}.", ""
    return Verdict(claim, word, **read, over=over, proof=box, note=note)


_NOTHING = "in this setting the check shows nothing."


def _judge(claim: Claim, value: float, probe: float | None, repair: float | None) -> tuple[str, str]:
    if probe is not None and claim.contains(probe):
        return UNTESTABLE, f"The counter-probe lies in the band too, so {_NOTHING}"
    if not claim.contains(value):
        if repair is None:
            return FAILS, "No corrected statement was measured: this setting may lie outside the statement's range."
        return FAILS, "" if claim.contains(repair) else "The corrected statement misses the band as well."
    if probe is None and repair is not None and claim.contains(repair):
        return UNTESTABLE, "In this setting the printed and the corrected statement cannot be told apart."
    if probe is None:
        return UNTESTABLE, f"Nothing lay outside the band, so {_NOTHING}"
    return CONSTANT if claim.constant else RANGE if claim.scope == "sampled" else HOLDS, ""


def not_testable(identifier: str) -> Verdict:
    """Record that a claim is not testable here, with the reason its list gives."""
    claim = find(identifier)
    if not claim.reason:
        raise ClaimError(f"{identifier} gives no reason why it could not be tested.")
    return Verdict(claim, UNTESTABLE)
