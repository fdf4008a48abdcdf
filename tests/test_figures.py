"""Figures: drawings that follow the page's ink, that readers without sight get told, and that do not clash."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lorabook.page import figures

X = torch.linspace(0.1, 1, 20, dtype=torch.float64)


def a_panel(**scales):
    return figures.panel("time t", "loss", "A title", **scales)


def a_row(caption="What? That.", alt=("Falling curves.",), panels=None):
    return figures.row(
        *(panels or [figures.curves(a_panel(), X, [X, X**2], ["a", "b"], "rushka", [X, X**2]) for _ in alt]),
        caption=caption,
        alt=alt,
    )


def page(row):
    return row._repr_mimebundle_()["text/html"]


def ids(html):
    return re.findall(r'\bid="([^"]+)"', html)


def test_a_panel_is_labelled_and_left_to_no_window():
    before = plt.get_fignums()
    ax = a_panel(xscale="log", ylim=(0, 2))
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("time t", "loss", "A title")
    assert ax.get_xscale() == "log" and ax.get_ylim() == (0, 2) and plt.get_fignums() == before


@pytest.mark.parametrize("source", figures.COLOURS)
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_a_family_begins_with_its_sources_colour_and_has_no_twins(source, count):
    colours = figures.family(source, count)
    assert colours[0] == figures.COLOURS[source] and len(colours) == len(set(colours)) == count
    assert faint(colours, GROUNDS, GRAPHICS) == []


# ------------------------------------------------------------ contrast, by the rules of WCAG 2.1, level AA
GRAPHICS, TEXT = 3.0, 4.5
GROUNDS = {
    "light": "#ffffff",
    "dark": "#14181e",
    "dark edition": "#121212",
}  # of the theme, and of the book in one file


def luminance(colour):
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def faint(colours, grounds, least):
    """The colours that stand out too little from a ground."""
    found = []
    for colour in colours:
        for name, ground in grounds.items():
            low, high = sorted((luminance(colour), luminance(ground)))
            found += [f"{colour} on {name}"] if (high + 0.05) / (low + 0.05) < least else []
    return found


def palettes(path):
    """The colours a style sheet names for the light and for the dark page."""
    found = {"light": {}, "dark": {}}
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", path.read_text()):
        whose = "".join(re.findall(r'data-explore="\w+"', selector))
        for name, colour in re.findall(r"(--lb-[\w-]+): (#[0-9a-f]{6})", body):
            found["dark" if '"dark"' in selector else "light"][whose + name] = colour
    return found


def test_the_colours_of_the_book_stand_out_from_every_ground():
    assert faint([*figures.COLOURS.values(), figures.GREY], GROUNDS, GRAPHICS) == []


def test_the_colours_of_verdicts_can_be_read_as_text_and_under_text(root):
    for theme, colours in palettes(root / "book/_static/lorabook.css").items():
        ink = next(colour for name, colour in colours.items() if name.endswith("badge-ink"))
        inks = [colour for name, colour in colours.items() if not name.endswith("badge-ink")]
        assert len(inks) == 5 and faint(inks, {theme: GROUNDS[theme], "badge ink": ink}, TEXT) == []


def test_the_lines_of_the_explorables_stand_out(root):
    found = palettes(root / "book/_static/explore.css")
    light = found["light"]
    assert len(light) >= 4 and faint(light.values(), {"light": GROUNDS["light"]}, GRAPHICS) == []
    dark = light | found["dark"]  # what the dark page does not rename stays
    assert faint(dark.values(), {"dark": GROUNDS["dark"], "dark edition": GROUNDS["dark edition"]}, GRAPHICS) == []


@pytest.mark.parametrize(
    "colour, least, grounds",
    [("#bbbbbb", GRAPHICS, ["light"]), ("#333333", GRAPHICS, ["dark", "dark edition"]), ("#888888", TEXT, ["light"])],
)
def test_a_faint_colour_is_caught(colour, least, grounds):
    assert faint([colour], GROUNDS, least) == [f"{colour} on {ground}" for ground in grounds]


def test_predictions_are_dashed_ink_on_top_of_coloured_points():
    ax = figures.curves(a_panel(), X, torch.stack([X, 2 * X]), ["a", ""], "rushka", torch.stack([X, 2 * X]), every=4)
    points, dashes = ax.lines[0::2], ax.lines[1::2]
    assert [len(line.get_xdata()) for line in points] == [5, 5] and [len(line.get_xdata()) for line in dashes] == [
        20,
        20,
    ]
    assert all(line.get_linestyle() == "--" and line.get_color() == figures.INK for line in dashes)
    assert min(line.get_zorder() for line in dashes) > max(line.get_zorder() for line in points)
    assert points[0].get_marker() != points[1].get_marker() and points[0].get_color() == figures.COLOURS["rushka"]
    # an empty text keeps a curve out of the legend, and the prediction stands there once
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "prediction"]
    np.testing.assert_array_equal(dashes[1].get_ydata(), 2 * X.numpy())


def test_curves_share_their_abscissae_or_bring_their_own():
    ax = figures.curves(a_panel(), [[1, 2], [3, 4]], [[1, 2], [3, 4]], ["", ""], "kim")
    assert [list(line.get_xdata()) for line in ax.lines] == [[1, 2], [3, 4]] and ax.get_legend() is None


def test_sources_differ_in_colour_and_in_marker():
    ax = figures.by_source(
        a_panel(), {"kim": [1, 2], "rushka": [3, 4]}, {"kim": [5, 6], "rushka": [7, 8]}, {"kim": "K", "rushka": "R"}
    )
    kim, rushka = ax.lines
    assert (kim.get_color(), rushka.get_color()) == (
        figures.COLOURS["kim"],
        figures.COLOURS["rushka"],
    ) and kim.get_marker() != rushka.get_marker()
    assert (
        list(kim.get_xdata()) == [1, 2]
        and list(rushka.get_ydata()) == [7, 8]
        and [t.get_text() for t in ax.get_legend().get_texts()] == ["K", "R"]
    )


def test_labels_that_do_not_fit_the_curves_are_refused():
    with pytest.raises(ValueError):
        figures.curves(a_panel(), X, [X, X], ["a"], "rushka")


def test_the_other_kinds_draw_what_they_say():
    ax = figures.scatter(a_panel(), [X, X], [X, X**2], ["a", "b"], "mallada")
    assert len(ax.lines) == 2 and ax.lines[0].get_linestyle() == "None"
    ax = figures.reference(a_panel(), X, X, "theory")
    assert ax.lines[0].get_color() == figures.INK and ax.lines[0].get_linestyle() == "--"
    samples = torch.arange(101, dtype=torch.float64).expand(20, 101)
    ax = figures.spread(a_panel(), X, samples, "lora_one", "runs")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 50)
    bar = np.stack(ax.containers[0][2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(bar, [[5, 95]] * 20, rtol=1e-12)
    ax = figures.bands(a_panel(), X, samples[None], ["runs"], "lora_one")
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [5, 95], rtol=1e-12)
    ax = figures.strip(a_panel(), 0.5, 1.5, "strip")
    assert ax.patches[0].get_facecolor()[:3] == matplotlib.colors.to_rgb(figures.GREY)
    ax = figures.floor(a_panel(yscale="log"), 1e-16)
    assert ax.lines[0].get_linestyle() == ":" and ax.texts[0].get_text() == "rounding"


def test_every_kind_returns_its_panel():
    ax = a_panel()
    assert figures.curves(ax, X, [X], ["a"], "rushka") is ax and figures.scatter(ax, [X], [X], ["a"], "rushka") is ax
    assert figures.reference(ax, X, X, "a") is ax and figures.spread(ax, X, X[:, None] + X, "rushka", "a") is ax
    assert figures.strip(ax, 0, 1) is ax and figures.floor(ax, 1) is ax


def test_every_panel_needs_a_description():
    for alt in ([], ["one", "two"]):
        with pytest.raises(ValueError, match=f"^1 panels need 1 descriptions; got {len(alt)}.$"):
            figures.row(a_panel(), caption="c", alt=alt)


def test_a_row_is_wellformed_and_takes_its_ink_from_the_page():
    html = page(a_row(alt=("One.", "Two.")))
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(drawings) == 2 and html.count("<figure") == html.count("</figure>") == 1
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img" and root.get("viewBox") and not root.get("width") and not root.get("height")
        assert "currentColor" in drawing and figures.INK not in drawing
        assert not re.search(r"#000000|\bblack\b|<metadata|<\?xml|<!DOCTYPE", drawing)
    # nothing is fetched from anywhere
    assert not re.search(r'(?:href|src)="(?!#|data:)', html)


def test_captions_and_descriptions_are_text_and_not_markup():
    html = page(a_row(caption='B < A & "C" <script>', alt=('N < "2" & more',)))
    assert "B &lt; A &amp;" in html and "<script>" not in html

    class Labels(HTMLParser):
        found = []

        def handle_starttag(self, tag, attributes):
            self.found += [value for key, value in attributes if key == "aria-label"]

    Labels().feed(html)
    assert Labels.found == ['N < "2" & more']


@pytest.mark.parametrize(
    "caption", ["What? That.", "A caption that goes on for more than sixty-four bytes before it says "]
)
def test_no_two_drawings_of_a_page_share_an_id(caption):
    whole = page(a_row(caption=f"{caption}one", alt=("One.", "Two."))) + page(
        a_row(caption=f"{caption}two", alt=("Three.",))
    )
    assert len(ids(whole)) == len(set(ids(whole))) > 10
    # and every reference inside a drawing has its target
    wanted = re.findall(r'(?:url\(#|href="#)([^")]+)', whole)
    assert wanted and set(wanted) <= set(ids(whole))


def test_the_same_figure_is_the_same_text():
    assert page(a_row()) == page(a_row())
    assert a_row()._repr_mimebundle_()["text/plain"] == "Figure: What? That."
