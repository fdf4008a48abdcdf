"""Verdicts on claims, computed from a run.

A list (:mod:`lorabook.page.lists`) says what is claimed, what is measured, and in which band the measured value must
lie.  A notebook calls :func:`check` once per claim.  The verdict is computed, never typed,
and rests on a witness on each side of the band:

- the value lies inside and the counter-probe (the nearest false statement) outside: it *holds*, *holds with a
  constant* or *holds in the range tested*.  A claim of scope *proved* brings its proof along (:mod:`lorabook.exact`);
  it *holds* where the proof goes through;
- the value lies outside: it *fails as printed*, and the corrected statement, where there is one, must lie inside;
- the value lies inside and nothing outside: *not testable here*, since the check could not have failed;
- the runs are made elsewhere and are too few (:func:`from_runs`): *not testable here*, with the command for them.

A turned knob may leave a statement's range, so no verdict raises; the card says what happened.  The
reference outputs are held to more: there every failure has a corrected statement that was met, and
:func:`lorabook.page.ledger.loose_ends` finds what falls short of that.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field

from lorabook.page.letters import capital
from lorabook.page.lists import Claim, ClaimError, find

HOLDS = "holds"
CONSTANT = "holds with a constant"
RANGE = "holds in the range tested"
FAILS = "fails as printed"
UNTESTABLE = "not testable here"
VERDICTS = {HOLDS: "holds", CONSTANT: "constant", RANGE: "range", FAILS: "fails", UNTESTABLE: "untestable"}
METADATA = "lorabook"  # key of the record in the metadata of a notebook's output


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
    numbers: dict = field(default_factory=dict, compare=False)  # what was measured, not rounded

    def lines(self) -> list[str]:
        """The verdict in a few lines: what was measured, and on what it rests."""
        claim = self.claim
        if claim.reason and not self.value:
            return [claim.reason]
        parts = [f"Proved: {self.proof}."] if self.proof else []
        parts.append(f"{capital(claim.measured)}: {self.value}, wanted {claim.wanted()}.")
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
        known = {"id": self.claim.id} | {key: getattr(self, key) for key in keys if getattr(self, key)}
        if self.numbers:  # JSON has no infinity
            known["numbers"] = {name: one if math.isfinite(one) else str(one) for name, one in self.numbers.items()}
        return known

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
    measured = {name: number for name, number in numbers.items() if number is not None}
    return Verdict(claim, word, **read, over=over, proof=box, note=note, numbers=measured)


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


def from_runs(identifier: str, found) -> Verdict:
    """The verdict on a claim whose runs are made elsewhere: computed where there are enough of them, else the reason.

    Args:
        identifier: ``<source>.<name>``; its list has a reason and a band.
        found: ``value``, ``probe`` and ``over``, or None where there are too few runs.

    Raises:
        ClaimError: the list has no reason or no band, or as :func:`check`.
    """
    claim = find(identifier)
    if not claim.reason or claim.band is None:
        raise ClaimError(f"{identifier} does not wait for runs: its list needs a reason and a band.")
    return not_testable(identifier) if found is None else check(identifier, found.value, found.probe, over=found.over)
