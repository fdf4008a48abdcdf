"""Sphinx extension: a page made from a notebook takes its prose from the text beside it.

`X.ipynb` holds its prose in plain form, for every other viewer; `X.md` holds it with what Sphinx knows.
"""

from pathlib import Path

import jupytext
import nbformat

NOT_RUN = "not-run"  # the tag of a note that the build adds


def take(app, page, source):
    text = Path(app.confdir) / f"{page}.md"
    if not str(app.env.doc2path(page)).endswith(".ipynb") or not text.is_file():
        return
    written = (cell.source for cell in jupytext.read(text).cells if cell.cell_type == "markdown")
    notebook = nbformat.reads(source[0], as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and NOT_RUN not in cell.metadata.get("tags", []):
            cell.source = next(written)
    source[0] = nbformat.writes(notebook)


def setup(app):
    app.connect("source-read", take)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
