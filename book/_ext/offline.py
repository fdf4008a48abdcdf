"""Sphinx extension: MathJax comes from an installed package and is copied into the site.

One file, tex-svg.js, is enough: it needs no fonts, so a page opened from disk asks no other host.
The theme's source maps and its second copy of each font, which no reader's browser loads, stay out.
"""

from importlib.util import find_spec
from pathlib import Path


def lighten(app, exception):
    """Take out of the built site what no page loads."""
    for pattern in ("*.map", "*.ttf"):
        for path in (Path(app.outdir) / "_static").rglob(pattern):
            path.unlink()


def setup(app):
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent
    app.config.html_static_path.append(str(package / "static/mathjax/tex-svg.js"))
    app.config.mathjax_path = "tex-svg.js"
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
