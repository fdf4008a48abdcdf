"""Sphinx directive: a drawing that a tool wrote, inside the page so that it takes the page's ink.

```{drawing} figures/ranks.svg
:alt: What it shows, for readers who do not see it.
The question and its answer.
```
"""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives


class Drawing(Directive):
    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}
    has_content = True

    def run(self):
        from lorabook.page.figures import Row  # a book without drawings needs no package

        env = self.state.document.settings.env
        place = Path(env.doc2path(env.docname)).parent / self.arguments[0]
        env.note_dependency(str(place))
        if not place.is_file():
            raise self.error(f"There is no drawing {self.arguments[0]}.")
        if not self.content or not self.options.get("alt"):
            raise self.error(f"The drawing {self.arguments[0]} needs a caption and a description (alt).")
        row = Row(" ".join(self.content), (self.options["alt"],), (place.read_text(encoding="utf-8"),))
        return [nodes.raw("", row._repr_mimebundle_()["text/html"], format="html")]


def setup(app):
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
