r"""Plain formulas for a page: ``delta_w``, ``||F||`` and ``s1 t`` become letters, bars and subscripts.

Claim lists and notebooks say what is measured in plain text, which a terminal can show.  Pages show the
same text through :func:`typeset`.  What stands between dollar signs or backticks, and where a link leads, stays as it
is.
"""

from __future__ import annotations

import html
import re

NAMES = "alpha beta gamma delta epsilon eta theta kappa lambda mu nu rho sigma tau omega Delta Sigma"
GREEK = dict(zip(NAMES.split(), "αβγδεηθκλμνρστωΔΣ"))
UNTOUCHED = re.compile(r"(\$[^$]*\$|`[^`]*`|\]\([^()]*\))")
# On text that is escaped for HTML, in this order.
RULES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"&lt;=", "≤"),
        (r"&gt;=", "≥"),
        (r"&lt;~", "≲"),
        (r"&gt;~", "≳"),
        (r"\|\|", "‖"),
        (r"_\{([^{}]*)\}", r"<sub>\1</sub>"),
        (r"(?<=[A-Za-z‖])_\(([^()]*)\)", r"<sub>\1</sub>"),
        (r"(?<=[A-Za-z‖])_(\w+\*?)", r"<sub>\1</sub>"),
        (r"\b([ABEWasx])(\d)\b", r"\1<sub>\2</sub>"),
        (r"(?<=[\w)>‖|])\^\(([^()]*)\)", r"<sup>\1</sup>"),
        (r"(?<=[\w)>‖|])\^(\w+)", r"<sup>\1</sup>"),
        (rf"\b({'|'.join(GREEK)})\b", lambda found: GREEK[found[1]]),
        (r"(?<=[\w)>]) - (?=[\w(|‖])", " − "),
        (r"(?<![\w.)>-])-(?=[\d(])", "−"),
        (r"\binf\b", "∞"),
    )
]


def typeset(text: str) -> str:
    """``text`` with its plain formulas as HTML."""
    return "".join(part if k % 2 else _formulas(part) for k, part in enumerate(UNTOUCHED.split(text)))


def capital(text: str) -> str:
    """With a capital at the start, unless that is a letter of a formula."""
    first = re.match(r"[a-z][a-z'-]+(?!\w)|a ", text)
    return text if not first or first[0] in GREEK or first[0] == "ln" else text[0].upper() + text[1:]


def sentence(text: str) -> str:
    """With a capital at the start and a full stop at the end, which may stand before a closing bracket."""
    return capital(text) + ("." if text and not text.rstrip(")").endswith((".", "!", "?")) else "")


def _formulas(text: str) -> str:
    text = html.escape(text, quote=False)
    for pattern, new in RULES:
        text = pattern.sub(new, text)
    return text
