"""Sphinx extension: what programs read of the book, written beside the pages.

- ``X.md`` beside each ``X.html``: the page as plain Markdown, from the finished page, so that nothing is unresolved.
- ``claims.json``: every claim with its verdict.
- ``letters/<source>.md``: what a maintainer can send to the authors before publication.
- ``_static/claims_index.js``: what the search page finds beyond Sphinx's own index, as a classic script, since a
  page opened from disk may fetch nothing.
"""

import json
import re
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString
from plain_tex import letters_of, script, unmarked
from verdicts import issues

INDEX = "claims_index.js"
SILENT = ["script", "style", "noscript", "button", "nav", "template", "form", "link"]
BLOCKS = [*"p li td th dt dd div figcaption summary caption h1 h2 h3 h4 h5 h6".split()]  # words of two do not touch
HEADS = [f"h{level}" for level in range(1, 7)]


def address(app, claim, page):
    """Where in the site a claim is treated."""
    return f"{app.builder.get_target_uri(page)}#claim-{claim.replace('.', '-').replace('_', '-')}"


def found(app):
    """The verdicts of the book with the pages that hold them, in the order of the lists."""
    if not any(
        '"lorabook": {' in path.read_text(encoding="utf-8") for path in Path(app.srcdir).glob("notebooks/*.ipynb")
    ):
        return []
    from lorabook.page import ledger

    collected = ledger.collect(Path(app.srcdir) / "notebooks")
    order = {name: k for k, name in enumerate(one for source in ledger.in_order() for one in ledger.lists.load(source))}
    pairs = [(f"notebooks/{name}", verdict) for name, verdict in collected if f"notebooks/{name}" in app.env.found_docs]
    return sorted(pairs, key=lambda pair: order[pair[1].claim.id])


def write(app, exception):
    """Everything, once the pages are there."""
    if exception or app.builder.format != "html":
        return
    site = Path(app.outdir)
    articles = {}
    for page in app.env.found_docs:
        html = (site / app.builder.get_target_uri(page)).read_text(encoding="utf-8")
        article = BeautifulSoup(html, "html.parser").find("article", class_="bd-article")
        if article:
            articles[page] = article
            (site / page).with_suffix(".md").write_text(markdown(article) + "\n", encoding="utf-8")
    verdicts = found(app)
    (site / "letters").mkdir(exist_ok=True)
    for source, text in letters(app, verdicts):
        (site / f"letters/{source}.md").write_text(text, encoding="utf-8")
    texts = {page: plain(article) for page, article in articles.items()}
    index = {"claims": [indexed(app, page, verdict) for page, verdict in verdicts], "pages": texts}
    (site / "_static" / INDEX).write_text(f"window.lorabook = {compact(index)};\n", encoding="utf-8")
    if verdicts:
        from lorabook.page import correspondence

        entries = [correspondence.entry(verdict, address(app, verdict.claim.id, page)) for page, verdict in verdicts]
        (site / "claims.json").write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def letters(app, verdicts):
    """The letters to authors as (source, Markdown)."""
    if not verdicts:
        return
    from lorabook.page import correspondence, ledger

    for source in ledger.in_order():
        theirs = [
            verdict for _, verdict in verdicts if verdict.claim.id.startswith(f"{source}.") and ledger.printed(verdict)
        ]
        if theirs and ledger.lists.items(source):
            yield source, correspondence.letter(source, theirs, issues(app.config))


def indexed(app, page, verdict):
    """What the search page knows of a claim."""
    from lorabook.page import lists
    from lorabook.page.letters import typeset

    claim = verdict.claim
    source = lists.short(claim.id.partition(".")[0])
    said = [unmarked(typeset(text)) for text in (claim.where, source, verdict.verdict, claim.statement)]
    return [claim.id, *said, address(app, claim.id, page)]


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def plain(article):
    """The words of a page, without code and drawings."""
    copy = BeautifulSoup(str(article), "html.parser")
    for node in copy.find_all([*SILENT, "svg", "pre"]) + copy.find_all(class_="headerlink"):
        node.decompose()
    for node in copy.find_all(["span", "div"], class_="math"):
        node.replace_with(letters_of(formula(node).strip("$")))
    for node in reversed(copy.find_all(["sub", "sup"])):
        node.replace_with(script("_" if node.name == "sub" else "^", node.get_text()))
    for node in copy.find_all(BLOCKS):
        node.append(" ")
    return " ".join(copy.get_text().split())


# A page as Markdown


def markdown(article):
    """The article of a finished page as Markdown: formulas in dollars, tables, lists, code, cards and captions."""
    text = "".join(block(node) for node in article.children)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def block(node):
    """A piece of a page that begins a line of its own; what only groups others is opened."""
    if isinstance(node, NavigableString):
        return f"\n\n{words(node)}\n\n" if str(node).strip() and type(node) is NavigableString else ""
    name, kinds = node.name, node.get("class", [])
    if name in SILENT or "lb-explore" in kinds or "headerlink" in kinds:
        return ""
    if name in HEADS:
        return f"\n\n{'#' * int(name[1])} {inline(node)}\n\n"
    if name == "pre":
        language = next((kind.removeprefix("highlight-") for kind in outer(node) if kind.startswith("highlight-")), "")
        language = {"ipython3": "python", "default": "", "none": "", "myst-ansi": ""}.get(language, language)
        return f"\n\n```{language}\n{node.get_text().rstrip()}\n```\n\n"
    if name == "div" and "math" in kinds:
        return f"\n\n{formula(node)}\n\n"
    if name in ("ul", "ol"):
        return f"\n\n{items(node)}\n\n"
    if name == "dl":
        return "\n\n" + "\n\n".join(definition(part) for part in node.find_all(["dt", "dd"], recursive=False)) + "\n\n"
    if name == "table":
        return f"\n\n{table(node)}\n\n"
    if name == "figure":
        drawn = [svg["aria-label"] for svg in node.find_all("svg") if svg.get("aria-label")]
        caption = node.find("figcaption")
        return (
            "\n\n"
            + "\n\n".join([inline(caption) if caption else "", *(f"(Picture: {text})" for text in drawn)])
            + "\n\n"
        )
    if name == "summary" and "hide" in node.parent.get("class", []):
        return ""  # "Show code cell source"
    if name == "summary":
        return f"\n\n**{inline(node).strip()}**\n\n" if inline(node).strip() else ""
    if "admonition-title" in kinds:
        return f"\n\n**{inline(node).strip()}**\n\n"
    if name in ("p", "span", "a", "strong", "em", "code", "sub", "sup", "img", "i", "svg", "br", "cite", "b"):
        return f"\n\n{inline(node).strip()}\n\n" if inline(node).strip() else ""
    if name == "blockquote":
        inner = "".join(block(child) for child in node.children)
        return (
            "\n\n"
            + "\n".join(f"> {line}".rstrip() for line in re.sub(r"\n{3,}", "\n\n", inner).strip().split("\n"))
            + "\n\n"
        )
    return "".join(block(child) for child in node.children)


def outer(node):
    """The classes of what a piece of code stands in."""
    return [kind for parent in list(node.parents)[:3] for kind in parent.get("class", [])]


def words(text):
    return re.sub(r"\s+", " ", str(text))


def formula(node):
    """A formula without its number, in dollars."""
    inside = "".join(
        str(part)
        for part in node.strings
        if "eqno" not in part.parent.get("class", []) and "headerlink" not in part.parent.get("class", [])
    )
    shown = "\\[" in inside
    inside = re.sub(r"\\[()\[\]]", "", inside).strip()
    return f"$$\n{inside}\n$$" if shown else f"${inside}$"


def inline(node):
    """What stands within a line."""
    if isinstance(node, NavigableString):
        return words(node) if type(node) is NavigableString else ""
    name, kinds = node.name, node.get("class", [])
    if name in [*SILENT, "svg"] or "headerlink" in kinds or "lb-dispute" in kinds:
        return ""
    if "math" in kinds:
        return formula(node)
    inside = "".join(inline(child) for child in node.children)
    if name == "code":
        return f"`{node.get_text()}`"
    if (name in ("strong", "b", "em", "i") or "lb-badge" in kinds) and inside.strip():
        mark = "*" if name in ("em", "i") else "**"
        return f"{mark}{inside.strip()}{mark}"
    if name in ("sub", "sup"):
        return f"<{name}>{inside}</{name}>"
    if name == "img":
        return f"![{node.get('alt', '')}]({node.get('src', '')})"
    if name == "br":
        return " "
    if name == "a" and node.get("href"):
        there = node["href"] if "://" in node["href"] else re.sub(r"[.]html(?=#|$)", ".md", node["href"])
        return f"[{inside}]({there})"
    return inside


def items(node, depth=0):
    """A list, its parts indented under their marks."""
    lines = []
    for count, item in enumerate(node.find_all("li", recursive=False), 1):
        mark = "- " if node.name == "ul" else f"{count}. "
        inside = re.sub(r"\n{3,}", "\n\n", "".join(block(child) for child in item.children)).strip()
        if not item.find(["p", "ul", "ol", "pre", "div"], recursive=False):
            inside = inline(item).strip()
        lines.append(mark + re.sub(r"\n(?=.)", "\n" + " " * len(mark), inside))
    return "\n".join(lines)


def definition(part):
    inside = re.sub(r"\n{3,}", "\n\n", "".join(block(child) for child in part.children)).strip()
    return f"**{inline(part).strip()}**" if part.name == "dt" else inside


def table(node):
    """A table with bars; a cell is one line."""
    rows = [
        [inline(cell).strip().replace("|", r"\|") for cell in row.find_all(["th", "td"])] for row in node.find_all("tr")
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) if lines else ""


def scripts(app, page, template, context, tree):
    """Scripts of one page alone, and where a program finds the page's text."""
    for name in {
        "notebooks/ledger": ["ledger.js"],
        "notebooks/errata": ["errata.js"],
        "book/grounds": ["grounds.js"],
        "search": [INDEX, "find.js"],
    }.get(page, []):
        app.add_js_file(name, defer="defer")
    if page in app.env.found_docs:
        name = f"{page.rpartition('/')[2]}.md"
        context["metatags"] = (
            context.get("metatags", "") + f'\n<link rel="alternate" type="text/markdown" href="{name}">'
        )


def setup(app):
    app.connect("html-page-context", scripts)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
