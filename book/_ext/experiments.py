"""Sphinx directives: the settings of an experiment as a table, or how many of them are from where; and what came out.

```{settings} glue
```
```{results}
```
"""

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList


class Settings(Directive):
    optional_arguments = 1

    def run(self):
        from lorabook.experiments import settings

        name = self.arguments[0] if self.arguments else ""
        try:
            table = settings.load(name).table() if name else settings.count_table()
        except settings.ExperimentError as error:
            raise self.error(str(error)) from None
        env = self.state.document.settings.env
        for one in [name] if name else settings.names():
            env.note_dependency(str(settings.FOLDER / f"{one}.yml"))
        return parsed(self, table._repr_mimebundle_()["text/markdown"])


class Results(Directive):
    def run(self):
        from lorabook.experiments import results

        try:
            found = results.read()
        except results.ExperimentError as error:
            raise self.error(str(error)) from None
        if not found:
            return parsed(self, "There are none yet.")
        return parsed(self, results.table(found)._repr_mimebundle_()["text/markdown"])


def parsed(directive, text):
    """The nodes of a text in Markdown."""
    state = directive.state
    node = nodes.container()
    state.nested_parse(StringList(text.splitlines(), source=state.document.current_source), 0, node)
    return node.children


def setup(app):
    app.add_directive("settings", Settings)
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
