"""Sphinx extension: what a link to a claim or a letter leads to can be read beside it.

- The first formula of a chapter with a letter of the notation page leads there, where the letter has that meaning.
- The rows of the table of letters have names: ``letter-kappa``.
- At the end of a page a ``<template>`` holds the claims and letters that it links to, since a page opened from disk may
  fetch nothing; preview.js shows them on hover, focus and tap.  Without a script they are links like others.
"""

import re
from functools import cache
from html import escape
from pathlib import Path

from docutils import nodes
from plain_tex import untexed
from programs import found

PAGE = "book/notation"
ROW = re.compile(r"^\| \$([^$|]+)\$[^|]*\| `(\w+)`[^|]*\| ([^|]+?) \| ([^|]+?) \|$", re.M)
PAGES = {
    "Xu et al.": "mallada_",
    "LoRA-One": "lora_one_",
    "Rushka and Klabjan": "rushka_",
    "Kim et al.": "kim_",
    "One dynamics": "one_dynamics",
    "all": "",
}
LINKED = re.compile(r'href="[^"#]*#((?:claim|letter)-[\w-]+)"')
SYMBOL = re.compile(r'<a class="lb-symbol ([^>]*#(letter-[\w-]+)")>(<span class="math[^>]*>(.*?)</span>)', re.S)
SHORT = 30  # letters of TeX in a formula that may be a link
BESIDE = {"notebooks/ledger"}  # pages on which the statement stands beside the link
NO_CHAPTER = {"notebooks/explore", "notebooks/ledger", "notebooks/errata"}


@cache
def letters(folder):
    """Name -> the letters in TeX, what they mean, and how the pages begin on which they do."""
    text = (Path(folder) / f"{PAGE}.md").read_text(encoding="utf-8")
    return {
        f"letter-{code}": (
            tex.split(", "),
            meaning,
            tuple(f"notebooks/{PAGES[one]}" for one in where.split(", ") if one in PAGES),
        )
        for tex, code, meaning, where in ROW.findall(text)
    }


def pattern(tex):
    """A letter that is not a part of another one."""
    before = r"(?<![A-Za-z\\])" if tex[0] != "\\" else ""
    return re.compile(before + re.escape(tex) + r"(?![A-Za-z_^*']|\s*\^)")


def name_rows(app, tree):
    """On the notation page each letter's row can be linked."""
    if app.env.docname != PAGE:
        return
    for row in tree.findall(nodes.row):
        code = row.next_node(nodes.literal)
        name = code and f"letter-{code.astext()}"
        if name in letters(app.confdir) and isinstance(row[0].next_node(nodes.math), nodes.math):
            row["ids"].append(name)


def link_letters(app, tree, page):
    """Lead from the first formula with a letter to its row."""
    if not page.startswith("notebooks/") or page in NO_CHAPTER or PAGE not in app.env.found_docs:
        return
    wanted = {name: one for name, one in letters(app.confdir).items() if page.startswith(one[2])}
    for formula in list(tree.findall(nodes.math)):
        inside, tex = formula.parent, formula.astext()
        while inside and not isinstance(inside, nodes.block_quote | nodes.title | nodes.reference | nodes.table):
            inside = inside.parent
        if inside or len(tex) > SHORT:
            continue
        name = next((one for one, (signs, *_) in wanted.items() if any(pattern(s).search(tex) for s in signs)), None)
        if name:
            del wanted[name]
            there = f"{app.builder.get_relative_uri(page, PAGE)}#{name}"
            link = nodes.reference("", "", formula.deepcopy(), refuri=there, internal=True, classes=["lb-symbol"])
            formula.replace_self(link)


def ask_for_mathjax(app, tree, page):
    """A page without a formula of its own that links to claims shows theirs."""
    links = [node.get("refuri", "") for node in tree.findall(nodes.reference)]
    if any("#claim-" in text for text in links + [raw.astext() for raw in tree.findall(nodes.raw)]):
        app.env.get_domain("math").data["has_equations"][page] = True


def set_formulas(text):
    """Formulas in dollars as MathJax takes them, and code in backticks as HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\$([^$]+)\$", r'<span class="math">\\(\1\\)</span>', text)


def claims(app):
    """Anchor of a claim -> what a preview shows of it."""
    if not hasattr(app, "lb_previews"):
        from lorabook.page import ledger
        from lorabook.page.cards import whose
        from lorabook.page.letters import sentence, typeset

        app.lb_previews = {}
        for _, verdict in found(app):
            claim = verdict.claim
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", typeset(sentence(claim.statement)))
            app.lb_previews[f"claim-{re.sub('[._]', '-', claim.id)}"] = (
                f"<p><strong>{ledger.MARKS[verdict.verdict]}</strong> {claim.id}</p><p>{set_formulas(words)}</p>"
                f"<p>{set_formulas(typeset(whose(claim)))}</p>"
            )
    return app.lb_previews


def named(app, body):
    """Letters that are links say aloud the formula and what the letter means; a drawn formula alone says nothing."""

    def label(found):
        signs, meaning, _ = letters(app.confdir)[found[2]]
        words = untexed(f"{found[4]}; ${signs[0]}$: {meaning}").replace("`", "")
        return f'<a class="lb-symbol {found[1]} aria-label="{escape(words)}">{found[3]}'

    return SYMBOL.sub(label, body)


def hold(app, page, template, context, tree):
    """Put what a page links to at its end."""
    if page not in app.env.found_docs or page in BESIDE:
        return
    body = context.get("body", "")
    shown = []
    for name in dict.fromkeys(LINKED.findall(body)):
        if name.startswith("letter-") and page != PAGE:
            signs, meaning, _ = letters(app.confdir)[name]
            words = f"${', '.join(signs)}$: {escape(meaning, quote=False)}.".replace("`", "")
            shown.append((name, f"<p>{set_formulas(words)}</p>"))
        elif name in claims(app):
            shown.append((name, claims(app)[name]))
    if shown:
        body = named(app, body)
        parts = "".join(f'<div data-of="{name}">{html}</div>' for name, html in shown)
        context["body"] = f'{body}\n<template class="lb-previews">{parts}</template>\n'
        app.add_js_file("preview.js", defer="defer")


def setup(app):
    app.connect("doctree-read", name_rows)
    app.connect("doctree-resolved", link_letters, priority=950)
    app.connect("doctree-resolved", ask_for_mathjax)
    app.connect("html-page-context", hold)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
