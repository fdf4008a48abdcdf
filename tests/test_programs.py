"""Pages as Markdown, made from their finished HTML: formulas in dollars, tables, lists, code, and no buttons."""

import programs
import pytest
from bs4 import BeautifulSoup


@pytest.mark.parametrize(
    "html, text",
    [
        ("<h2>Title<a class='headerlink' href='#t'>#</a></h2><p>One\n line.</p>", "## Title\n\nOne line."),
        (r'<p>with <span class="math">\(\alpha_1\)</span>.</p>', r"with $\alpha_1$."),
        (
            r'<div class="math"><span class="eqno">(Eq. 1)<a class="headerlink">#</a></span>\[x &lt; 1\]</div>',
            "$$\nx < 1\n$$",
        ),
        ('<div><p class="admonition-title">Exercise</p><p>Guess.</p></div>', "**Exercise**\n\nGuess."),
        ("<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li></ul>", "- a\n- b\n\n  - c"),
        ("<ol><li>a <em>b</em></li><li><strong>c</strong></li></ol>", "1. a *b*\n2. **c**"),
        (
            "<table><tr><th>x</th><th>y</th></tr><tr><td>1|2</td><td>3</td></tr></table>",
            "| x | y |\n|---|---|\n| 1\\|2 | 3 |",
        ),
        ('<div class="highlight-ipython3"><div><pre><span>x</span> = 1\n</pre></div></div>', "```python\nx = 1\n```"),
        (
            '<p><a href="../book/a.html#b">there</a> <a href="https://x.org/a.html">away</a></p>',
            "[there](../book/a.md#b) [away](https://x.org/a.html)",
        ),
        ("<blockquote><p>said</p><p>twice</p></blockquote>", "> said\n>\n> twice"),
        (
            '<figure><svg aria-label="Two lines."><text>t</text></svg><figcaption>What?</figcaption></figure>',
            "What?\n\n(Picture: Two lines.)",
        ),
        ("<p>x<sub>1</sub> and <code>a_b</code></p>", "x<sub>1</sub> and `a_b`"),
        ('<details class="hide"><summary>Show code</summary><pre>x</pre></details>', "```\nx\n```"),
        ("<details><summary>Numbers</summary><ul><li><p>1</p></li></ul></details>", "**Numbers**\n\n- 1"),
        ('<p><span class="lb-badge">holds</span> <span class="lb-dispute"><a href="x">No</a></span></p>', "**holds**"),
        ("<p>a</p><script>let x;</script><button>Copy</button><form>f</form>", "a"),
    ],
)
def test_a_piece_of_a_page_becomes_markdown(html, text):
    article = BeautifulSoup(f"<article>{html}</article>", "html.parser").article
    assert programs.markdown(article) == text


def test_the_words_of_a_page_have_formulas_as_letters_and_blanks_between_blocks():
    html = r"""<h2>Rank</h2><p>At <span class="math">\(\frac{\ln n}{g}\)</span>, s<sub>1</sub> <em>t</em>:</p>
    <ul><li><p>a</p></li><li><p>b<a class="headerlink">#</a></p></li></ul>
    <div class="math">\[X \neq 0\]</div><pre>code</pre>"""
    article = BeautifulSoup(f"<article>{html}</article>", "html.parser").article
    assert programs.plain(article) == "Rank At (ln n)/g, s₁ t: a b X ≠ 0"
