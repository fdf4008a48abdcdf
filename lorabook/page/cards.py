"""Cards: what the page shows of a verdict, as MyST.

First the claim, in words; then whose it is and what the run says; where it fails, the statement that holds instead and
how grave the failure is.  Numbers, counter-probe and range are folded below, one click away, and a link opens an issue
in which the verdict can be disputed.  A notebook holds the record of a verdict alone: the card is drawn from it and
from the claim list when the book is built, so that a word can change without a new run.
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
DISPUTE = "Dispute this verdict"
PLACED = re.compile(r"(beside|beyond|after)\b")


def card(verdict: Verdict, issues: str = "", run: str = "") -> str:
    """The verdict as MyST.

    Args:
        issues: address of the page on which an issue is opened; empty leaves the link out.
        run: the notebook and what it ran on.
    """
    claim = verdict.claim
    word = f"{SIGNS.get(verdict.verdict, '✓')} {verdict.verdict}" + ", proved" * bool(verdict.proof)
    name = claim.id.replace(".", "-")
    links = f"[[{claim.id}](#row-{name})]{{.lb-claim}}"
    if claim.map:
        links += f" [[where it holds](#claim-maps-{claim.map})]{{.lb-claim}}"
    parts = [
        f"````{{div}} lb-says\n{typeset(sentence(claim.statement))}\n````",
        f"[{word}]{{.lb-badge}} [{typeset(whose(claim))}]{{.lb-where}} {links}",
    ]
    if verdict.verdict == FAILS and claim.right:
        grave = f" ({claim.grade})" if claim.grade else ""
        parts.append(f"**What holds instead{grave}.** {typeset(sentence(claim.right))}")
        if claim.consequence:
            parts.append(f"**What follows.** {typeset(sentence(claim.consequence))}")
    if claim.reason:
        parts.append(f"**Why not.** {typeset(sentence(claim.reason))}")
    if verdict.note:
        parts.append(f"**What is missing.** {typeset(verdict.note)}")
    if not claim.reason:
        lines = "\n".join(f"- {line}" for line in folded(verdict))
        parts.append(f"````{{dropdown}} {FOLDED}\n:class-container: lb-numbers\n\n{lines}\n````")
    if issues:
        # as HTML, since a link in Markdown has its ampersand escaped twice
        link = html.escape(dispute(verdict, issues, run))
        parts.append(f'<span class="lb-dispute"><a class="reference external" href="{link}">{DISPUTE}</a></span>')
    return f"`````{{div}} lb-verdict lb-{VERDICTS[verdict.verdict]}\n\n" + "\n\n".join(parts) + "\n`````\n"


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
