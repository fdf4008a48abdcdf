"""Sphinx directive: an explorable of the page Explore, inside the chapter that it belongs to.

```{explorable} mallada
```

Explore's notebook makes each explorable in three cells: a fixed figure, the place that a script fills, a table.  Here
the same three stand in the same order, so that without script the figure and the table remain.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from verdicts import table

COLLECTED = "notebooks/explore"
CLOSED_FORM = ("rushka", "mallada")  # those that also draw lorabook.riccati
STYLE = '<link rel="stylesheet" href="../_static/explore.css">'


def scripts(kind):
    """What a page needs to draw one explorable, in the order in which it has to be read."""
    names = ["explore_axes", "explore", *["explore_riccati"] * (kind in CLOSED_FORM), f"explore_{kind}"]
    return STYLE + "".join(f'<script defer src="../_static/{name}.js"></script>' for name in names)


def parts(notebook, kind):
    """The outputs of the three cells: figure and place as HTML, the table as Markdown; None where there is no such."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = [[output.get("data", {}) for output in cell["outputs"]] for cell in cells]
    taken = lambda datas, mime: next(("".join(data[mime]) for data in datas if mime in data), None)
    for before, here, after in zip(shown, shown[1:], shown[2:]):
        place = taken(here, "text/html")
        if place and f'data-explore="{kind}"' in place:
            return taken(before, "text/html"), place, taken(after, "text/markdown")
    return None


class Explorable(Directive):
    required_arguments = 1

    def run(self):
        env, kind = self.state.document.settings.env, self.arguments[0]
        path = Path(env.doc2path(COLLECTED))
        env.note_dependency(str(path))
        found = parts(json.loads(path.read_text(encoding="utf-8")), kind)
        if not found or not all(found):
            raise self.error(f"{COLLECTED} has no explorable {kind} with a figure before it and a table after it.")
        figure, place, rows = found
        cells = [nodes.container("", nodes.raw("", part, format="html"), classes=["cell"]) for part in (figure, place)]
        last = nodes.container(classes=["cell"])
        self.state.nested_parse(StringList(table(rows).splitlines(), str(path)), self.content_offset, last)
        return [*cells, last, nodes.raw("", scripts(kind), format="html")]


def setup(app):
    app.add_directive("explorable", Explorable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
