"""Sphinx extension: the verdict cards of a page, drawn from the records that its notebook holds.

Each output with a record becomes a card in MyST (lorabook.page.cards), so that its mathematics, links and fold are
those of the page; plain formulas in other tables are set as on cards.  Where the text says nothing between two claims
that hold, their cells are one on the page, and they share a table.  Code that is neither shown on purpose (the
parameters) nor folded by the notebook is folded.

Another page can show the card of a claim:

```{verdict} ../notebooks/rushka_closed_forms rushka.eq-34
```
"""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.util import logging

SHOWN = {"parameters", "injected-parameters"}
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
RECORD, SITE = "lorabook", "text/x-lorabook"  # of claims and of the ledger
ANCHOR = re.compile(r"^\([^()\s]+\)=\s*$", re.M)
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
    notebook["cells"] = joined(notebook["cells"])
    address, run = issues(app.config), made_by(page, notebook)
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "code" and not {*tags} & (SHOWN | FOLDED):
            tags.append("hide-input")
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if SITE in shown:
                shown["text/markdown"] = shown.pop(SITE)
            elif "".join(shown.get("text/markdown", "")).startswith("|"):
                shown["text/markdown"] = table(shown["text/markdown"])
        held = [output for output in cell.get("outputs", []) if recorded(output)]
        if held:
            verdicts = [verdict for output in held if (verdict := known(recorded(output), page))]
            rest = [output for output in cell["outputs"] if output not in held]
            drawn = {"metadata": {}, "data": {"text/markdown": cards_of(verdicts, address, run)}}
            cell["outputs"] = [*rest, held[0] | drawn]
    source[0] = json.dumps(notebook)


def table(text):
    """A table of a notebook, its formulas set."""
    from lorabook.page import cards

    return cards.table("".join(text))


def recorded(output):
    """The record of a verdict in an output, or None."""
    return output.get("metadata", {}).get(RECORD)


def joined(cells):
    """The cells of a page, those with verdicts joined where only anchors stand between them.

    What fails as printed keeps a card of its own, and so a cell.
    """
    kept = []
    for cell in cells:
        between = bool(kept) and only_anchors(kept[-1])
        last = kept[-1 - between] if len(kept) > between else {}
        if not (routine(cell) and routine(last)):
            kept.append(dict(cell))
            continue
        if between:  # the anchors go before the cell that both become
            kept.insert(-1, kept.pop())
        last["source"] = "".join(last["source"]) + "\n\n" + "".join(cell["source"])
        last["outputs"] = [*last["outputs"], *cell["outputs"]]
    return kept


def only_anchors(cell):
    return cell["cell_type"] == "markdown" and not ANCHOR.sub("", "".join(cell["source"])).strip()


def routine(cell):
    """Whether a cell shows verdicts, none of them a failure."""
    found = [recorded(output)["verdict"] for output in cell.get("outputs", []) if recorded(output)]
    return bool(found) and "fails as printed" not in found


def known(record, page):
    """The verdict that a record holds; one on a claim that no list has is a warning, and so stops the book."""
    from lorabook.page import claims, lists

    record = dict(record)
    try:
        return claims.Verdict(lists.find(record.pop("id")), **record)
    except (lists.ClaimError, KeyError, TypeError) as error:
        TALK.warning("%s holds a verdict that cannot be shown: %s", page, error)


def cards_of(verdicts, address, run):
    """A card, or one table for several."""
    from lorabook.page import cards

    if len(verdicts) > 1:
        return cards.together(verdicts, address, run)
    return "".join(cards.card(verdict, address, run) for verdict in verdicts)


class Card(Directive):
    """The card of one claim, from the notebook that holds its record."""

    required_arguments = 2

    def run(self):
        env, (notebook, name) = self.state.document.settings.env, self.arguments
        place = Path(env.doc2path(env.docname)).parent / f"{notebook}.ipynb"
        env.note_dependency(str(place))
        cells = json.loads(place.read_text(encoding="utf-8"))["cells"] if place.is_file() else []
        records = filter(None, (recorded(output) for cell in cells for output in cell.get("outputs", [])))
        verdict = next((known(record, env.docname) for record in records if record["id"] == name), None)
        if verdict is None:
            raise self.error(f"{notebook} has no verdict on {name}.")
        shown = nodes.container()
        text = cards_of([verdict], "", "")
        self.state.nested_parse(StringList(text.splitlines(), str(place)), self.content_offset, shown)
        return shown.children


def setup(app):
    app.connect("source-read", draw, priority=550)  # after the page has taken its prose
    app.add_directive("verdict", Card)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
