"""Notebooks read well wherever they are opened: no role, directive or anchor of the site is left in their prose."""

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from tools import notebooks, plain

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.md"))
RAW = re.compile(r"\{[\w:-]+\}`|^[`:]{3,}\{|^:[\w-]+:|^\([^()\s]+\)=$|\]\{#", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SITE = "https://lorabook.github.io/lorabook"


def opened(name):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("name", NAMES)
def test_no_mark_of_the_site_is_left_in_a_notebook(name):
    assert RAW.findall(prose(opened(name))) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_within_the_notebook_or_to_an_address(name):
    words = prose(opened(name))
    for link in LINK.findall(words):
        assert link.startswith("https://") or f'<a id="{link[1:]}"></a>' in words, link


def test_the_pattern_finds_every_kind_of_mark_in_the_texts():
    raw = "".join((ROOT / f"notebooks/{name}.md").read_text(encoding="utf-8") for name in NAMES)
    found = {re.sub(r"[\w-]+", "x", mark) for mark in RAW.findall(raw)}
    assert {"{x}`", "{x:x}`", "(x)=", ":x:", "```{", ":::{"} <= found


@pytest.mark.parametrize("name", NAMES)
def test_the_code_is_that_of_the_text(name):
    text = jupytext.read(ROOT / f"notebooks/{name}.md")
    code = lambda notebook: [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code(opened(name)) == code(text)


def test_a_citation_names_authors_and_year_and_leads_to_the_work():
    said = plain.prose("After {cite:t}`xu2025understanding` and {cite}`hu2022lora,meng2024pissa`.", "notebooks/explore")
    assert said.startswith("After [Xu et al. (2025)](https://arxiv.org/abs/2503.06982) and ([Hu et al., 2022](https://")
    assert "; [Meng" in said and said.endswith(").")


def test_a_theorem_is_a_quotation_with_its_name_and_an_anchor():
    text = ":::{prf:theorem} Somebody, Theorem 3\n:label: some-thm\n:nonumber:\n\nLet $x$ be\n\n$$\nx\n$$\n:::\n"
    assert plain.prose(text, "notebooks/explore") == (
        '> <a id="some-thm"></a>**Theorem (Somebody, Theorem 3).**\n>\n> Let $x$ be\n>\n> $$\n> x\n> $$\n'
    )


def test_links_stay_within_the_notebook_or_lead_to_the_site():
    here, there = (
        "[a](#claim-kim-certified)",
        "[b](#claim-real_fine_tune-one-step) [c](errata) [d](../book/notation.md)",
    )
    assert plain.prose(here, "notebooks/kim_landscape") == here
    assert plain.prose(there, "notebooks/kim_landscape") == (
        f"[b]({SITE}/notebooks/real_fine_tune.html#claim-real-fine-tune-one-step) "
        f"[c]({SITE}/notebooks/errata.html) [d]({SITE}/book/notation.html)"
    )
    assert plain.prose("{doc}`kim_extensions`", "notebooks/kim_landscape").endswith(
        f"]({SITE}/notebooks/kim_extensions.html)"
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("{unheard}`of`", "a role unheard has no plain form"),
        ("```{figure} x.png\nWords\n```\n", "a directive figure has no plain form"),
        ("[gone](#claim-nobody-made)", "refers to claim-nobody-made, which no page defines"),
        ("{cite}`nobody1900`", "has no nobody1900"),
        ("{doc}`nowhere`", "refers to notebooks/nowhere, which no page defines"),
    ],
)
def test_what_has_no_plain_form_is_refused_with_one_sentence(text, said):
    with pytest.raises(notebooks.Trouble, match=re.escape(said)):
        plain.prose(text, "notebooks/explore")


def test_the_site_takes_the_prose_of_the_text_and_leaves_a_note_of_the_build(site):
    page = (site / "notebooks/kim_landscape.html").read_text(encoding="utf-8")
    assert 'id="kim-thm-1"' in page and "(Kim, Kim & Ryu, Theorem 1)".replace("&", "&amp;") in page
    assert "lorabook.github.io/lorabook/notebooks" not in page  # its links are its own
    given = json.loads((site / "_sources/notebooks/kim_landscape.ipynb").read_text(encoding="utf-8"))
    assert given == json.loads((ROOT / "notebooks/kim_landscape.ipynb").read_text(encoding="utf-8"))
