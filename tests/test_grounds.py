"""What rests on what: drawn after its grounds, as a list too, and read by keyboard, on a phone, in the dark and on
paper."""

import os
import re
import subprocess
import sys

import networkx
import pytest
from bs4 import BeautifulSoup

from lorabook.page import claims, grounds, ledger, lists

DRAWN = [name for name in ledger.CHAPTERS if any(claim.rests_on for claim in lists.load(name).values())]


@pytest.fixture(scope="module")
def words():
    return {verdict.claim.id: verdict.verdict for _, verdict in ledger.collect()}


@pytest.mark.parametrize("source", DRAWN)
def test_a_claim_stands_below_all_that_it_rests_on(source):
    names, pairs = grounds.graph(source)
    place = {name: k for k, name in enumerate(names)}
    assert len(place) == len(names) and all(place[ground] < place[name] for ground, name in pairs)
    stated = networkx.DiGraph((ground, one.id) for one in lists.load(source).values() for ground in one.rests_on)
    assert set(names) == set(stated) and set(pairs) <= set(stated.edges)
    assert networkx.transitive_closure(networkx.DiGraph(pairs)).edges == networkx.transitive_closure(stated).edges


def test_the_order_depends_on_the_list_alone():
    """Sets of names have another order in each process, so others are asked."""
    code = "from lorabook.page import grounds; print(grounds.graph('rushka'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{grounds.graph('rushka')}\n"}


def test_moving_a_claim_between_its_grounds_and_its_followers_shortens_arcs():
    pairs = [("a", "b"), ("c", "d"), ("a", "e")]
    assert grounds.length(["a", "c", "b", "e", "d"], pairs) == 8
    better = grounds.settled(["a", "c", "b", "e", "d"], pairs)
    assert grounds.length(better, pairs) == 4 and better.index("c") + 1 == better.index("d")


@pytest.mark.parametrize("source", DRAWN)
def test_the_drawing_and_the_list_name_the_same_claims_with_their_verdicts(source, words):
    raw = grounds.drawing(source, words, lambda name: f"there#{name}")
    html = BeautifulSoup(raw, "html.parser")
    drawn, listed = html.select("svg a"), html.select("li > a:first-child")
    names, pairs = grounds.graph(source)
    for links in (drawn, listed):
        assert [link["data-claim"] for link in links] == names
        assert [link["href"] for link in links] == [f"there#{name}" for name in names]
    for link in drawn:
        word = words[link["data-claim"]]
        assert link["aria-label"].endswith(f": {word}") and f"lb-{claims.VERDICTS[word]}" in link["class"]
    shapes = [shape for _, shape in re.findall(r'<g transform="([^"]+)">(.*?)</g>', raw)]
    assert shapes == [grounds.SHAPES[words[name]] for name in names]
    assert len(html.select(".lb-arcs path")) == len(pairs)


def test_each_verdict_has_a_shape_of_its_own_and_the_legend_shows_all():
    assert set(grounds.SHAPES) == set(claims.VERDICTS) and len(set(grounds.SHAPES.values())) == 5
    assert all(word in grounds.legend() for word in claims.VERDICTS)


def test_the_failures_that_carry_something_are_named(words):
    said = grounds.weak(words, str)
    for name in re.findall(r'data-claim="([^"]+)"', said):
        assert words[name] == claims.FAILS
    assert "none" in grounds.weak(dict.fromkeys(words, claims.HOLDS), str)


# In a browser

PAGE = "book/grounds.html"


@pytest.fixture
def page(site, browser):
    opened = []

    def open_page(**settings):
        opened.append(browser.new_context(**settings))
        page = opened[-1].new_page()
        page.goto((site / PAGE).as_uri())
        return page

    yield open_page
    for context in opened:
        context.close()


def test_the_keyboard_reaches_a_claim_lights_its_arcs_and_goes_there(page):
    at = page()
    first = at.locator(".lb-grounds a[data-claim='mallada.decoupling']").first
    first.focus()
    near = at.locator(".lb-grounds").first.locator(".lb-near")
    assert near.count() == len([pair for pair in grounds.graph("mallada")[1] if "mallada.decoupling" in pair])
    at.keyboard.press("Shift+Tab")
    at.keyboard.press("Tab")
    assert at.evaluate("() => document.activeElement.dataset.claim") == "mallada.decoupling"
    at.keyboard.press("Enter")
    at.wait_for_url("**/notebooks/mallada_two_phase.html#claim-mallada-decoupling")


def test_on_a_phone_the_names_are_large_enough_and_nothing_is_cut(page):
    at = page(viewport={"width": 390, "height": 800})
    sizes = at.evaluate(
        "() => [...document.querySelectorAll('.lb-grounds svg text')].map(node => "
        "[node.getBoundingClientRect().right, node.getBoundingClientRect().height])"
    )
    assert max(right for right, _ in sizes) <= 390 and min(height for _, height in sizes) >= 12


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_marks_and_arcs_stand_out_from_the_ground(page, theme):
    at = page(color_scheme=theme)
    at.wait_for_function(f"() => document.documentElement.dataset.theme === '{theme}'")
    fills = at.evaluate(
        "() => [...document.querySelectorAll('.lb-legend svg')].map(node => getComputedStyle(node).stroke)"
    )
    assert len(set(fills)) == 5
    light = lambda colour: sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    ground = light(at.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    arc = light(at.evaluate("() => getComputedStyle(document.querySelector('.lb-arcs')).stroke"))
    assert min(abs(light(colour) - ground) for colour in [*fills]) > 70 and abs(arc - ground) > 70


def test_without_script_every_claim_is_a_link_and_the_list_opens(page):
    at = page(java_script_enabled=False)
    fold = at.locator(".lb-grounds details").first
    fold.locator("summary").click()
    assert fold.locator("li").count() == len(grounds.graph("mallada")[0])
    fold.locator("li a").first.click()
    at.wait_for_url("**/notebooks/*.html#claim-*")


def test_on_paper_the_drawing_is_there(page):
    at = page(viewport={"width": 794, "height": 1123})
    at.emulate_media(media="print")
    box = at.locator(".lb-grounds svg").first.bounding_box()
    assert box["width"] > 300 and at.locator(".lb-grounds details ul").first.is_hidden()
