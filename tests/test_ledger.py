"""The ledger: verdicts as the notebooks recorded them, none twice, none lost, in tables that stay tables."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

import lorabook
from lorabook.page import claims, ledger, letters, lists
from lorabook.page.lists import ClaimError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
BASE = {
    "where": "eq. (1)",
    "kind": "equation",
    "measured": "a distance",
    "band": [0, 1],
    "band_reason": "a bound",
    "probe": "another start",
}
LIST = [
    BASE | {"id": "first", "statement": "The norm $|x| \\le \\|y\\|$."},
    BASE | {"id": "second", "statement": "s", "scope": "exact", "hypotheses": "small starts"},
    {
        **BASE,
        "id": "wrong",
        "statement": "w",
        "quote": "$|a| = b$",
        "right": "$a = b$",
        "reading": "As it stands.",
        "grade": "slip",
        "witness": {"printed": 2, "right": 1},
        "ruled_out": "rounding",
        "consequence": "the theorem stands",
    },
    {"id": "history", "where": "section 1", "kind": "remark", "statement": "h", "reason": "A matter of history."},
]


@pytest.fixture
def demo(monkeypatch, tmp_path):
    (tmp_path / "lists").mkdir()
    for name, entries in (("demo", LIST), ("empty", [LIST[3] | {"id": "none"}])):
        text = {
            "source": name,
            "title": f"{name.title()}: a paper",
            "version": "v1,\nfirst print.",
            "read": "2026-01-01",
            "claims": entries,
        }
        (tmp_path / "lists" / f"{name}.yml").write_text(yaml.safe_dump(text))
    monkeypatch.setattr(lists, "LISTS", tmp_path / "lists")
    lists.load.cache_clear(), lists._read.cache_clear()
    yield tmp_path
    lists.load.cache_clear(), lists._read.cache_clear()


def page(folder, name, *verdicts):
    """An executed notebook whose cells show these verdicts, beside other output."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("text"),
        nbformat.v4.new_code_cell("1 + 1", outputs=[nbformat.v4.new_output("stream", text="2")]),
    ]
    for verdict in verdicts:
        data, metadata = verdict._repr_mimebundle_()
        output = nbformat.v4.new_output("execute_result", data=data, metadata=metadata, execution_count=1)
        notebook.cells.append(nbformat.v4.new_code_cell("claims.check(...)", outputs=[output]))
    nbformat.write(notebook, folder / f"{name}.ipynb")


def verdicts():
    return [
        claims.check("demo.first", value=0.25, probe=2.0, over="n = 3"),
        claims.check("demo.second", value=0.5, probe=2.0),
        claims.check("demo.wrong", value=3.0, probe=2.0, repair=0.5),
        claims.not_testable("demo.history"),
    ]


@pytest.fixture
def collected(demo):
    first, second, wrong, history = verdicts()
    page(demo, "b_page", first)
    page(demo, "a_page", second, wrong, history)
    page(demo, "c_empty")
    return ledger.collect(demo)


def test_what_was_recorded_is_what_is_collected(collected):
    first, second, wrong, history = verdicts()
    assert collected == [("a_page", second), ("a_page", wrong), ("a_page", history), ("b_page", first)]


def test_beside_the_package_a_notebook_without_its_text_is_not_collected(demo, monkeypatch):
    monkeypatch.setattr(lorabook, "__file__", str(demo / "lorabook/__init__.py"))
    (demo / "notebooks").mkdir()
    for name in ("a_page", "out", ".~a_page"):
        page(demo / "notebooks", name, verdicts()[0])
    (demo / "notebooks/a_page.md").touch()
    assert ledger.collect() == ledger.collect(demo / "notebooks") == [("a_page", verdicts()[0])]


def test_a_claim_that_two_notebooks_check_raises(demo):
    page(demo, "a_page", verdicts()[0])
    page(demo, "b_page", verdicts()[0])
    with pytest.raises(ClaimError, match=r"^demo\.first is checked in a_page and again in b_page\.$"):
        ledger.collect(demo)


def test_a_claim_that_one_notebook_checks_twice_raises(demo):
    page(demo, "a_page", verdicts()[0], verdicts()[0])
    with pytest.raises(ClaimError, match="checked in a_page and again in a_page"):
        ledger.collect(demo)


def test_a_recorded_claim_that_no_list_has_raises(demo):
    page(demo, "a_page", verdicts()[0])
    text = (demo / "a_page.ipynb").read_text()
    (demo / "a_page.ipynb").write_text(text.replace("demo.first", "demo.ghost"))
    with pytest.raises(ClaimError, match=r"No claim list has the claim 'demo\.ghost'"):
        ledger.collect(demo)


def test_a_claim_that_no_notebook_checks_is_named(collected):
    assert ledger.unchecked(collected) == ["empty.none"]
    assert ledger.unchecked(collected[1:]) == ["demo.second", "empty.none"]


def columns(markdown):
    """Cells of each row of a Markdown table."""
    return [re.split(r"(?<!\\)\|", row)[1:-1] for row in markdown.splitlines()]


def test_counts_add_up(collected):
    table = ledger.counts(collected)
    assert table.header == ("source", *claims.VERDICTS, "claims", "ours beside them that hold")
    assert table.rows == (
        ("Demo: a paper", "1", "0", "1", "1", "1", "4", "0 of 0"),
        ("Empty: a paper", "0", "0", "0", "0", "0", "0", "0 of 0"),
        ("all", "1", "0", "1", "1", "1", "4", "0 of 0"),
    )
    own, failed = (
        claims.Verdict(dataclasses.replace(collected[0][1].claim, id=f"demo.{word}", kind="beyond"), word, value="1")
        for word in (claims.RANGE, claims.FAILS)
    )
    assert ledger.counts([*collected, ("page", own), ("page", failed)]).rows[0] == (
        "Demo: a paper",
        "1",
        "0",
        "1",
        "1",
        "1",
        "4",
        "1 of 2",
    )


def test_only_a_source_has_errata(collected):
    wrong = next(verdict for _, verdict in collected if verdict.verdict == claims.FAILS)
    ours = dataclasses.replace(wrong, claim=dataclasses.replace(wrong.claim, kind="beyond"))
    drawn = [str(ledger.table([("page", one)]).rows) for one in (wrong, ours)]
    assert [f"(#erratum-{wrong.claim.id.replace('.', '-')})" in text for text in drawn] == [True, False]


def test_errata_are_counted_by_grade_beside_what_is_no_longer_called_one(collected, monkeypatch):
    wrong = next(verdict for _, verdict in collected if verdict.verdict == claims.FAILS)
    graded = dataclasses.replace(wrong, claim=dataclasses.replace(wrong.claim, grade="slip"))
    gone = [{"id": "demo.old", "date": "2026-01-02", "now": "withdrawn", "why": "It was right."}]
    monkeypatch.setattr(lists, "withdrawn", lambda source: gone if source == "demo" else [])
    table = ledger.grades([("page", graded)])
    assert table.header == ("source", *lists.GRADES, "errata", "no longer called one")
    assert table.rows == (("Demo", "1", "0", "0", "0", "1", "1"),)
    own = dataclasses.replace(graded, claim=dataclasses.replace(graded.claim, kind="beyond"))
    assert ledger.grades([("page", own)]).rows == (("Demo", "0", "0", "0", "0", "0", "1"),)


def test_the_table_links_each_claim_to_its_anchor_each_failure_to_its_erratum_and_keeps_its_columns(collected):
    table = ledger.table(collected)
    rows = columns(table._repr_mimebundle_()[ledger.SITE])
    assert {len(row) for row in rows} == {7} and len(rows) == 2 + 4
    first, second, wrong = rows[2], rows[3], rows[4]
    assert first[0].strip() == "[[first](#claim-demo-first)]{#row-demo-first}"
    assert [cell.strip() for cell in first[1:4]] == ["Demo", "equation", "✓ holds in the range tested"] and first[
        6
    ].strip() == "0.25"
    assert wrong[3].strip() == "[✗ fails as printed](#erratum-demo-wrong)"
    assert second[4].strip() == "s *Hypotheses:* Small starts."
    # a pipe is escaped, inside mathematics too, where the parser takes the escape away again
    assert first[4].strip() == r"The norm $\|x\| \le \\|y\\|$."


def names(table):
    return [re.search(r"#claim-(\S+?)\)", row[0])[1] for row in table.rows]


def test_the_table_goes_source_by_source_and_in_each_by_its_list_whatever_notebook_came_first(collected):
    other = ("b_page", claims.not_testable("empty.none"))
    assert collected[0][1].claim.id != "demo.first"
    assert names(ledger.table([other, *collected])) == [f"demo-{entry['id']}" for entry in LIST] + ["empty-none"]


def test_the_ledger_has_the_order_of_the_book_and_forgets_no_source(root):
    assert sorted(ledger.CHAPTERS) == lists.sources()
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    pages = " ".join(chapter["file"] for part in contents["parts"] for chapter in part["chapters"])
    places = [pages.index(f"notebooks/{source}") for source in ledger.CHAPTERS]
    assert places == sorted(places)
    wanted = [name.replace(".", "-") for source in ledger.CHAPTERS for name in lists.load(source)]
    assert names(ledger.table(ledger.collect(NOTEBOOKS))) == wanted


def test_a_source_is_not_mistaken_for_another_of_a_longer_name(collected):
    assert ledger.Errata(collected, "dem").entries == []


def test_errata_say_what_is_printed_what_is_right_the_numbers_what_was_ruled_out_and_what_follows(collected):
    errata = ledger.Errata(collected, "demo")
    assert [verdict.claim.id for verdict in errata.entries] == ["demo.wrong"]
    text = errata._repr_mimebundle_()[ledger.SITE]
    for part in (
        "**Version read.** v1, first print. Read on 2026-01-01.",
        "1 statement fails as printed.",
        "[**1. Location.**]{#erratum-demo-wrong} Eq. (1)",
        "**Printed.** “$|a| = b$”",
        "**Right.** $a = b$.",
        "**Evidence.** A distance",
        "A distance: 3, wanted at most 1.",
        "Corrected statement: 0.5.",
        "[The run](#claim-demo-wrong), [its row in the ledger](#row-demo-wrong).",
        "**Ruled out.** Rounding.",
        "**Consequence.** The theorem stands.",
    ):
        assert part in text, part
    none = ledger.Errata(collected, "empty")._repr_mimebundle_()[ledger.SITE]
    assert "No statement fails as printed." in none


def test_a_reply_of_the_authors_stands_whole_in_the_entry_that_it_answers(collected, monkeypatch):
    said = lambda shown: shown._repr_mimebundle_()[ledger.SITE]
    assert said(ledger.Replies()) == "No author has replied yet."
    reply = {"id": "demo.wrong", "date": "2026-02-03", "by": "A. Author", "text": "We meant\n  the other one."}
    monkeypatch.setattr(lists, "replies", lambda source: [reply] if source == "demo" else [])
    text = said(ledger.Errata(collected, "demo"))
    assert "**The authors reply.** “We meant the other one.” (A. Author, 2026-02-03)" in text
    assert text.index("**Consequence.**") < text.index("**The authors reply.**")
    assert said(ledger.Replies()) == "Replies: [demo.wrong](#erratum-demo-wrong) (A. Author, 2026-02-03)."


def test_what_is_no_quote_is_not_called_printed():
    claim = dataclasses.replace(lists.find("lora_one.first-step"), quote="")
    verdict = claims.Verdict(claim, claims.FAILS, value="1")
    text = ledger.Errata([("page", verdict)], claim.id.split(".")[0])._repr_mimebundle_()[ledger.SITE]
    assert "**Read as.** " + claim.statement in text and "**Printed.**" not in text


@pytest.mark.parametrize("source", ["lora_one", "mallada", "rushka"])
def test_every_erratum_says_whether_the_conclusion_stands(source):
    found = ledger.Errata(ledger.collect(NOTEBOOKS), source).entries
    assert found and all(verdict.claim.consequence for verdict in found)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("slides, title", "Slides, title"),
        ("a start", "A start"),
        ("r >= r*", "r >= r*"),
        ("b = 128, mu", "b = 128, mu"),
        ("s1 times the time", "s1 times the time"),
        ("delta_w = s2 / s1", "delta_w = s2 / s1"),
        ("alpha falls", "alpha falls"),
        ("p-value", "P-value"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_formula_keeps_its_letter(text, shown):
    assert letters.capital(text) == shown


def test_every_verdict_has_a_mark_and_a_class():
    assert set(ledger.MARKS) == set(claims.VERDICTS) and len(set(claims.VERDICTS.values())) == 5


def test_the_reference_outputs_hold_a_verdict_on_every_claim():
    found = ledger.collect(NOTEBOOKS)
    assert ledger.unchecked(found) == [] and all(verdict.verdict in claims.VERDICTS for _, verdict in found)


def test_no_published_verdict_lacks_a_witness_or_a_correction():
    assert ledger.loose_ends(ledger.collect(NOTEBOOKS)) == []


def test_a_failure_without_its_correction_is_a_loose_end():
    claim = lists.find("rushka.gradients")
    assert claim.probe
    verdict = claims.check(claim.id, value=claim.band[1] + 1, probe=claim.band[1] + 2)
    assert len(ledger.loose_ends([("page", verdict)])) == 1


def test_the_table_of_the_reference_outputs_keeps_its_columns():
    rows = columns(ledger.table(ledger.collect(NOTEBOOKS))._repr_mimebundle_()[ledger.SITE])
    assert {len(row) for row in rows} == {7}
    for row in rows:
        # a TeX command outside dollars would be read as it stands
        assert not any(re.search(r"\\[a-zA-Z]", "".join(cell.split("$")[::2])) for cell in row)


@pytest.mark.parametrize("name, at_the_root", [("ledger", True), ("errata", False)])
def test_the_pages_that_collect_run_from_every_folder(name, at_the_root, root, tmp_path):
    command = [sys.executable, "-m", "papermill", root / f"notebooks/{name}.ipynb", tmp_path / "out.ipynb"]
    surroundings = os.environ | {"PYTHONPATH": str(root)}
    folder = root if at_the_root else tmp_path
    run = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ClaimError, match="There is no folder .*gone: clone the repository"):
        ledger.collect(tmp_path / "gone")


def test_outside_the_site_a_notebook_shows_the_same_words_without_anchors_and_links(collected):
    for made in (ledger.table(collected), ledger.coverage("demo"), ledger.Errata(collected, "demo"), ledger.Replies()):
        bundle = made._repr_mimebundle_()
        plain = bundle["text/markdown"]
        assert not re.search(r"\]\{#|\]\(#|\{dropdown\}", plain) and bundle["text/plain"] == plain
        bare = lambda text: re.sub(r"\]\{#[^}]*\}|\]\(#[^)]*\)|\{dropdown\}|`{4}|[\[\]*\s]", "", text)
        assert bare(plain) == bare(bundle[ledger.SITE]) and len(bare(plain)) > 20
    assert ledger.shown("[[a](#claim-a)]{#row-a} and [out](https://example.org)")["text/plain"] == (
        "a and [out](https://example.org)"
    )


def test_a_sentence_has_one_full_stop_wherever_that_stands():
    assert letters.sentence("small starts") == "Small starts."
    for whole in ("It is right. (This is beside it.)", "Is it right?", "$r$ is 2."):
        assert letters.sentence(whole) == whole
    assert letters.sentence("a start (see below)") == "A start (see below)."
    for _, verdict in ledger.collect(NOTEBOOKS):
        assert not re.search(r"[.!?]\)?\.(?!\w)", letters.sentence(verdict.claim.statement).replace("...", ""))
