"""The ledger: verdicts collected from executed notebooks, and the tables that show them.

The ledger and errata pages are notebooks themselves.  They read the notebooks beside them, so what
they say is what the last run found.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from lorabook import claims, figures
from lorabook.claims import Claim, ClaimError, Verdict

MARKS = {
    claims.HOLDS: "✓ holds",
    claims.CONSTANT: "✓ holds with a constant",
    claims.RANGE: "✓ holds in the range tested",
    claims.FAILS: "✗ fails as printed",
    claims.UNTESTABLE: "– not testable here",
}


def collect(folder: str | Path = ".") -> list[tuple[str, Verdict]]:
    """Every verdict recorded in the executed notebooks of ``folder``, as (notebook name, verdict).

    Order: notebooks by name, verdicts as they stand on the page.

    Raises:
        ClaimError: a notebook records a claim that no list has, or one claim is recorded twice.
    """
    found, seen = [], {}
    for path in sorted(Path(folder).glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                record = dict(output.get("metadata", {}).get(claims.METADATA, {}))
                if not record:
                    continue
                claim = claims.find(record.pop("id"))
                if claim.id in seen:
                    raise ClaimError(f"{claim.id} is checked in {seen[claim.id]} and again in {path.stem}.")
                seen[claim.id] = path.stem
                found.append((path.stem, Verdict(claim, **record)))
    return found


def unchecked(verdicts: list[tuple[str, Verdict]]) -> list[str]:
    """Ids of the listed claims on which no notebook has a verdict."""
    recorded = {verdict.claim.id for _, verdict in verdicts}
    return [name for source in claims.sources() for name in claims.load(source) if name not in recorded]


def loose_ends(verdicts: list[tuple[str, Verdict]]) -> list[str]:
    """Verdicts that a published run may not have: no witness on one side, or a failure without its correction."""
    return [f"{verdict.claim.id}: {verdict.note}" for _, verdict in verdicts if verdict.note]


def counts(verdicts: list[tuple[str, Verdict]]) -> figures.Table:
    """How many claims of each source got which verdict."""
    tally = {source: Counter() for source in claims.sources()}
    for _, verdict in verdicts:
        tally[_source(verdict)][verdict.verdict] += 1
    rows = [[claims.title(source), *(of[word] for word in claims.VERDICTS), of.total()] for source, of in tally.items()]
    if len(rows) > 1:
        rows.append(["all", *(sum(row[k] for row in rows) for k in range(1, len(rows[0])))])
    return figures.table(["source", *claims.VERDICTS, "claims"], rows)


def table(verdicts: list[tuple[str, Verdict]]) -> figures.Table:
    """All verdicts, source by source: each name leads to its place in a notebook, each failure to its erratum."""
    rows = []
    for source in claims.sources():
        for verdict in (verdict for _, verdict in verdicts if _source(verdict) == source):
            claim, mark = verdict.claim, MARKS[verdict.verdict]
            name = f"[[{claim.id.split('.', 1)[1]}](#{target(claim)})]{{#{target(claim, 'row')}}}"
            word = f"[{mark}](#{target(claim, 'erratum')})" if verdict.verdict == claims.FAILS else mark
            needs = f" *Hypotheses:* {_sentence(claim.hypotheses)}" if claim.hypotheses else ""
            rows.append([name, short(source), claim.kind, word, claim.statement + needs, _capital(claim.where), verdict.value])
    return figures.table(["claim", "source", "kind", "verdict", "statement", "where", "measured"], rows)


class Errata:
    """What fails as printed in one source: place, printed (or, without a quote, how it was read), right, evidence, ruled out, consequence, version."""

    def __init__(self, verdicts: list[tuple[str, Verdict]], source: str):
        self.source = source
        self.entries = [v for _, v in verdicts if v.verdict == claims.FAILS and _source(v) == source]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        count = len(self.entries)
        blocks = [f"{count} statement{'s do' if count != 1 else ' does'} not hold as printed. {claims.version(self.source)}"]
        for number, verdict in enumerate(self.entries, 1):
            claim = verdict.claim
            parts = {
                "Printed" if claim.quote else "Read as": f"“{claim.quote}”" if claim.quote else f"{claim.statement} (our wording)",
                "Right": _sentence(claim.right),
                "Evidence": f"{verdict.sentence()} [The run](#{target(claim)}), [its row in the ledger](#{target(claim, 'row')}).",
                "Ruled out": _sentence(claim.ruled_out),
                "Consequence": _sentence(claim.consequence),
            }
            lines = "\n".join(f"- *{name}.* {text}" for name, text in parts.items() if text)
            blocks.append(f"[**{number}. {_capital(claim.where)}**]{{#{target(claim, 'erratum')}}}\n\n{lines}")
        text = "\n\n".join(blocks)
        return {"text/plain": text, "text/markdown": text}


def target(claim: Claim, kind: str = "claim") -> str:
    """Name of an anchor: where a notebook treats the claim, its ``row`` in the ledger or its ``erratum``."""
    return f"{kind}-{claim.id.replace('.', '-')}"


def short(source: str) -> str:
    """What the book calls the source, without the subject."""
    return claims.title(source).partition(":")[0]


def _source(verdict: Verdict) -> str:
    return verdict.claim.id.split(".", 1)[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + ("." if text and text[-1] not in ".!?" else "")
