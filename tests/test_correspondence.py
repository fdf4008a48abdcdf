"""A letter to authors holds all that the book says of their work; claims for programs hold all that a card says."""

import json
import re

import pytest

from lorabook.page import claims, correspondence, ledger, lists
from lorabook.page.letters import sentence

SOURCES = ("mallada", "lora_one", "rushka", "kim")
ISSUES = "https://example.org/book/issues/new"


@pytest.fixture(scope="module")
def collected(root):
    return [verdict for _, verdict in ledger.collect(root / "notebooks")]


def theirs(collected, source):
    return [v for v in collected if v.claim.id.startswith(f"{source}.") and ledger.printed(v)]


@pytest.mark.parametrize("source", SOURCES)
def test_a_letter_tells_each_failure_with_its_witness_each_reading_and_all_that_stands(collected, source):
    verdicts = theirs(collected, source)
    text = correspondence.letter(source, verdicts, ISSUES)
    words = lambda said: re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", said[1:])
    failing, doubt, stands = (
        text[text.index(f"## {head}") :].partition("\n## ")[0]
        for head in ("What does not hold as printed", "What we may have misread", "What stands")
    )
    assert lists.version(source) in text and ISSUES in text
    for verdict in verdicts:
        claim = verdict.claim
        if verdict.verdict == claims.FAILS:
            for part in (
                f"(`{claim.id}`)",
                sentence(claim.grade),
                *claim.witness,
                words(claim.right),
                words(claim.consequence),
            ):
                assert part in failing, claim.id
            assert lists.witness_code(claim.id).strip() in failing
        elif verdict.verdict != claims.UNTESTABLE:
            assert f"- {claim.where}: " in stands and words(claim.statement).rstrip(".") in stands, claim.id
        assert not claim.reading or words(claim.reading) in doubt, claim.id
    for gone in lists.withdrawn(source):
        assert gone["id"] in text


def test_a_letter_says_nothing_of_what_is_our_own(collected):
    text = correspondence.letter("rushka", theirs(collected, "rushka"))
    ours = [v.claim for v in collected if v.claim.id.startswith("rushka.") and not ledger.printed(v)]
    assert ours and not any(claim.statement in text for claim in ours)


@pytest.mark.parametrize("source", SOURCES)
def test_a_letter_has_no_link_into_the_book(collected, source):
    told = theirs(collected, source)
    assert source != "mallada" or any("](#claim-" in verdict.claim.statement for verdict in told), "some would have one"
    assert "](#" not in correspondence.letter(source, told)


def test_a_letter_counts_what_it_lists(collected):
    verdicts = theirs(collected, "kim")
    failing = sum(v.verdict == claims.FAILS for v in verdicts)
    untested = sum(v.verdict == claims.UNTESTABLE for v in verdicts)
    text = correspondence.letter("kim", verdicts)
    said = f"Of {len(verdicts)} statements {len(verdicts) - failing - untested} stand, {failing} "
    assert said in text and f"and {untested} could not be tested" in text
    assert text.count("### ") == failing


def test_a_claim_for_programs_says_whose_it_is_and_keeps_its_numbers(collected):
    for verdict in collected:
        told = json.loads(json.dumps(correspondence.entry(verdict, "notebooks/x.html#claim-y")))
        assert verdict.record().items() <= told.items()
        assert told["statement"] == verdict.claim.statement and told["page"] == "notebooks/x.html#claim-y"
        assert ("holds instead" in told) == (verdict.verdict == claims.FAILS and bool(verdict.claim.right))
        assert told["whose"].startswith("Claimed by") == ledger.printed(verdict) and all(told.values())
