"""TeX as a line of plain letters, for search results and labels: ``\\frac{\\ln n}{g}`` becomes ``(ln n)/g``.

Not a renderer: fractions become slashes, roots and accents signs, matrices rows with semicolons. Digits are lowered
and raised; other scripts keep ``_`` and ``^``.
"""

import re
from html import unescape

LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "phi": "φ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "lVert": "‖", "rVert": "‖",
    "Vert": "‖", "|": "‖", "lvert": "|", "rvert": "|", "top": "ᵀ", "cdot": "·", "infty": "∞", "nabla": "∇",
    "partial": "∂", "sum": "Σ", "prod": "Π", "int": "∫", "langle": "⟨", "rangle": "⟩", "natural": "♮", "ell": "ℓ",
    "dots": "…", "ldots": "…", "cdots": "…", "vdots": "…", "ddots": "…", "prime": "′", "dagger": "†", "ast": "*",
    "star": "*", "perp": "⊥", "circ": "∘", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "_": "_",
    "{": "{", "}": "}", "%": "%", "&": "&", "#": "#", "$": "$", "emptyset": "∅", "lbrace": "{", "rbrace": "}",
}  # fmt: skip
RELATIONS = {
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "lesssim": "≲", "gtrsim": "≳", "ll": "≪",
    "gg": "≫", "approx": "≈", "sim": "~", "simeq": "≃", "equiv": "≡", "propto": "∝", "times": "×", "otimes": "⊗",
    "odot": "⊙", "pm": "±", "mp": "∓", "in": "∈", "notin": "∉", "subset": "⊂", "subseteq": "⊆", "to": "→", "cup": "∪",
    "rightarrow": "→", "mapsto": "↦", "Rightarrow": "⇒", "implies": "⇒", "iff": "⇔", "mid": "|", "colon": ":",
    "setminus": "∖", "oplus": "⊕", "cap": "∩", "Leftrightarrow": "⇔", "succeq": "⪰", "preceq": "⪯", "succ": "≻",
    "leftarrow": "←", "forall": "∀", "parallel": "∥", "ni": "∋", "wedge": "∧", "vee": "∨",
}  # fmt: skip
ACCENTS = {"hat": "\u0302", "widehat": "\u0302", "tilde": "\u0303", "widetilde": "\u0303", "dot": "\u0307"}
ACCENTS |= {"ddot": "\u0308", "bar": "\u0304", "overline": "\u0304", "vec": "\u20d7"}
FONTS = {"mathbf", "mathrm", "mathcal", "mathbb", "mathit", "boldsymbol", "operatorname", "text", "textbf", "textrm"}
FONTS |= {"underbrace", "overbrace", "mathsf", "textit", "mbox", "pmb", "bm"}
NOTHING = {"left", "right", "big", "Big", "bigg", "Bigg", "displaystyle", "textstyle", "limits", "!", "nonumber"}
NOTHING |= {f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in "lrm"}
SILENT = {"tag", "label", "phantom", "vphantom", "hphantom", "hspace", "vspace", "color"}  # with their argument
BLANKS = {",", ";", ":", " ", "quad", "qquad", "enspace", "thinspace", "\n"}
LOW, HIGH = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋"), str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.S)
FORMULA = re.compile(r"\$([^$]*)\$|\\\((.*?)\\\)|\\\[(.*?)\\\]", re.S)


def untexed(text):
    """A text with its formulas, in dollars or in TeX's brackets, as plain letters."""
    return FORMULA.sub(lambda found: letters_of(next(filter(None, found.groups()), "")), text)


def unmarked(text):
    """The same of a text in which letters are set as HTML, with links and code as MyST."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")
    while found := re.search(r"<(sub|sup)>([^<]*)</\1>", text):
        text = text.replace(found[0], script("_" if found[1] == "sub" else "^", found[2]))
    return unescape(untexed(text))


def letters_of(tex):
    """One formula without its dollars."""
    line = " ".join(_until(TOKEN.findall(tex)[::-1], None).split())
    line = re.sub(r"(?<=[(\[⟨]) (?=\S)| (?=[)\],;.⟩])", "", line)
    line = re.sub(r"\b(ln|log|exp|sinh?|cosh?|tanh?|min|max|det|tr|Tr|rank|diag|span) (?=[(_^\[])", r"\1", line)
    return line.replace("\0", "")  # before a fraction, whose bracket is no function's


def script(kind, text):
    """A subscript (``_``) or superscript (``^``) of a line."""
    text = text.strip()
    if text in ("ᵀ", "T", "*", "′", "†") and kind == "^":
        return text.replace("T", "ᵀ")
    if re.fullmatch(r"[+-]?\d+|[+-]", text):
        return text.translate(LOW if kind == "_" else HIGH)
    return f"{kind}{text}" if re.fullmatch(r"[\w*′♮]+", text) else f"{kind}({text})"


def _until(tokens, end):
    """The tokens (last first) up to ``end``, which is taken too."""
    parts = []
    while tokens and tokens[-1] != end:
        parts.append(_one(tokens))
    if tokens:
        tokens.pop()
    return "".join(parts)


def _argument(tokens):
    while tokens and tokens[-1].isspace():
        tokens.pop()
    return _one(tokens).strip() if tokens else ""


def _group(tokens):
    """The name in braces after ``\\begin`` or ``\\end``."""
    return _argument(tokens).replace(" ", "")


def _one(tokens):
    """What the next token and its arguments become."""
    token = tokens.pop()
    if token == "{":
        return _until(tokens, "}")
    if token in "_^":
        return script(token, _argument(tokens))
    if token.isspace() or token == "~":
        return " "
    if token in "=<>":
        return f" {token} "
    if not token.startswith("\\") or len(token) == 1:
        return token
    name = token[1:]
    if name == "begin":
        return _rows(_group(tokens), tokens)
    if name in ("frac", "dfrac", "tfrac", "cfrac"):
        over, under = _argument(tokens), _argument(tokens)
        return f"\0{_bound(over)}/{_bound(under, product=True)} "
    if name == "sqrt":
        degree = _until(tokens, "]") if tokens and tokens[-1] == "[" and tokens.pop() else ""
        return f"{script('^', degree) if degree else ''}√{_bound(_argument(tokens), root=True)}"
    if name in ("binom", "tbinom"):
        return f"C({_argument(tokens)}, {_argument(tokens)})"
    if name in ACCENTS:
        return _argument(tokens) + ACCENTS[name]
    if name in FONTS:
        return _until(tokens, "}") if tokens and tokens[-1] == "{" and tokens.pop() else _argument(tokens)
    if name in SILENT:
        _argument(tokens)
        return ""
    if name in NOTHING:
        if name in ("left", "right") and tokens and tokens[-1] == ".":
            tokens.pop()
        return ""
    if name in BLANKS:
        return " "
    if name == "\\":
        return "; "
    if name[0].isalpha() and len(tokens) > 1 and tokens[-1].isspace() and tokens[-2] not in "+-":
        tokens.pop()  # it only ends the name
    return LETTERS.get(name) or f" {RELATIONS.get(name, name)} "


def _rows(kind, tokens):
    """A matrix in brackets, its cells apart by commas; the lines of other environments one after the other."""
    if kind == "array":
        _argument(tokens)
    parts, matrix = [], kind.endswith("matrix")
    while tokens and tokens[-1] != "\\end":
        parts.append(", " if tokens[-1] == "&" and matrix and tokens.pop() else _one(tokens))
    if tokens:
        tokens.pop()
        _group(tokens)
    inside = "".join(part for part in parts if part != "&").strip().removesuffix(";").strip()
    return f"({inside})" if matrix else inside


def _bound(text, product=False, root=False):
    """In brackets where it would fall apart beside a slash or under a root."""
    inner, before = text, None
    while inner != before:
        before, inner = inner, re.sub(r"\([^()]*\)|‖[^‖]*‖|\|[^|]*\|", "", inner)
    apart = re.search(r"[\s+\-/=<>·]", inner.strip())
    if product:  # a factor in brackets would seem to stand beside the fraction
        apart = apart or re.search(r"(?<!ln)(?<!log)(?<!^)[(]", text)
    if root:
        apart = apart or len(re.sub(r"_\w+|[\d₀-₉⁰-⁹.*]", "", inner)) > 1
    return f"({text})" if apart else text
