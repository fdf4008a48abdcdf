"""Sphinx extension: the verdict cards of a page, drawn from the records that its notebook holds.

Each output with a record becomes a card in MyST (lorabook.page.cards), so that its mathematics, links and fold are
those of the page.  Code that is neither shown on purpose (the parameters) nor folded by the notebook is folded.
"""

import json

from sphinx.util import logging

SHOWN = {"parameters", "injected-parameters"}
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
RECORD = "lorabook"
TALK = logging.getLogger(__name__)


def issues(config):
    """Where an issue is opened: the one address is that of the repository, in _config.yml."""
    address = config.html_theme_options.get("repository_url", "")
    return f"{address}/issues/new" if address else ""


def made_by(page, notebook):
    """The notebook and what it ran on: its last line, after the seconds."""
    texts = [
        "".join(output.get("text", ""))
        for cell in notebook["cells"]
        if "volatile" in cell["metadata"].get("tags", [])
        for output in cell.get("outputs", [])
    ]
    where = texts[-1].strip().partition("; ")[2] if texts else ""
    python = notebook["metadata"].get("language_info", {}).get("version")
    return ", ".join(filter(None, [page, where, python and f"Python {python}"]))


def draw(app, page, source):
    """Put the cards in the place of what a terminal would show."""
    if not str(app.env.doc2path(page)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "code" and not {*tags} & (SHOWN | FOLDED):
            tags.append("hide-input")
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get(RECORD)
            if record:
                output["data"] = {"text/markdown": drawn(record, issues(app.config), made_by(page, notebook), page)}
    source[0] = json.dumps(notebook)


def drawn(record, address, run, page):
    """One card; a record of a claim that no list has is a warning, and so stops the book."""
    from lorabook.page import cards, claims, lists

    record = dict(record)
    try:
        verdict = claims.Verdict(lists.find(record.pop("id")), **record)
    except (lists.ClaimError, KeyError, TypeError) as error:
        TALK.warning("%s holds a verdict that cannot be shown: %s", page, error)
        return ""
    return cards.card(verdict, address, run)


def setup(app):
    app.connect("source-read", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
