"""The frozen lists: what is claimed, of which statement of a source, and in which band the measured value must lie.

``data/claims/<source>.yml`` has the claims, ``data/items/<source>.yml`` every statement of a source in its order,
``book/errata`` the few lines of code that show an erratum without this package.  Lists are checked when they are read.

Not here: verdicts (``claims``).
"""

from __future__ import annotations

import functools
import graphlib
import math
from dataclasses import dataclass

import yaml

import lorabook

KINDS = ("theorem", "equation", "figure", "table", "remark", "beyond")
SCOPES = ("exact", "sampled", "proved")
GRADES = ("slip", "constant or hypothesis missing", "overstated words", "false")
LISTS = lorabook.DATA / "claims"
HEAD = ("title", "version", "read", "claims")  # what every list has
BESIDE = {"withdrawn": {"id", "date", "now", "why"}, "replies": {"id", "date", "by", "text"}}  # what it may have


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
    reason: str = ""  # why it cannot be tested here; beside a band, why it is not tested yet
    rests_on: tuple[str, ...] = ()  # ids of the claims that its proof, here or in the source, uses
    border: str = ""  # an expression in its notebook's parameters that is 0 where the claim is predicted to change
    map: str = ""  # the map of the region in which it holds: maps.<map> is a claim about that region's border
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


@functools.cache
def load(source: str) -> dict[str, Claim]:
    """The claim list of one source, by id.

    Raises:
        ClaimError: no such list, one that cannot be read, an entry that is incomplete, doubled or malformed, one that
            rests on a claim that no list has, or claims that rest on each other in a circle.
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
    _grounded(entries)
    return entries


def _grounded(entries: dict[str, Claim]) -> None:
    """Refuse a ground that no list has, and claims that rest on each other in a circle."""
    graph, known, ahead = {}, {}, [(name, name) for name in entries]
    while ahead:
        name, above = ahead.pop()
        source = name.partition(".")[0]
        if source not in known:
            listed = _read(source)["claims"] if (LISTS / f"{source}.yml").exists() else []
            known[source] = {f"{source}.{raw.get('id')}": raw.get("rests_on", []) for raw in listed}
        if name not in known[source]:
            raise ClaimError(f"The claim {above} rests on {name}, which no claim list has.")
        if name not in graph:
            graph[name] = known[source][name]
            ahead += [(ground, name) for ground in graph[name]]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise ClaimError(f"Claims in a circle: {' rests on '.join(reversed(error.args[1]))}.") from None


@functools.cache
def _read(source: str) -> dict:
    try:
        head = yaml.safe_load((LISTS / f"{source}.yml").read_text(encoding="utf-8"))
        missing = [key for key in HEAD if not (isinstance(head, dict) and head.get(key))]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        if not isinstance(head["claims"], list) or not all(isinstance(raw, dict) for raw in head["claims"]):
            raise ValueError("its claims are no list of entries `name: value`")
        for kind, keys in BESIDE.items():
            for raw in head.get(kind, []):
                if not isinstance(raw, dict) or set(raw) != keys:
                    name = raw.get("id") if isinstance(raw, dict) else raw
                    raise ValueError(f"an entry under {kind} has {', '.join(sorted(keys))} and no more; {name} has not")
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


def short(source: str) -> str:
    """What the book calls the source, without the subject."""
    return title(source).partition(":")[0]


def version(source: str) -> str:
    """Which version of the source was read, and when: one sentence."""
    head = _read(source)
    return f"{' '.join(head['version'].split())} Read on {head['read']}."


def withdrawn(source: str) -> list[dict]:
    """What this book once called an error of the source and no longer does: ``id``, ``date``, ``now`` and ``why``."""
    return _read(source).get("withdrawn", [])


def replies(source: str) -> list[dict]:
    """What authors answered, whole: ``id`` of the claim, ``date``, ``by`` and ``text``."""
    return _read(source).get("replies", [])


def items(source: str) -> list[dict]:
    """The statements of a source in its order, each with ``claims`` or the ``reason`` for none; [] without a list."""
    path = lorabook.DATA / "items" / f"{source}.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else []


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
    shown, grounds = raw.pop("witness", None), raw.pop("rests_on", [])
    try:
        if not isinstance(grounds, list) or not all(isinstance(ground, str) for ground in grounds):
            raise ValueError("rests_on is no list of claims")
        low, high = (0.0, 0.0) if band is None else map(float, band)
        if not low <= high:
            raise ValueError(f"the band [{low:g}, {high:g}] holds no number")
        interval = None if band is None else (low, high)
        claim = Claim(
            id=name,
            rests_on=tuple(grounds),
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
    if not known or not graded or not (claim.reason and claim.band is None or tested):
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
