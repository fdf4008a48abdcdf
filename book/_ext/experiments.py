"""Sphinx directive: the settings of an experiment as a table, or how many of them are from where.

```{settings} glue
```
"""

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
        node = self.state_machine.node.__class__()
        text = table._repr_mimebundle_()["text/markdown"].splitlines()
        self.state.nested_parse(StringList(text, source=self.state.document.current_source), 0, node)
        return node.children


def setup(app):
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
