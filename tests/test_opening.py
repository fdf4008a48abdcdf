"""The first screen of a page: a question, the figure that answers it, what is claimed and what was found."""

import json
import re

import opening
import pytest
from test_site import CHAPTERS, PHONE

SCREEN = {"width": 1280, "height": 1000}
OPENED = [*CHAPTERS, "notebooks/one_dynamics", "notebooks/real_fine_tune"]
FIRST = """() => {
  const box = node => { const {top, bottom} = node.getBoundingClientRect(); return [top + scrollY, bottom + scrollY]; };
  const article = document.querySelector("article.bd-article"), figure = article.querySelector("figure.lb-row");
  const labels = [...article.querySelectorAll("p > strong:first-child")].map(node => [node.textContent, box(node)[0]]);
  const before = article.querySelector("h1").compareDocumentPosition(figure) & Node.DOCUMENT_POSITION_FOLLOWING;
  return {question: article.querySelector(".lb-question")?.innerText, id: figure.id, figure: box(figure), labels,
    before, back: [...article.querySelectorAll(".lb-back a")].map(node => node.getAttribute("href"))};
}"""


@pytest.fixture(scope="module")
def desk(browser):
    context = browser.new_context(viewport=SCREEN)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", OPENED)
def test_a_chapter_opens_with_a_question_its_figure_and_what_was_claimed_and_found(site, desk, name):
    desk.goto((site / f"{name}.html").as_uri())
    desk.evaluate("() => window.MathJax?.startup?.promise")
    found = desk.evaluate(FIRST)
    assert found["question"].endswith("?")
    assert found["id"] == "figure-1" and found["figure"][1] < SCREEN["height"], (
        "the figure is whole on the first screen"
    )
    told = dict(found["labels"])
    for label in ("What the source claims.", "What we found.") if name in CHAPTERS else ("What we found.",):
        assert found["figure"][1] < told[label] < SCREEN["height"], label
    assert found["back"] == ["#figure-1"], "in its old place a line leads to the figure"


def drawn(text):
    """The curves of the first panel of a page's first figure."""
    figure = re.search(r'<figure class="lb-row".*?</figure>', text, re.S)[0]
    return re.findall(r'\sd="([^"]+)"', figure.partition("</svg>")[0]), figure


def test_the_first_page_opens_with_a_picture_that_a_run_made(site, desk):
    front, run = ((site / f"{name}.html").read_text() for name in ("book/index", "notebooks/one_dynamics"))
    (curves, figure), (wanted, _) = drawn(front), drawn(run)
    assert len(curves) > 20 and curves == wanted
    assert figure.count("<svg") == 1 and len(re.search(r'aria-label="([^"]+)"', figure)[1]) > 40
    desk.goto((site / "book/index.html").as_uri())
    box = desk.locator("figure.lb-row").bounding_box()
    message = desk.locator(".lb-first-picture strong").first.bounding_box()
    assert box["y"] + box["height"] < 700 and abs(message["y"] - box["y"]) < 100, "the message stands beside it"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_picture_takes_the_ink_of_the_page_and_fits_a_phone(site, browser, scheme):
    page = browser.new_page(viewport={"width": PHONE, "height": 844}, color_scheme=scheme)
    page.goto((site / "book/index.html").as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE
    ink = page.evaluate("() => getComputedStyle(document.querySelector('figure.lb-row svg use[href*=-g]')).fill")
    light = sum(map(int, re.findall(r"\d+", ink)[:3])) > 384
    assert light == (scheme == "dark")
    page.close()


FIGURE = {"tags": ["opening", "remove-input"]}, [{"output_type": "display_data", "data": {"text/html": "<figure>"}}]


def notebook(*code):
    prose = {
        "cell_type": "markdown",
        "id": "a",
        "metadata": {},
        "source": "# Title\n\nWhy?\n\n**Source.** One.\n\nMore.",
    }
    cells = [{"cell_type": "code", "id": f"c{k}", "metadata": m, "outputs": o} for k, (m, o) in enumerate(code)]
    return {"cells": [prose, *cells]}


class App:
    """As much of Sphinx as the extension asks for."""

    class env:
        doc2path = staticmethod(lambda page: f"{page}.ipynb")


def test_the_figure_moves_below_the_question_and_leaves_a_line_behind():
    source = [json.dumps(notebook(({}, []), FIGURE))]
    opening.lift(App, "notebooks/x", source)
    cells = json.loads(source[0])["cells"]
    assert (
        cells[0]["source"] == "# Title\n\n:::{div} lb-question\nWhy?\n:::"
        and cells[2]["source"] == "**Source.** One.\n\nMore."
    )
    assert [out["data"]["text/html"] for cell in cells for out in cell.get("outputs", [])] == ["<figure>", opening.BACK]
    assert len({cell["id"] for cell in cells}) == len(cells) == 5


def test_a_notebook_without_an_opening_figure_stays_as_it_is():
    source = [before := json.dumps(notebook(({}, FIGURE[1])))]
    opening.lift(App, "notebooks/x", source)
    assert source == [before]
