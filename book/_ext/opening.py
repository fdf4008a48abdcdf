"""Sphinx extension: a chapter opens with its question and the figure that answers it.

The question is the first paragraph under the title.  The figure is made further down, by the cell tagged `opening`: on
the page it stands below the question, and a line in its old place leads back to it.  The same figure can open another
page, with a caption of its own:

```{opening} ../notebooks/one_dynamics
:panels: 1
The question and its answer.
```
"""

import json
import re
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

TAG = "opening"
BACK = '<p class="lb-back"><a href="#figure-1">Figure 1</a>, at the head of this page, shows this.</p>'
PANEL = re.compile(r'<div class="lb-panel">.*?</svg>\s*</div>', re.S)
CAPTION = re.compile(r'(?<=<figcaption>).*?(?=<a class="lb-data"|</figcaption>)', re.S)


def opener(notebook):
    """The cell whose figure opens the page, or None."""
    return next((cell for cell in notebook["cells"] if TAG in cell["metadata"].get("tags", [])), None)


def lift(app, page, source):
    """Move the opening figure below the first paragraph of the page."""
    if not str(app.env.doc2path(page)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    cell = opener(notebook)
    if cell is None:
        return
    title, question, rest = "".join(notebook["cells"][0]["source"]).split("\n\n", 2)
    figure = json.loads(json.dumps(cell)) | {"id": "opening"}
    cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": {"text/html": BACK}}]
    prose = lambda text, name: {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
    head = prose(f"{title}\n\n:::{{div}} lb-question\n{question}\n:::", "question")
    notebook["cells"][:1] = [head, figure, prose(rest, "answer")]
    source[0] = json.dumps(notebook)


class Opening(Directive):
    """The opening figure of a notebook: all its panels or the first ones, under a caption of this page."""

    required_arguments = 1
    option_spec = {"panels": directives.positive_int}
    has_content = True

    def run(self):
        env = self.state.document.settings.env
        place = Path(env.doc2path(env.docname)).parent / f"{self.arguments[0]}.ipynb"
        env.note_dependency(str(place))
        cell = opener(json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else None
        if cell is None or not self.content:
            raise self.error(f"{self.arguments[0]} has no opening figure, or the caption is missing.")
        figure = next("".join(out["data"]["text/html"]) for out in cell["outputs"] if "text/html" in out["data"])
        kept = PANEL.findall(figure)[: self.options.get("panels")]
        figure = PANEL.sub(lambda panel: panel[0] if panel[0] in kept else "", figure)
        figure = CAPTION.sub(lambda _: escape(" ".join(self.content)) + " ", figure)  # before the link to the data
        return [nodes.raw("", figure, format="html")]


def setup(app):
    app.connect("source-read", lift, priority=600)  # after the page has taken its prose
    app.add_directive(TAG, Opening)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
