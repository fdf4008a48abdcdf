"""Sphinx extension: MathJax comes from an installed package and is copied into the site.

One file, tex-svg.js, is enough: it needs no fonts, so a page opened from disk asks no other host.
The theme's source maps, its second copy of each font and its translations, which no reader's browser loads,
stay out, the notebooks to download come without indentation, and the explorables' scripts without comments.
"""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path


def lean(script):
    """A script without comments, indentation, and blanks around signs as far as a line quotes nothing."""
    script = re.sub(r"/\*.*?\*/|^\s*//[^\n]*|\s// [^\n\"'`]*$", "", script, flags=re.S | re.M)
    parts = (re.match("([^\"'`]*)(.*)", line.strip()).groups() for line in script.splitlines())
    return "".join(re.sub(r" ?([=,;?:{}()<>*&|]+) ?", r"\1", code) + text + "\n" for code, text in parts if code + text)


def lighten(app, exception):
    """Take out of the built site what no page loads, and the white space of its notebooks."""
    site = Path(app.outdir)
    for pattern in ("*.map", "*.ttf"):
        for path in (site / "_static").rglob(pattern):
            path.unlink()
    shutil.rmtree(site / "_static/locales", ignore_errors=True)
    for path in (site / "_static").glob("explore*.js"):
        path.write_text(lean(path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in site.glob("_sources/**/*.ipynb"):
        path.write_text(
            json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False, separators=(",", ":")),
            encoding="utf-8",
        )


def setup(app):
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent
    app.config.html_static_path.append(str(package / "static/mathjax/tex-svg.js"))
    app.config.mathjax_path = "tex-svg.js"
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
