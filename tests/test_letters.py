"""Plain formulas become letters, bars and subscripts; words, numbers and TeX stay as they are."""

import html
import re

import pytest

from lorabook.page import ledger, lists
from lorabook.page.letters import typeset

# What a reader should not meet on a page: a letter's English name, doubled bars, a bare subscript, a typed inequality.
RAW = re.compile(
    r"\b(?:alpha|beta|gamma|delta|epsilon|eta|theta|kappa|lambda|mu|nu|rho|sigma|tau|omega|Delta|Sigma)\b|\|\||[<>][=~]|&[lg]t;[=~]|\w_\w|\w\^\w"
)


@pytest.mark.parametrize(
    "plain, shown",
    [
        ("over delta_w, ||F||^2", "over δ<sub>w</sub>, ‖F‖<sup>2</sup>"),
        ("s1 t = 0.05", "s<sub>1</sub> t = 0.05"),
        ("4 sigma sigma_W2", "4 σ σ<sub>W<sub>2</sub></sub>"),
        ("hidden in >~, r >= r*, 2 r <= d", "hidden in ≳, r ≥ r*, 2 r ≤ d"),
        ("1 - cos at T_{1/2}", "1 − cos at T<sub>1/2</sub>"),
        ("(1 - eta/4)^t lambda_r*, s_(r+1)", "(1 − η/4)<sup>t</sup> λ<sub>r*</sub>, s<sub>r+1</sub>"),
        (
            "2 lambda_min(K), |gamma_1|^2, |a0|^2",
            "2 λ<sub>min</sub>(K), |γ<sub>1</sub>|<sup>2</sup>, |a<sub>0</sub>|<sup>2</sup>",
        ),
        ("inf, wanted between -0.1 and 1e-12", "∞, wanted between −0.1 and 1e-12"),
        ("a < b & c", "a &lt; b &amp; c"),
    ],
)
def test_a_plain_formula_is_set(plain, shown):
    assert typeset(plain) == shown


@pytest.mark.parametrize(
    "text",
    [
        "$\\delta_w \\ge ||F||$",
        "`delta_w`",
        "[the map](#claim-lora_one-theorem-3-2)",
        "T5-base on MRPC",
        "a one-step start, 1e-12",
        "number of multiples",
        "information",
        "all-MiniLM-L6-v2",
        "section B.1",
        "Table 2",
    ],
)
def test_words_numbers_code_and_tex_stay(text):
    assert typeset(text) == text


def without_tex(text):
    return "".join(re.split(r"\$[^$]*\$|`[^`]*`|\]\([^()]*\)", text))


def test_no_card_and_no_erratum_shows_a_raw_formula(root):
    for _, verdict in ledger.collect(root / "notebooks"):
        claim = verdict.claim
        for text in (
            *verdict.lines(),
            claim.right,
            claim.ruled_out,
            claim.consequence,
            claim.hypotheses,
            claim.statement,
        ):
            shown = re.sub(r"<[^>]*>", "", typeset(text))
            assert not RAW.search(without_tex(shown)), f"{claim.id}: {shown}"


def test_the_check_sees_a_raw_formula():
    raw = [
        text
        for source in lists.sources()
        for claim in lists.load(source).values()
        for text in (claim.measured, claim.probe)
        if RAW.search(html.escape(text))
    ]
    assert len(raw) > 50
