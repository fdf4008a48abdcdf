"""A card says the claim in words, whose it is, the verdict and what holds instead; numbers are folded."""

import dataclasses
import html
import re
from urllib.parse import parse_qs, urlsplit

import nbformat
import pytest
from test_letters import RAW, without_tex

from lorabook.page import cards, claims, ledger, lists
from lorabook.page.letters import typeset

ISSUES = "https://example.org/book/issues/new"


@pytest.fixture(scope="module")
def verdicts(root):
    return [verdict for _, verdict in ledger.collect(root / "notebooks")]


def of(verdicts, word, kind=None):
    return next(v for v in verdicts if v.verdict == word and (kind is None or (v.claim.kind == "beyond") == kind))


def open_part(card):
    """What shows before a click."""
    return re.sub(r"````\{dropdown\}.*?\n````", "", card, flags=re.S)


def test_every_card_states_its_claim_then_whose_it_is_then_the_verdict(verdicts):
    for verdict in verdicts:
        card = cards.card(verdict)
        says, badge = card.index("{div} lb-says"), card.index("{.lb-badge}")
        assert says < badge < card.index("{.lb-where}") and verdict.verdict in card
        assert typeset(cards.whose(verdict.claim)) in card


def test_a_claim_of_a_source_is_called_the_sources_and_ours_is_called_ours(verdicts):
    for verdict in verdicts:
        said = cards.whose(verdict.claim)
        title = lists.short(verdict.claim.id.partition(".")[0])
        if verdict.claim.kind == "beyond":
            assert said.startswith("This book's own claim") and "Claimed by" not in said
        else:
            assert said.startswith(f"Claimed by {title}: ") and verdict.claim.where in said
    place = lambda where: cards.whose(dataclasses.replace(verdicts[0].claim, kind="beyond", where=where))
    assert place("ours") == "This book's own claim."
    assert place("ours, beside the theorem") == "This book's own claim, beside the theorem."
    assert place("beyond Theorem 2.7") == "This book's own claim, beyond Theorem 2.7."
    assert place("Table 2, on the network") == "This book's own claim; its place: Table 2, on the network."


def test_a_failure_says_before_any_click_what_holds_instead_and_how_grave_it_is(verdicts):
    failing = [v for v in verdicts if v.verdict == claims.FAILS and ledger.printed(v)]
    assert failing
    for verdict in failing:
        shown = open_part(cards.card(verdict))
        assert f"**What holds instead ({verdict.claim.grade}).**" in shown and "**What follows.**" in shown
    holds = open_part(cards.card(of(verdicts, claims.HOLDS)))
    assert "What holds instead" not in holds


def test_numbers_counter_probe_and_range_are_folded(verdicts):
    verdict = next(v for v in verdicts if v.verdict == claims.RANGE and v.probe and v.over)
    card = cards.card(verdict)
    shown = open_part(card)
    assert "wanted" in card and "Counter-probe" in card and "Range: " in card
    assert "wanted" not in shown and "Counter-probe (" not in shown and "Range: " not in shown


def test_what_could_not_be_tested_gives_its_reason_and_folds_nothing(verdicts):
    verdict = of(verdicts, claims.UNTESTABLE)
    card = cards.card(verdict)
    assert "**Why not.**" in card and "dropdown" not in card


def test_what_a_turned_knob_left_open_is_said_before_any_click(verdicts):
    verdict = dataclasses.replace(of(verdicts, claims.HOLDS), verdict=claims.UNTESTABLE, note="The probe lies in it.")
    assert "**What is missing.** The probe lies in it." in open_part(cards.card(verdict))


def test_disputing_a_verdict_opens_an_issue_that_is_filled_in(verdicts):
    for verdict in verdicts:
        address = cards.dispute(verdict, ISSUES, "notebooks/a, CPU, torch 9")
        assert address.startswith(f"{ISSUES}?") and not re.search(r"[\s()\"'<>]", address)
        assert len(address) < 8000, "a server refuses a longer address"
        asked = parse_qs(urlsplit(address).query)
        (title,), (body,) = asked["title"], asked["body"]
        claim = verdict.claim
        assert claim.id in title
        for part in (claim.id, claim.statement, verdict.verdict, verdict.sentence(), "notebooks/a, CPU, torch 9"):
            assert part in body, claim.id
        assert "lorabook 0" in body and "Source read on 20" in body


def test_without_an_address_there_is_no_link(verdicts):
    assert "Dispute" not in cards.card(verdicts[0]) and f">{cards.DISPUTE}</a>" in cards.card(verdicts[0], ISSUES)


def test_several_verdicts_share_a_table_and_lose_nothing(verdicts):
    several = [v for v in verdicts if v.verdict != claims.FAILS][::9]
    table = cards.together(several, ISSUES)
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(several) > 10
    for row, verdict in zip(rows, several):
        cells = re.split(r"(?<!\\)\|", row)[1:-1]
        whole = [cell.replace("\\|", "|") for cell in cells]
        assert len(cells) == 3 and typeset(verdict.claim.statement) in whole[0]
        assert typeset(cards.whose(verdict.claim)) in whole[0] and verdict.verdict in whole[1]
        assert verdict.claim.id in whole[2] and cards.dispute(verdict, ISSUES).replace("&", "&amp;") in whole[2]
        assert all(line in table for line in cards.folded(verdict) if not verdict.claim.reason)
        assert not verdict.claim.reason or "**Why not.**" in whole[0]
    assert "wanted" in table and "wanted" not in open_part(cards.together(several))


def test_a_star_of_a_letter_stays_a_star():
    assert cards._starless("r* and $r^*$ and `r*`") == r"r\* and $r^*$ and `r*`"


def test_a_table_of_a_notebook_keeps_its_cells_and_shows_no_raw_formula(root):
    assert cards.table(r"| \|\|F\|\| at \|c\| > 0 | delta_w |") == r"| ‖F‖ at \|c\| &gt; 0 | δ<sub>w</sub> |"
    seen = 0
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        outputs = [o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])]
        outputs = [o for o in outputs if ledger.SITE not in o.get("data", {})]
        for raw in (o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})):
            table = cards.table(raw)
            assert not RAW.search(without_tex(re.sub(r"<[^>]*>", "", table))), f"{path.stem}: {table}"
            assert [line.count("|") for line in table.splitlines()] == [line.count("|") for line in raw.splitlines()]
            seen += RAW.search(html.escape(without_tex(raw))) is not None
    assert seen > 10


def test_a_card_that_waits_for_runs_says_why_and_with_runs_its_numbers():
    name, found = "lora_one.table-time", type("Found", (), {"value": 1.5, "probe": 0.02, "over": "two tasks"})
    waiting, judged = (cards.card(claims.from_runs(name, one)) for one in (None, found))
    assert "**Why not.** Not run yet." in waiting and cards.FOLDED not in waiting
    assert "Not run yet" not in judged and cards.FOLDED in judged and "1.5" in judged and "two tasks" in judged
