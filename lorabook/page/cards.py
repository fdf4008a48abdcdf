"""Cards: what the page shows of a verdict, as MyST.

First the claim, in words; then whose it is and what the run says; where it fails, the statement that holds instead and
how grave the failure is.  Numbers, counter-probe and range are folded below, one click away, and a link opens an issue
in which the verdict can be disputed.  A notebook holds the record of a verdict alone: the card is drawn from it and
from the claim list when the book is built, so that a word can change without a new run.  Claims between which the
text says nothing share one table (:func:`together`).
"""

from __future__ import annotations

import html
import re
from urllib.parse import quote

import lorabook
from lorabook.page import lists
from lorabook.page.claims import FAILS, UNTESTABLE, VERDICTS, Verdict
from lorabook.page.letters import UNTOUCHED, sentence, typeset
from lorabook.page.lists import Claim

SIGNS = {FAILS: "✗", UNTESTABLE: "–"}
FOLDED = "Numbers, counter-probe and range"
SHARED = "Numbers, counter-probes and ranges"
DISPUTE = "Dispute this verdict"
PLACED = re.compile(r"(beside|beyond|after)\b")


def card(verdict: Verdict, issues: str = "", run: str = "") -> str:
    """The verdict as MyST.

    Args:
        issues: address of the page on which an issue is opened; empty leaves the link out.
        run: the notebook and what it ran on.
    """
    claim = verdict.claim
    word = _word(verdict)
    parts = [
        f"````{{div}} lb-says\n{typeset(sentence(claim.statement))}\n````",
        f"[{word}]{{.lb-badge}} [{typeset(whose(claim))}]{{.lb-where}} {_links(claim)}",
    ]
    if verdict.verdict == FAILS and claim.right:
        grave = f" ({claim.grade})" if claim.grade else ""
        parts.append(f"**What holds instead{grave}.** {typeset(sentence(claim.right))}")
        if claim.consequence:
            parts.append(f"**What follows.** {typeset(sentence(claim.consequence))}")
    if claim.reason and not verdict.value:
        parts.append(f"**Why not.** {typeset(sentence(claim.reason))}")
    if verdict.note:
        parts.append(f"**What is missing.** {typeset(verdict.note)}")
    if not claim.reason or verdict.value:
        lines = "\n".join(f"- {line}" for line in folded(verdict))
        parts.append(f"````{{dropdown}} {FOLDED}\n:class-container: lb-numbers\n\n{lines}\n````")
    if issues:
        parts.append(_disputed(verdict, issues, run, DISPUTE))
    return f"`````{{div}} lb-verdict lb-{VERDICTS[verdict.verdict]}\n\n" + "\n\n".join(parts) + "\n`````\n"


def together(verdicts: list[Verdict], issues: str = "", run: str = "") -> str:
    """Several verdicts, none of them a failure, as the rows of one table; their numbers are folded below it.

    Args:
        verdicts: in the order of the page.
        issues, run: as for :func:`card`.
    """
    rows, numbers = ["| claim | verdict | |", "|:--|:--|:--|"], []
    for verdict in verdicts:
        claim = verdict.claim
        said = [typeset(sentence(claim.statement))]
        said += [f"**Why not.** {typeset(sentence(claim.reason))}"] if claim.reason else []
        said += [f"**What is missing.** {typeset(verdict.note)}"] if verdict.note else []
        cells = [
            " ".join([*said, f"[{typeset(whose(claim))}]{{.lb-where}}"]),
            f"[{_word(verdict)}]{{.lb-badge .lb-{VERDICTS[verdict.verdict]}}}",
            _links(claim) + (f" {_disputed(verdict, issues, run, 'Dispute')}" if issues else ""),
        ]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        if not claim.reason:
            numbers.append(f"- `{claim.id}`\n" + "\n".join(f"  - {line}" for line in folded(verdict)))
    parts = ["\n".join(rows)]
    if numbers:
        lines = "\n".join(numbers)
        parts.append(f"````{{dropdown}} {SHARED}\n:class-container: lb-numbers\n\n{lines}\n````")
    return "`````{div} lb-verdict lb-together\n\n" + "\n\n".join(parts) + "\n`````\n"


def table(text: str) -> str:
    """A notebook's table as MyST, its plain formulas set."""
    return typeset(text.replace(r"\|\|", "||"))


def _links(claim: Claim) -> str:
    """The name of a claim, which leads to its row in the ledger, and its map where it has one."""
    links = f"[[{claim.id}](#row-{claim.id.replace('.', '-')})]{{.lb-claim}}"
    return links + (f" [[where it holds](#claim-maps-{claim.map})]{{.lb-claim}}" if claim.map else "")


def _word(verdict: Verdict) -> str:
    """The verdict with its sign."""
    return f"{SIGNS.get(verdict.verdict, '✓')} {verdict.verdict}" + ", proved" * bool(verdict.proof)


def _disputed(verdict: Verdict, issues: str, run: str, words: str) -> str:
    """The link that opens an issue, as HTML, since a link in Markdown has its ampersand escaped twice."""
    link = html.escape(dispute(verdict, issues, run))
    return f'<span class="lb-dispute"><a class="reference external" href="{link}">{words}</a></span>'


def whose(claim: Claim) -> str:
    """Who makes the claim: the source with the place, or this book."""
    if claim.kind != "beyond":
        return f"Claimed by {lists.short(claim.id.partition('.')[0])}: {claim.where}."
    place = re.sub(r"^ours(, |$)", "", claim.where)
    if not place:
        return "This book's own claim."
    return f"This book's own claim{', ' if PLACED.match(place) else '; its place: '}{place}."


def folded(verdict: Verdict) -> list[str]:
    """Hypotheses, reading and numbers, each one item of a list."""
    claim = verdict.claim
    told = {"Hypotheses": claim.hypotheses, "Read as": claim.reading}
    lines = [f"**{name}.** {typeset(sentence(text))}" for name, text in told.items() if text]
    return lines + [_starless(typeset(line)) for line in verdict.lines() if line != verdict.note]


def dispute(verdict: Verdict, issues: str, run: str = "") -> str:
    """Address of an issue that is filled in: the claim, its statement, the run and the versions.  Nothing is sent."""
    claim = verdict.claim
    source = claim.id.partition(".")[0]
    body = [
        f"Claim: {claim.id} ({whose(claim)})",
        f"Statement: {claim.statement}",
        f"Verdict: {verdict.verdict}",
        f"Run: {verdict.sentence()}",
        f"Made by: {run + '; ' if run else ''}lorabook {lorabook.__version__}",
        f"Source read on {lists.version(source).rpartition('Read on ')[2]}",
        "What is wrong with this verdict, and why:",
        "",
    ]
    return f"{issues}?title={quote(f'Verdict on {claim.id}', safe='')}&body={quote(chr(10).join(body), safe='')}"


def _starless(text: str) -> str:
    """``r*`` stays ``r*`` in Markdown."""
    return "".join(part if k % 2 else part.replace("*", r"\*") for k, part in enumerate(UNTOUCHED.split(text)))
