"""What leaves the book: a letter to the authors of each source before publication, and the claims for programs.

Both are made from the claim lists and the verdicts, and nothing here sends anything.
"""

from __future__ import annotations

import re

from lorabook.page import lists
from lorabook.page.cards import whose
from lorabook.page.claims import FAILS, UNTESTABLE, Verdict
from lorabook.page.letters import sentence


def entry(verdict: Verdict, address: str = "") -> dict:
    """One claim with its verdict, as a program reads it; ``address`` is its place in the site."""
    claim = verdict.claim
    told = {
        "id": claim.id,
        "source": lists.title(claim.id.partition(".")[0]),
        "where": claim.where,
        "kind": claim.kind,
        "whose": whose(claim),
        "statement": claim.statement,
        "rests on": list(claim.rests_on),
        "hypotheses": claim.hypotheses,
        "reading": claim.reading,
        "measured": claim.measured,
        "wanted": claim.wanted() if claim.band else "",
        **verdict.record(),
        "holds instead": claim.right if verdict.verdict == FAILS else "",
        "grade": claim.grade if verdict.verdict == FAILS else "",
        "consequence": claim.consequence if verdict.verdict == FAILS else "",
        "reason": claim.reason,
        "page": address,
    }
    return {name: value for name, value in told.items() if value}


def letter(source: str, verdicts: list[Verdict], issues: str = "") -> str:
    """What a maintainer can send to the authors of a source before the book is published, as Markdown.

    Args:
        source: name of the claim list.
        verdicts: those on claims that the source makes, in its order.
        issues: where a reply can be filed.
    """
    failing = [verdict for verdict in verdicts if verdict.verdict == FAILS]
    untested = [verdict for verdict in verdicts if verdict.verdict == UNTESTABLE]
    standing = [verdict for verdict in verdicts if verdict not in failing and verdict not in untested]
    doubtful = [verdict for verdict in verdicts if verdict.claim.reading]
    reply = f", or open an issue at {issues}" if issues else ""
    parts = [
        f"# To the authors of “{lists.title(source)}”",
        "Dear authors,",
        "we have read your work closely and written an executable companion to it: each statement is a numbered "
        "claim, a notebook runs it, and the verdict is computed from the run. Before it is published we would like "
        "you to see what it says about your work, and to tell us where we are wrong.",
        f"**What we read.** {lists.version(source)}",
        f"**In short.** Of {len(verdicts)} statements {len(standing)} stand, {len(failing)} "
        f"{'does' if len(failing) == 1 else 'do'} not hold as printed by our reading, and {len(untested)} could not be "
        "tested by us.",
        "## What does not hold as printed",
        *([_failure(k, verdict) for k, verdict in enumerate(failing, 1)] or ["Nothing."]),
        "## What we may have misread",
        "Where your words allow more than one reading, we took the one below. If you meant another, the verdict "
        "changes with it.",
        _listed(doubtful, lambda claim: claim.reading),
        "## What stands",
        _listed(standing, lambda claim: claim.statement),
        "## What we could not test",
        _listed(untested, lambda claim: claim.reason),
    ]
    gone = lists.withdrawn(source)
    if gone:
        lines = [f"- `{one['id']}`: {one['now']}. {' '.join(one['why'].split())}" for one in gone]
        parts += ["## What we had called an error and no longer do", "\n".join(lines)]
    parts += [
        "## How to answer",
        f"Answer this letter in any form{reply}. What you allow us to print stands whole beside the entry that it "
        "answers; where you convince us, the entry goes to the list of what is no longer called an error, with the "
        "day and the reason.",
        "The lorabook maintainers",
    ]
    # a letter is read away from the book: of a link into it the words are left
    return re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", "\n\n".join(parts)) + "\n"


def _listed(verdicts: list[Verdict], text) -> str:
    lines = [f"- {verdict.claim.where}: {sentence(text(verdict.claim))}" for verdict in verdicts]
    return "\n".join(lines) or "Nothing."


def _failure(number: int, verdict: Verdict) -> str:
    """One statement that fails: what is printed, how it was read, what holds instead, and the witness."""
    claim = verdict.claim
    shown = claim.witness and f"As printed {claim.witness[0]}; right {claim.witness[1]}."
    parts = {
        "Printed": claim.quote and f"“{claim.quote}”",
        "As we read it": " ".join(
            sentence(text) for text in (claim.statement, claim.hypotheses, claim.reading) if text
        ),
        "What holds instead": sentence(claim.right),
        "How grave": sentence(claim.grade),
        "Witness": shown,
        "What else we ruled out": sentence(claim.ruled_out),
        "What follows for your conclusion": sentence(claim.consequence),
    }
    lines = [
        f"### {number}. {claim.where} (`{claim.id}`)",
        *(f"- **{name}.** {text}" for name, text in parts.items() if text),
    ]
    code = lists.witness_code(claim.id)
    fold = f"\n\nIn a few lines, with nothing of ours:\n\n```python\n{code.strip()}\n```" if code else ""
    return lines[0] + "\n\n" + "\n".join(lines[1:]) + fold
