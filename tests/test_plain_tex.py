"""TeX becomes a line of plain letters: no macro, no brace and no joined words are left."""

import re

import plain_tex
import pytest

from lorabook.page import letters, lists


@pytest.mark.parametrize(
    "tex, plain",
    [
        (r"t^* \lesssim \frac{\ln(1/\epsilon)}{g}", "t* ≲ ln(1/ε)/g"),
        (r"\frac12\ln\frac{1 - a}{2b}", "1/2 ln (1 - a)/2b"),
        (r"\frac{a}{2(b+c)}", "a/(2(b+c))"),
        (r"\lVert X\rVert_2 \neq 0", "‖X‖₂ ≠ 0"),
        (r"\kappa\sqrt{d/N} + \sqrt n\lVert A\rVert", "κ√(d/N) + √n‖A‖"),
        (r"\sqrt{\eta_1\eta_2}\le\sqrt{r^*}", "√(η₁η₂) ≤ √r*"),
        (r"\beta/\alpha - 1", "β/α - 1"),
        (r"\begin{pmatrix} a & c \\ c & b \end{pmatrix}", "(a, c; c, b)"),
        (r"\begin{split} a &= b\\ c &= d \end{split}", "a = b; c = d"),
        (r"\alpha^{-4}e^{-4s_1t}", "α⁻⁴e^(-4s₁t)"),
        (r"\operatorname{tr}(A^\top A)^{1/2}", "tr(AᵀA)^(1/2)"),
        (r"\left.\mathcal O(x)\right|_{\text{at } 0}", "O(x)|_(at 0)"),
        (r"\tilde{A}\in(0,\,1)", "A\u0303 ∈ (0, 1)"),
        (r"\{x_{W_2}\}", "{x_W₂}"),
        ("{", ""),
        ("", ""),
    ],
)
def test_a_formula_becomes_letters(tex, plain):
    assert plain_tex.letters_of(tex) == plain


@pytest.mark.parametrize(
    "text, plain",
    [
        (r"at most $\epsilon$, for $\kappa_G \le 2$", "at most ε, for κ_G ≤ 2"),
        (r"an \(\alpha\) of some size", "an α of some size"),
        ("no formula", "no formula"),
    ],
)
def test_the_formulas_of_a_text_become_letters(text, plain):
    assert plain_tex.untexed(text) == plain


def test_letters_set_as_html_links_and_code_become_plain():
    text = letters.typeset("4 sigma sigma_W2 <= ||F||^2, see [there](#claim-x), `kim.spine` and A^T")
    assert plain_tex.unmarked(text) == "4 σ σ_W₂ ≤ ‖F‖², see there, kim.spine and Aᵀ"


def test_no_claim_is_searched_with_tex():
    raw = re.compile(r"[\\{}$]|</?su[bp]|frac(?!t)|sqrt|\bneq|mathrm|begin\{|\bquad\b|&[a-z]+;")
    claims = [claim for source in lists.sources() for claim in lists.load(source).values()]
    said = {claim.id: plain_tex.unmarked(letters.typeset(claim.statement)) for claim in claims}
    assert sum("$" in claim.statement for claim in claims) > 100
    assert not {name: text for name, text in said.items() if raw.search(text.replace("{0}", ""))}
