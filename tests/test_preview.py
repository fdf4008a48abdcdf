"""A link to a claim or a letter shows what it leads to, on hover, focus and a first tap; without a script it is one."""

import re

import preview
import pytest

PAGE = "notebooks/lora_one_alignment.html"
LINK = "a[href='#claim-rushka-half-time']"


@pytest.fixture
def opened(site, browser):
    contexts = []

    def open_page(name, **settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    "tex, formula, there",
    [
        (r"\kappa", r"\kappa = 3", True),
        (r"\kappa", r"\kappa_G", False),
        (r"\Sigma", r"\Sigma\Delta", True),
        (r"\Sigma", r"\Sigma^{1/2}", False),
        ("r", r"r \ge r^*", True),
        ("r", r"r^* = 2", False),
        ("r^*", r"r \ge r^*", True),
        ("r", r"\operatorname{tr}", False),
        ("B", "BA", False),
        ("B", "B = 0", True),
        ("G", r"G^\natural", False),
    ],
)
def test_a_letter_is_not_found_within_another_one(tex, formula, there):
    assert bool(preview.pattern(tex).search(formula)) == there


def test_every_letter_of_the_table_has_a_meaning_and_but_for_one_chapters(root):
    rows = re.findall(r"^\| \$.*\| `", (root / "book/notation.md").read_text(encoding="utf-8"), re.M)
    known = preview.letters(str(root))
    assert len(known) == len(rows) > 10 and all(meaning for _, meaning, _ in known.values())
    assert [name for name, (*_, pages) in known.items() if not pages] == ["letter-U"]


def test_a_page_holds_what_it_links_to_and_each_letter_once(site, soup):
    for path in sorted(site.glob("notebooks/*.html")):
        page = soup(path)
        held = [part["data-of"] for part in page.select("template.lb-previews > div")]
        links = [link["href"].partition("#")[2] for link in page.select(".bd-article a[href*='#claim-']")]
        if path.stem != "ledger":
            assert set(links) <= set(held) and len(held) == len(set(held)), path.stem
        symbols = [link["href"].partition("#")[2] for link in page.select("a.lb-symbol")]
        assert len(symbols) == len(set(symbols)) and set(symbols) <= set(held), path.stem
        assert all(re.search(r".; .+: ", link.get("aria-label", "")) for link in page.select("a.lb-symbol")), path.stem


def test_the_pointer_opens_a_preview_that_stays_under_it_and_escape_closes_it(opened):
    page = opened("notebooks/rushka_low_rank.html")
    box, link = page.locator("#lb-preview"), page.locator(LINK).first
    link.hover()
    box.wait_for()
    assert "half learned" in box.inner_text() and "holds" in box.inner_text()
    assert link.get_attribute("aria-describedby") == "lb-preview"
    box.hover()
    page.wait_for_timeout(400)
    assert box.is_visible()
    page.keyboard.press("Escape")
    assert box.is_hidden() and link.get_attribute("aria-describedby") is None


def test_the_focus_opens_a_preview_and_leaving_closes_it(opened):
    page = opened("notebooks/rushka_low_rank.html", color_scheme="dark")
    page.locator(LINK).first.focus()
    box = page.locator("#lb-preview")
    assert box.is_visible()
    colours = box.evaluate("node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    assert light[0] - light[1] > 300  # light on dark
    page.keyboard.press("Tab")
    page.locator(".bd-article h1").click()
    assert box.is_hidden()


def test_a_tap_opens_a_preview_and_a_second_one_goes_there(opened):
    page = opened("notebooks/rushka_low_rank.html", viewport={"width": 390, "height": 800}, has_touch=True)
    link, box = page.locator(LINK).first, page.locator("#lb-preview")
    link.tap()
    box.wait_for()
    assert "Tap again" in box.inner_text() and "#" not in page.url
    at = box.bounding_box()
    assert at["x"] >= 0 and at["x"] + at["width"] <= 390
    page.locator("h2#exercises, section#exercises > h2").first.tap()
    assert box.is_hidden()
    link.tap()
    link.tap()
    page.wait_for_url("**#claim-rushka-half-time")


def test_a_letter_shows_its_meaning_and_leads_to_the_notation(opened):
    page = opened(PAGE)
    symbol = page.locator("a.lb-symbol[href$='#letter-kappa']").first
    symbol.focus()
    assert "condition number" in page.locator("#lb-preview").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url("**/book/notation.html#letter-kappa")
    assert page.locator("tr#letter-kappa").is_visible()


def test_without_script_and_on_paper_links_are_links(opened):
    page = opened(PAGE, java_script_enabled=False)
    assert page.locator("#lb-preview").count() == 0
    page.locator("a.lb-symbol").first.click()
    page.wait_for_url("**/book/notation.html#letter-*")
    page = opened("notebooks/rushka_low_rank.html")
    page.locator(LINK).first.focus()
    page.emulate_media(media="print")
    assert page.locator("#lb-preview").is_hidden()


def test_formulas_are_set_on_a_page_that_has_none_of_its_own(opened):
    page = opened("book/grounds.html")
    page.evaluate("() => window.MathJax.startup.promise")
    page.locator("svg a[data-claim='mallada.decoupling']").first.focus()
    page.locator("#lb-preview mjx-container").first.wait_for()
    assert "\\(" not in page.locator("#lb-preview").inner_text()


def test_a_preview_has_no_fault_that_axe_knows(opened, root):
    from importlib.util import find_spec
    from pathlib import Path

    page = opened("notebooks/rushka_low_rank.html")
    page.locator(LINK).first.focus()
    page.evaluate((Path(find_spec("axe_playwright_python").origin).parent / "axe.min.js").read_text())
    found = page.evaluate("() => axe.run('#lb-preview', {resultTypes: ['violations']})")
    assert [one["id"] for one in found["violations"] if one["impact"] in ("serious", "critical")] == []
