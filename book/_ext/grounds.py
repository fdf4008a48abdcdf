"""Sphinx directive: what rests on what among the claims of a source, drawn from the claim lists.

```{grounds} mallada
```

Without a source it shows which mark means which verdict, and the failures on which something rests.
"""

from docutils import nodes
from docutils.parsers.rst import Directive
from programs import address, found


class Grounds(Directive):
    optional_arguments = 1

    def run(self):
        from lorabook.page import grounds, lists

        env = self.state.document.settings.env
        env.note_reread()  # the verdicts stand on other pages
        places = found(env.app)
        words = {verdict.claim.id: verdict.verdict for _, verdict in places}
        links = {
            verdict.claim.id: env.app.builder.get_relative_uri(env.docname, page)
            + address(env.app, verdict.claim.id, page)[len(env.app.builder.get_target_uri(page)) :]
            for page, verdict in places
        }
        try:
            if self.arguments:
                html = grounds.drawing(self.arguments[0], words, links.__getitem__)
            else:
                html = grounds.legend() + grounds.weak(words, links.__getitem__)
        except (KeyError, lists.ClaimError) as error:
            raise self.error(f"What rests on what cannot be drawn: {error}.") from None
        return [nodes.raw("", html, format="html")]


def setup(app):
    app.add_directive("grounds", Grounds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
