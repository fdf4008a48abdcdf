"""A panel as an SVG for a page: in the page's ink, and in few letters, since a book has a hundred of them."""

from __future__ import annotations

import html
import io
import re

from matplotlib.axes import Axes


def drawing(ax: Axes, ink: str) -> str:
    """A panel's SVG without prologue, date or size; what is drawn in ``ink`` takes the page's."""
    buffer = io.StringIO()
    ax.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    outside = r'\A.*?(?=<svg)| (?:width|height)="[\d.]+pt"|<metadata>.*?</metadata>'
    inner = re.sub(outside, "", buffer.getvalue(), flags=re.S)
    return _short(re.sub(r"\n\s*", "\n", inner.replace(ink, "currentColor")))


def _short(drawing: str) -> str:
    """The same drawing in fewer letters, its points to a hundredth: a book has a hundred of them."""
    near = lambda number: f"{round(float(number[0]), 2):g}"
    tight = lambda places: re.sub(r"\d+\.\d+", near, re.sub(r"\s*([A-Za-z])\s*", r"\1", places[0]))
    drawing = re.sub(r'\b(?:d|x|y)="[^"]*"', tight, drawing).replace("DejaVuSans-", "g")
    drawing = re.sub(r' id="[A-Za-z.]+(?:2d)?_\d+"|<!--.*?-->\n', "", drawing)  # names that nothing refers to
    drawing = re.sub(r"translate\([^)]*\)", lambda place: re.sub(r"\d+\.\d+", near, place[0]), drawing)
    drawing = drawing.replace("xlink:href", "href")
    return re.sub(r'style="[^"]*"', lambda style: re.sub("(?<=[:;]) ", "", style[0]), drawing)


def named(drawing: str, text: str, prefix: str) -> str:
    """A drawing that a screen reader reads as ``text``, whose ids begin with ``prefix``, its own on a page."""
    drawing = re.sub(r'\bid="', f'id="{prefix}', drawing)
    drawing = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}", drawing)
    return drawing.replace("<svg", f'<svg role="img" aria-label="{html.escape(text, quote=True)}" ', 1)


def share_letters(page: str) -> str:
    """A figure whose panels share their letters: each is defined in the first panel that has it."""
    page, seen = re.sub(r"\b(f[\da-f]+)-\d+-(g[\w-]+)", r"\1-\2", page), set()
    first = lambda found: "" if found[1] in seen or seen.add(found[1]) else found[0]
    page = re.sub(r'<path id="(f[\da-f]+-g[\w-]+)"[^>]*/>\n', first, page)
    return page.replace("<defs>\n</defs>\n", "")
