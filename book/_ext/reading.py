"""Sphinx extension: what a reader needs on every page and nobody should type.

- Figures and displayed equations are numbered within their page, so that they can be cited by link; the panels of a
  figure have letters, and the plain formulas of a caption are set. The data of a figure become a file beside the page.
- The number of a paper on arXiv leads there.
- A full stop or comma after a formula stays on its line.
- Under the title: the estimated reading time, the notation and the glossary.
- At the end: a sentence of story.yml that leads to the next page.

It works on the resolved document, so neither the notebooks nor their held outputs know of it.
"""

import html
import math
import re
from pathlib import Path
from urllib.parse import unquote

import yaml
from docutils import nodes

from lorabook.page.letters import typeset

WORDS_A_MINUTE = 200
FORMULA, FIGURE = 15, 60  # worth so many words of reading
STORY = "book/story.yml"
AIDS = {"book/notation": "Notation", "book/glossary": "Glossary"}
# nobody reads these from end to end
LOOK_UP = {"notebooks/ledger", "notebooks/errata", "book/grounds", "book/references", *AIDS}
DATA = re.compile(r'(?<=<a class="lb-data" )download="figure.csv" href="data:text/csv;charset=utf-8,([^"]*)"')
CAPTION = re.compile(r'<figure class="lb-row">(.*?)<figcaption>(.*?)(<a class="lb-data".*?)?(?=</figcaption>)', re.S)
PANEL = '<div class="lb-panel">'
ARXIV = re.compile(r"\barXiv[: ]\s?(\d{4}\.\d{4,5})")
NO_SCRIPT = '<noscript><p class="lb-aids">Without script, formulas are shown as TeX.</p></noscript>'


def lettered(figure):
    """The panels of a figure, with letters where there are several."""
    if figure.count(PANEL) < 2:
        return figure
    letters = iter("abcdefghijkl")
    return re.sub(PANEL, lambda found: f'{found[0]}<span class="lb-letter">({next(letters)})</span>', figure)


def number(tree, page):
    """Number the figures and the displayed equations of a page, a path; return how many figures there are."""
    figures = 0
    for raw in tree.findall(nodes.raw):
        if CAPTION.search(raw.astext()):
            figures += 1
            name = f"figure-{figures}"
            file = page.with_name(f"{page.name}-{name}.csv")

            def written(found):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(unquote(found[1]), encoding="utf-8")
                return f'download href="{file.name}" aria-label="data (CSV) of Figure {figures}"'

            def numbered(found):
                panels, caption = lettered(found[1]), typeset(html.unescape(found[2]))
                label = f'<a class="lb-number" href="#{name}">Figure {figures}.</a>'
                data = DATA.sub(written, found[3] or "")
                return f'<figure class="lb-row" id="{name}">{panels}<figcaption>{label} {caption}{data}'

            raw.replace_self(nodes.raw("", CAPTION.sub(numbered, raw.astext(), count=1), format="html"))
    for count, equation in enumerate(tree.findall(nodes.math_block), 1):
        # "Eq.", since a bare number in parentheses is an equation of a source
        equation["number"] = f"Eq. {count}"
        equation["ids"] = [*equation["ids"], f"equation-{count}"]
    return figures


def link_papers(tree):
    """Lead from the number of a paper to its page on arXiv."""
    for text in list(tree.findall(nodes.Text)):
        inside = text.parent
        while inside and not isinstance(inside, (nodes.reference, nodes.literal, nodes.literal_block, nodes.raw)):
            inside = inside.parent
        if inside or not ARXIV.search(text):
            continue
        parts, end = [], 0
        for found in ARXIV.finditer(text):
            link = nodes.reference("", found[0], refuri=f"https://arxiv.org/abs/{found[1]}", internal=False)
            parts += [nodes.Text(text[end : found.start()]), link]
            end = found.end()
        place = next(k for k, node in enumerate(text.parent) if node is text)
        text.parent[place : place + 1] = [*parts, nodes.Text(text[end:])]


def hold_punctuation(tree):
    """Keep what closes a formula on the formula's line."""
    for formula in list(tree.findall(nodes.math)):
        after = formula.next_node(descend=False, siblings=True)
        mark = isinstance(after, nodes.Text) and re.match(r"[.,;:?!)]+", after)
        if mark:
            # by identity: a text equals every other text of the same letters
            place = next(k for k, node in enumerate(after.parent) if node is after)
            after.parent[place] = nodes.Text(after[mark.end() :])
            formula.replace_self(
                nodes.inline("", "", formula.deepcopy(), nodes.Text(mark.group()), classes=["lb-hold"])
            )


def minutes(tree, figures):
    """How long a page takes to read; code counts for nothing."""
    silent = (nodes.literal_block, nodes.raw, nodes.math, nodes.math_block)
    texts = [text for text in tree.findall(nodes.Text) if not isinstance(text.parent, silent)]
    texts += [
        re.sub(r"<svg.*?</svg>|<[^>]*>", " ", raw.astext(), flags=re.S)
        for raw in tree.findall(nodes.raw)
        if raw["format"] == "html"
    ]
    words = sum(len(text.split()) for text in texts) + len(list(tree.findall(nodes.math)))
    return math.ceil((words + FORMULA * len(list(tree.findall(nodes.math_block))) + FIGURE * figures) / WORDS_A_MINUTE)


def aids(app, page, tree, figures):
    """The line under the title: how long to read, and where the letters and words are explained."""
    line = nodes.paragraph(classes=["lb-aids"])
    parts = [] if page in LOOK_UP else [nodes.Text(f"{minutes(tree, figures)} min to read")]
    for other in (other for other in AIDS if other in app.env.found_docs and other != page):
        parts.append(nodes.reference("", AIDS[other], refuri=app.builder.get_relative_uri(page, other), internal=True))
    for part in parts:
        line += [nodes.Text(" · "), part] if len(line) else [part]
    for title in tree.findall(nodes.title):
        title.parent.insert(title.parent.index(title) + 1, line)
        return


def lead_on(app, page, tree):
    """The end of a page: why the next one follows."""
    sentence = yaml.safe_load((Path(app.confdir) / STORY).read_text(encoding="utf-8")).get(page)
    following = app.env.collect_relations().get(page, [None] * 3)[2]
    if sentence and following:
        link = nodes.reference(
            "", app.env.titles[following].astext(), refuri=app.builder.get_relative_uri(page, following), internal=True
        )
        tree[-1].append(
            nodes.paragraph("", "", nodes.Text(f"{sentence} Next: "), link, nodes.Text("."), classes=["lb-next"])
        )


def resolved(app, tree, page):
    link_papers(tree)
    hold_punctuation(tree)
    figures = number(tree, Path(app.outdir) / page)
    if page != app.config.root_doc:
        aids(app, page, tree, figures)
    lead_on(app, page, tree)


def mend(app, page, template, context, tree):
    """A bibliography calls itself a list and has no list items, which misleads a screen reader; formulas need a
    script."""
    body = context.get("body", "").replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    context["body"] = body.replace("</h1>", f"</h1>\n{NO_SCRIPT}", 1) if 'class="math' in body else body


def setup(app):
    app.connect("html-page-context", mend)
    app.connect("doctree-resolved", resolved, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
