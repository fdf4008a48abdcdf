"""Each chapter ends with exercises that belong to claims, and each solution prints what its text shows."""

import contextlib
import io
import re
import traceback
from collections import Counter

import pytest
import yaml

from lorabook.page import lists
from tools import plain

NOT_CHAPTERS = ("explore", "maps", "ledger", "errata")
BLOCK = re.compile(r"^(:{3,})\{(exercise|solution)\}[ \t]*([^\n]*)\n(.*?)^\1[ \t]*$", re.M | re.S)
CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
LABEL = re.compile(r"^:label:[ \t]*(\S+)$", re.M)
CLAIM = re.compile(r"\[`([\w.-]+)`\]\(#claim-([\w-]+)\)")
ABLE = "**What you can do after this page.**"


def chapters():
    """Name and text of each chapter of the book, in its order."""
    contents = yaml.safe_load((plain.ROOT / "_toc.yml").read_text())
    pages = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    names = [page.removeprefix("notebooks/") for page in pages if page.startswith("notebooks/")]
    return {name: (plain.ROOT / f"notebooks/{name}.md").read_text() for name in names if name not in NOT_CHAPTERS}


def blocks(text, kind):
    return [(title, body) for _, found, title, body in BLOCK.findall(text) if found == kind]


CHAPTERS = chapters()
SOLUTIONS = {title: body for text in CHAPTERS.values() for title, body in blocks(text, "solution")}


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_says_what_one_can_do_after_it_and_ends_with_three_to_five_exercises(name):
    text = CHAPTERS[name]
    assert text.count(ABLE) == 1 and ABLE in text.partition("```{code-cell}")[0]
    last = re.findall(r"^## (.*)$", text, re.M)[-1]
    assert last == "Exercises" and 3 <= len(blocks(text, "exercise")) <= 5


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_exercise_belongs_to_a_claim_of_its_chapter_and_has_one_solution(name):
    text, labels = CHAPTERS[name], []
    for title, body in blocks(text, "exercise"):
        claims = CLAIM.findall(body)
        assert claims and title, body
        for claim, anchor in claims:
            assert anchor == claim.replace(".", "-") and f"(claim-{anchor})=" in text, claim
            lists.find(claim)
        labels += LABEL.findall(body)
    assert labels == [label for label, _ in blocks(text, "solution")] and len(labels) == len(set(labels))


def test_no_two_exercises_have_the_same_name():
    labels = [LABEL.search(body)[1] for text in CHAPTERS.values() for _, body in blocks(text, "exercise")]
    assert len(labels) == len(set(labels)) == len(SOLUTIONS)


def disagreement(solution):
    """What is wrong with a solution's code, or nothing: it has to print, letter for letter, what stands below it."""
    code = CODE.findall(solution)
    if [language for language, _ in code] != ["python", "text"]:
        return "a solution has one block of code and one of what that prints"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code[0][1], "solution", "exec"), {"__name__": "solution"})
    except Exception:
        return traceback.format_exc(limit=1)
    if not re.search(r"[a-z0-9]", printed.getvalue()):
        return "it prints nothing"
    shown = code[1][1]
    return "" if printed.getvalue() == shown else f"it prints\n{printed.getvalue()}and the text shows\n{shown}"


@pytest.mark.parametrize("label", SOLUTIONS)
def test_a_solution_prints_what_its_text_shows(label):
    assert disagreement(SOLUTIONS[label]) == ""


@pytest.mark.parametrize(
    "solution, said",
    [
        ("Words alone.", "one block of code"),
        ("```python\nprint(2)\n```\n\n```text\n3\n```\n", "it prints\n2"),
        ("```python\n2 + 2\n```\n\n```text\n```\n", "it prints nothing"),
        ("```python\nassert 1 == 2\n```\n\n```text\n1\n```\n", "AssertionError"),
    ],
)
def test_a_solution_that_shows_something_else_is_caught(solution, said):
    assert said in disagreement(solution)


def test_a_line_of_a_solution_fits_its_column():
    long = [line for body in SOLUTIONS.values() for _, code in CODE.findall(body) for line in code.splitlines()]
    assert [line for line in long if len(line) > 110] == []


def test_elsewhere_an_exercise_is_a_quotation_and_its_solution_a_fold():
    text = (
        ":::{exercise} A name\n:label: some-exercise\n:nonumber:\n\nGuess.\n:::\n\n"
        "::::{solution} some-exercise\n\n$2$.\n\n```python\nf[0](x)\n```\n::::\n"
    )
    assert plain.prose(text, "notebooks/explore") == (
        '> <a id="some-exercise"></a>**Exercise (A name).**\n>\n> Guess.\n\n'
        "<details>\n<summary>Solution</summary>\n\n$2$.\n\n```python\nf[0](x)\n```\n\n</details>\n"
    )


def test_on_the_site_a_solution_is_a_fold_below_its_exercise(site, soup):
    for name, text in CHAPTERS.items():
        page = soup(site / f"notebooks/{name}.html")
        for label in (LABEL.search(body)[1] for _, body in blocks(text, "exercise")):
            below = page.find("div", id=label).find_next_sibling()
            assert below.name == "details" and "lb-solution" in below["class"] and below.summary.text == "Solution"
        ids = Counter(node["id"] for node in page.find_all(id=True))
        assert [one for one, count in ids.items() if count > 1 and one.startswith(("exercise", "solution"))] == []


def test_a_solution_opens_by_the_keyboard_and_on_paper(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((site / "notebooks/mallada_network.html").as_uri())
    folds, opened = page.locator("details.lb-solution"), "nodes => nodes.map(node => node.open)"
    folds.first.locator("summary").press("Enter")
    assert folds.evaluate_all(opened) == [True, False, False]
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert folds.evaluate_all(opened) == [True] * 3
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert folds.evaluate_all(opened) == [True, False, False]
    page.close()
