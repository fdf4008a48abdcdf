"""The book in one file and as a PDF, on three hand-made pages."""

import re
import sys

import pytest

from tools import editions

FRONT = """<html><head><link rel="stylesheet" href="../_static/own.css?v=1" />
<link href="../_static/theme.css?v=2"></head>
<script>window.MathJax = {"options": {}}</script><script src="../_static/own.js?v=3"></script>
<article class="bd-article"><h1>The book<a class="headerlink" href="#t">#</a></h1><p id="t">front</p><!-- editions -->
<a href="../notebooks/a.html#t">there</a> <a href="../notebooks/a.html">all of it</a>
<a href="https://example.org/x.html">away</a>
<a href="../gone/else.ipynb">download</a></article></html>"""
CHAPTER = """<article class="bd-article"><h1>Chapter<a class="headerlink" href="#t">#</a></h1><p id="t">text</p>
<p id="alone">x</p>
<a href="#alone">here</a> <a href="../book/index.html#t">front</a>
<svg><clipPath id="clip"></clipPath><use xlink:href="#clip"/><g clip-path="url(#clip)"/></svg>
<img src="dot.png" alt="a dot"></article>"""
TOC = (
    "format: jb-book\nroot: book/index\nparts:\n- caption: One part\n  chapters:\n  - file: notebooks/a\n  - file: "
    "notebooks/b\n"
)


@pytest.fixture
def book(tmp_path):
    """A finished site of three pages, with the table of contents and the styles it came from."""
    for folder in ("site/book", "site/notebooks", "site/_static", "book/_static"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "site/book/index.html").write_text(FRONT)
    for name in "ab":
        (tmp_path / f"site/notebooks/{name}.html").write_text(CHAPTER)
    (tmp_path / "site/notebooks/dot.png").write_bytes(b"dot")
    for name, text in (("own.css", "p { color: red }"), ("own.js", "var own = 1;"), ("theme.css", "theme")):
        (tmp_path / "site/_static" / name).write_text(text)
        if name != "theme.css":
            (tmp_path / "book/_static" / name).write_text(text)
    (tmp_path / "_toc.yml").write_text(TOC)
    return tmp_path


def test_one_file_holds_every_page_in_order_with_its_own_styles_scripts_and_images(book):
    editions.make(book / "site", book / "_toc.yml", None)
    text = (book / "site/lorabook.html").read_text()
    assert re.findall(r'class="lb-page" id="([^"]+)"', text) == ["page-index", "page-a", "page-b"]
    for part in (
        "p { color: red }",
        "var own = 1;",
        "window.MathJax = ",
        "<title>The book</title>",
        "One part",
        'src="data:image/png;base64,ZG90"',
    ):
        assert part in text, part
    assert "theme" not in re.sub(r"dataset\.theme|data-theme|the theme", "", text) and "_static" not in text


def test_anchors_stay_apart_and_links_lead_to_them(book):
    editions.make(book / "site", book / "_toc.yml", None)
    text = (book / "site/lorabook.html").read_text()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {target for target in re.findall(r'href="#([^"]+)"', text)} <= set(ids)
    assert (
        '<a href="#page-a-t">there</a> <a href="#page-a">all of it</a> <a href="https://example.org/x.html">away</a>'
        in " ".join(text.split())
    )
    assert "download" in text and "else.ipynb" not in text, "a file that stays behind is not linked"
    assert 'clip-path="url(#page-a-clip)"' in text and 'clip-path="url(#page-b-clip)"' in text


def test_without_a_browser_the_front_page_names_one_edition_and_one_sentence_says_why(book, capsys):
    editions.make(book / "site", book / "_toc.yml", None)
    front = (book / "site/book/index.html").read_text()
    assert '<a href="../lorabook.html">' in front and ".pdf" not in front
    assert capsys.readouterr().out == "No browser prints the book, so the site has no PDF.\n"


@pytest.mark.parametrize("browser", [sys.executable, "/no/such/browser"])
def test_a_browser_that_fails_leaves_no_pdf_and_no_dead_link(book, capsys, browser):
    editions.make(book / "site", book / "_toc.yml", browser)
    assert not (book / "site/lorabook.pdf").exists() and ".pdf" not in (book / "site/book/index.html").read_text()
    assert capsys.readouterr().out == f"{browser} could not print the book, so the site has no PDF.\n"


def test_a_browser_prints_the_pdf(book, executable):
    editions.make(book / "site", book / "_toc.yml", executable)
    assert (book / "site/lorabook.pdf").read_bytes()[:5] == b"%PDF-"
    assert '<a href="../lorabook.pdf">' in (book / "site/book/index.html").read_text()
