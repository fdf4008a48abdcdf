"""The page on adapters: what its blocks print and draw is what it shows, and its commands and options exist."""

import math
import re
import shlex

import pytest

from lorabook.__main__ import main
from lorabook.page import figures
from tools import adapter_page


@pytest.fixture(scope="module")
def page(root):
    return (root / adapter_page.PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn():
    """The panels of the run."""
    return []


@pytest.fixture(scope="module")
def found(page, drawn):
    """What a run of the page prints and draws; the panels are noted."""
    row = figures.row

    def noted(*panels, **words):
        drawn.extend(panels)
        return row(*panels, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "row", noted)
        return adapter_page.run(page)


def test_the_page_prints_what_it_shows(page, found):
    printed, _ = found
    shown = adapter_page.shown(page)
    assert len(printed) == len(shown) > 8
    assert [now for was, now in zip(shown, printed) if not adapter_page.same(was, now)] == []


def test_the_page_shows_what_is_drawn(root, found):
    _, drawings = found
    assert len(drawings) > 7
    for name, drawing in drawings.items():
        kept = (root / adapter_page.PAGE.parent / name).read_text(encoding="utf-8")
        assert not adapter_page.differ(kept, drawing), name


def test_every_drawing_is_on_the_page(root, page):
    kept = {f"figures/{path.name}" for path in (root / adapter_page.PAGE.parent / "figures").iterdir()}
    assert kept == set(adapter_page.DRAWING.findall(page)) and len(kept) > 7


def test_what_is_drawn_lies_within_its_panel(found, drawn):
    assert found and len(drawn) > 7
    for ax in drawn:
        low, high = ax.get_ylim()
        values = [float(y) for line in ax.lines for y in line.get_ydata() if math.isfinite(y)]
        # a line that comes down to the rounding of 0 may leave a logarithmic panel
        assert values and max(values) <= high * (1 + 1e-9) and (low <= min(values) or ax.get_yscale() == "log")


@pytest.mark.parametrize(
    "was, now, alike",
    [
        ("lost  2.4e-8", "lost  2.3e-8", True),  # rounding, which is another on each processor
        ("lost  2.4e-8", "lost  2.4e-6", False),
        ("lost  2.4e-8", "lost       0", False),
        ("loss  2.4e-3", "loss  2.3e-3", False),
        ("lost  2.4e-8", "gone  2.4e-8", False),
    ],
)
def test_what_is_printed_is_the_same_but_for_rounding(was, now, alike):
    assert adapter_page.same(was, now) == alike


DRAWING = '<svg viewBox="0 0 9 9"><path id="a1" d="M 1.25 2 L 3 4e-1" clip-path="url(#a1)"/><text>E = 0.5</text></svg>'


@pytest.mark.parametrize(
    "was, now, other",
    [
        ("1.25", "1.30", False),  # the last digits of another processor
        ("a1", "b7", False),  # names that matplotlib makes from what is drawn
        ("L 3 ", "L 9 ", True),
        (" L 3 4e-1", "", True),
        ("text>E", "text>F", True),
        ("M 1.25 2", "M 1.25 -2", True),
    ],
)
def test_drawings_differ_where_a_reader_sees_it(was, now, other):
    assert was in DRAWING and adapter_page.differ(DRAWING, DRAWING.replace(was, now)) == other


def test_a_block_that_prints_something_else_is_noticed():
    text = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert adapter_page.run(text) == (["2\n"], {}) and adapter_page.shown(text) == ["3\n"]


def test_a_command_that_fails_ends_the_run():
    with pytest.raises(SystemExit, match="does not run: lorabook inspect nowhere"):
        adapter_page.run("```sh\nlorabook inspect nowhere\n```\n\n```text\n```\n")


def test_every_command_and_option_of_the_page_exists(page, capsys):
    lines = [line for kind, code in adapter_page.BLOCK.findall(page) if kind == "sh" for line in code.splitlines()]
    commands = {shlex.split(line)[1] for line in lines if line.startswith("lorabook ")}
    assert commands == {"inspect", "truncate", "compare"}
    known = ""
    for name in commands:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        known += capsys.readouterr().out
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert len(named) > 5 and [option for option in named if option not in known] == []


def test_the_site_shows_a_drawing_in_its_own_ink_with_its_description(site, page):
    html = (site / "book" / "adapter.html").read_text(encoding="utf-8")
    (described,) = re.findall(r"figures/objectives.svg\n:alt: (.*)\n", page)
    assert f'aria-label="{described}"' in html and html.count('<figure class="lb-row"') == len(
        adapter_page.DRAWING.findall(page)
    )
    assert "currentColor" in html
