"""The ledger: verdicts collected from executed notebooks, and the tables that show them.

The ledger and errata pages are notebooks themselves.  They read the notebooks beside them, so what
they say is what the last run found.  What they show has anchors and links that the site alone knows; another viewer of
the notebook gets the same words without them (:func:`shown`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import lorabook
from lorabook.page import claims, figures, lists
from lorabook.page.claims import Verdict
from lorabook.page.letters import capital, sentence, typeset
from lorabook.page.lists import Claim, ClaimError, short

MARKS = {
    claims.HOLDS: "✓ holds",
    claims.CONSTANT: "✓ holds with a constant",
    claims.RANGE: "✓ holds in the range tested",
    claims.FAILS: "✗ fails as printed",
    claims.UNTESTABLE: "– not testable here",
}
CHAPTERS = "mallada lora_one rushka kim one_dynamics maps real_fine_tune practice".split()  # in the order of the book
HOLDING = (claims.HOLDS, claims.CONSTANT, claims.RANGE)
SITE = "text/x-lorabook"  # the form of an output that the site takes in the place of plain Markdown
PLAIN = (  # an anchor, a link within the site, a fold
    (re.compile(r"\[((?:\[[^\[\]]*\]\([^()]*\)|[^\[\]])*)\]\{#[^{}]*\}"), r"\1"),
    (re.compile(r"\[([^\[\]]*)\]\(#[^()]*\)"), r"\1"),
    (re.compile(r"^````\{dropdown\} (.*)\n(.*?)\n````$", re.M | re.S), r"**\1**\n\n\2"),
)


def shown(text: str) -> dict:
    """An output for the site and, without what only the site knows, for every other viewer."""
    plain = text
    for pattern, new in PLAIN:
        plain = pattern.sub(new, plain)
    return {"text/plain": plain, "text/markdown": plain, SITE: text}


class Linked(figures.Table):
    """A table with anchors and links of the site."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return shown(super()._repr_mimebundle_()["text/markdown"])


def linked(header: list[str], rows: list[list]) -> Linked:
    """:func:`figures.table` with anchors and links of the site in its cells."""
    return Linked(**vars(figures.table(header, rows)))


def collect(folder: str | Path = "") -> list[tuple[str, Verdict]]:
    """Every verdict recorded in the executed notebooks of ``folder``, as (notebook name, verdict).

    Without a folder: in the notebooks of the book that lie beside the package, wherever the caller stands; one there
    without its text is none of them.
    Order: notebooks by name, verdicts as they stand on the page.

    Raises:
        ClaimError: there is no such folder, a notebook records a claim that no list has, or one claim twice.
    """
    beside = Path(lorabook.__file__).resolve().parent.parent / "notebooks"
    folder = Path(folder or beside)
    if not folder.is_dir():
        raise ClaimError(f"There is no folder {folder}: clone the repository, or name one with the parameter executed.")
    found, seen = [], {}
    for path in sorted(folder.glob("[!.]*.ipynb")):
        if folder.resolve() == beside and not path.with_suffix(".md").is_file():
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                record = dict(output.get("metadata", {}).get(claims.METADATA, {}))
                if not record:
                    continue
                claim = lists.find(record.pop("id"))
                if claim.id in seen:
                    raise ClaimError(f"{claim.id} is checked in {seen[claim.id]} and again in {path.stem}.")
                seen[claim.id] = path.stem
                found.append((path.stem, Verdict(claim, **record)))
    return found


def unchecked(verdicts: list[tuple[str, Verdict]]) -> list[str]:
    """Ids of the listed claims on which no notebook has a verdict."""
    recorded = {verdict.claim.id for _, verdict in verdicts}
    return [name for source in lists.sources() for name in lists.load(source) if name not in recorded]


def loose_ends(verdicts: list[tuple[str, Verdict]]) -> list[str]:
    """Verdicts that a published run may not have: no witness on one side, or a failure without its correction."""
    return [f"{verdict.claim.id}: {verdict.note}" for _, verdict in verdicts if verdict.note]


def counts(verdicts: list[tuple[str, Verdict]]) -> figures.Table:
    """How many claims of each source got which verdict, and how many of ours beside them hold."""
    rows: list[list] = []
    for source in in_order():
        found = [verdict for _, verdict in verdicts if verdict.claim.id.split(".", 1)[0] == source]
        of = Counter(verdict.verdict for verdict in found if printed(verdict))
        ours = [verdict.verdict in HOLDING for verdict in found if not printed(verdict)]
        rows.append([lists.title(source), *(of[word] for word in claims.VERDICTS), of.total(), sum(ours), len(ours)])
    if len(rows) > 1:
        rows.append(["all", *(sum(row[k] for row in rows) for k in range(1, len(rows[0])))])
    rows = [[*row[:-2], f"{row[-2]} of {row[-1]}"] for row in rows]
    return figures.table(["source", *claims.VERDICTS, "claims", "ours beside them that hold"], rows)


def printed(verdict: Verdict) -> bool:
    """Whether a source makes the claim; the others are this book's own."""
    return verdict.claim.kind != "beyond"


def table(verdicts: list[tuple[str, Verdict]]) -> Linked:
    """All verdicts in the order of the book: a name leads to its place, a source's failure to its erratum."""
    rows = []
    for source in in_order():
        for verdict in _of(source, verdicts):
            claim, mark = verdict.claim, MARKS[verdict.verdict] + (", proved" if verdict.proof else "")
            name = f"[[{claim.id.split('.', 1)[1]}](#{target(claim)})]{{#{target(claim, 'row')}}}"
            wrong = verdict.verdict == claims.FAILS and printed(verdict)
            word = f"[{mark}](#{target(claim, 'erratum')})" if wrong else mark
            needs = f" *Hypotheses:* {typeset(sentence(claim.hypotheses))}" if claim.hypotheses else ""
            region = f" [Where it holds.](#claim-maps-{claim.map})" if claim.map else ""
            said, where = typeset(claim.statement) + needs + region, typeset(capital(claim.where))
            rows.append([name, short(source), claim.kind, word, said, where, verdict.value])
    return linked(["claim", "source", "kind", "verdict", "statement", "where", "measured"], rows)


def coverage(source: str) -> Linked:
    """Every statement of a source with the claims that treat it, or with the reason why none does."""
    rows = []
    for item in lists.items(source):
        links = [f"[{name}](#{target(lists.find(f'{source}.{name}'))})" for name in item.get("claims", [])]
        rows.append([item["item"], ", ".join(links) or f"– {item['reason']}"])
    return linked(["in the source", "claims"], rows)


class Errata:
    """What fails as printed in one source: the version read, then for each entry its location, what is printed (where
    it can be quoted), how it was read, what is right, the evidence, what was ruled out, and the consequence."""

    def __init__(self, verdicts: list[tuple[str, Verdict]], source: str):
        self.source = source
        self.entries = [verdict for verdict in _of(source, verdicts) if verdict.verdict == claims.FAILS]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        count = len(self.entries)
        blocks = [
            f"**Version read.** {lists.version(self.source)}",
            f"{count or 'No'} statement{'s fail' if count > 1 else ' fails'} as printed.",
        ]
        for number, verdict in enumerate(self.entries, 1):
            claim = verdict.claim
            parts = {
                "Printed": claim.quote and f"“{claim.quote}”",
                "Grade": capital(claim.grade) and f"{capital(claim.grade)}.",
                "Read as": " ".join(
                    typeset(sentence(text)) for text in (claim.statement, claim.hypotheses, claim.reading) if text
                ),
                "Right": typeset(sentence(claim.right)),
                "Evidence": f"{typeset(verdict.sentence())} [The run](#{target(claim)}), [its row in the "
                f"ledger](#{target(claim, 'row')}).",
                "Ruled out": typeset(sentence(claim.ruled_out)),
                "Consequence": typeset(sentence(claim.consequence)),
                "The authors reply": _reply(claim),
            }
            lines = "\n".join(f"- **{name}.** {text}" for name, text in parts.items() if text)
            blocks.append(
                f"[**{number}. Location.**]{{#{target(claim, 'erratum')}}} {typeset(capital(claim.where))}\n\n{lines}"
            )
            code = lists.witness_code(claim.id)
            if code:
                blocks.append(f"````{{dropdown}} Check it without this book\n```python\n{code.strip()}\n```\n````")
        blocks += _withdrawn(self.source)
        return shown("\n\n".join(blocks))


class Replies:
    """How many authors have replied, with a link to the entry that each reply stands in."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        found = [
            f"[{reply['id']}](#{target(lists.find(reply['id']), 'erratum')}) ({reply['by']}, {reply['date']})"
            for source in in_order()
            for reply in lists.replies(source)
        ]
        return shown(f"Replies: {', '.join(found)}." if found else "No author has replied yet.")


def _reply(claim: Claim) -> str:
    """What the authors answered to one entry, whole, with its day."""
    found = [reply for reply in lists.replies(claim.id.partition(".")[0]) if reply["id"] == claim.id]
    return " ".join(f"“{' '.join(reply['text'].split())}” ({reply['by']}, {reply['date']})" for reply in found)


def grades(verdicts: list[tuple[str, Verdict]]) -> figures.Table:
    """How many errata of each source have which grade, and how many entries are no longer called one."""
    rows = []
    for source in in_order():
        found = Counter(v.claim.grade for v in _of(source, verdicts) if v.verdict == claims.FAILS and printed(v))
        gone = len(lists.withdrawn(source))
        if found or gone:
            rows.append([short(source), *(found[grade] for grade in lists.GRADES), found.total(), gone])
    return figures.table(["source", *lists.GRADES, "errata", "no longer called one"], rows)


def _withdrawn(source: str) -> list[str]:
    """What this book once called an error of the source, with the day and the reason."""
    lines = [
        f"- {entry['date']}, `{entry['id']}`: {entry['now']}. {' '.join(entry['why'].split())}"
        for entry in lists.withdrawn(source)
    ]
    return ["**No longer called an error.**\n\n" + "\n".join(lines)] if lines else []


def target(claim: Claim, kind: str = "claim") -> str:
    """Name of an anchor: where a notebook treats the claim, its ``row`` in the ledger or its ``erratum``."""
    return f"{kind}-{claim.id.replace('.', '-')}"


def in_order() -> list[str]:
    """The sources that have a claim list, in the order of the book."""
    place = {source: number for number, source in enumerate(CHAPTERS)}
    return sorted(lists.sources(), key=lambda source: (place.get(source, len(place)), source))


def _of(source: str, verdicts: list[tuple[str, Verdict]]) -> list[Verdict]:
    """The verdicts on one source, in the order of its claim list."""
    found = {verdict.claim.id: verdict for _, verdict in verdicts}
    return [found[name] for name in (lists.load(source) if source in lists.sources() else ()) if name in found]
