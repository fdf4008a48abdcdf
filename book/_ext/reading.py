"""Sphinx extension: what a reader needs on every page and nobody should type.

- The name on a verdict card leads to the claim's row in the ledger; plain formulas on cards and in captions are set.
- Figures and displayed equations are numbered within their page, so that they can be cited by link.
- A full stop or comma after a formula stays on its line.
- Under the title: the estimated reading time, the notation and the glossary.
- At the end: a sentence of story.yml that leads to the next page.

It works on the resolved document, so neither the notebooks nor their held outputs know of it.
"""

import html
import math
import re
from pathlib import Path

import yaml
from docutils import nodes

from lorabook.page.letters import typeset

WORDS_A_MINUTE = 200
FORMULA, FIGURE = 15, 60  # worth so many words of reading
LEDGER = "notebooks/ledger"
STORY = "book/story.yml"
AIDS = {"book/notation": "Notation", "book/glossary": "Glossary"}
LOOK_UP = {LEDGER, "notebooks/errata", "book/references", *AIDS}  # nobody reads these from end to end
CARD = re.compile(r'<span class="lb-claim">(\w+)\.([\w-]+)</span>')
CARD_LINE = re.compile(r'(?<=<p>).*?(?=</p>)|(?<=<span class="lb-where">).*?(?=</span>)', re.S)
CAPTION = re.compile(r'<figure class="lb-row">(.*?)<figcaption>(.*?)(?=</figcaption>)', re.S)
NO_SCRIPT = '<noscript><p class="lb-aids">Without script, formulas are shown as TeX.</p></noscript>'


def link_cards(app, page, tree):
    """Lead from each verdict card to the row of the ledger."""
    if LEDGER not in app.env.found_docs:
        return
    ledger = app.builder.get_relative_uri(page, LEDGER)
    for raw in tree.findall(nodes.raw):
        if CARD.search(raw.astext()):

            def linked(found):
                row = nodes.make_id(f"row-{found[1]}-{found[2]}")
                return (
                    f'<a class="lb-claim" href="{ledger}#{row}" title="Its row in the ledger">{found[1]}.{found[2]}</a>'
                )

            card = CARD_LINE.sub(lambda line: typeset(html.unescape(line[0])), raw.astext())
            raw.replace_self(nodes.raw("", CARD.sub(linked, card), format="html"))


def number(tree):
    """Number the figures and the displayed equations of a page; return how many figures there are."""
    figures = 0
    for raw in tree.findall(nodes.raw):
        if CAPTION.search(raw.astext()):
            figures += 1
            name = f"figure-{figures}"

            def numbered(found):
                return (
                    f'<figure class="lb-row" id="{name}">{found[1]}<figcaption><a class="lb-number" href="#{name}">'
                    f"Figure {figures}.</a> {typeset(html.unescape(found[2]))}"
                )

            raw.replace_self(nodes.raw("", CAPTION.sub(numbered, raw.astext(), count=1), format="html"))
    for count, equation in enumerate(tree.findall(nodes.math_block), 1):
        # "Eq.", since a bare number in parentheses is an equation of a source
        equation["number"] = f"Eq. {count}"
        equation["ids"] = [*equation["ids"], f"equation-{count}"]
    return figures


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
    link_cards(app, page, tree)
    hold_punctuation(tree)
    figures = number(tree)
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
