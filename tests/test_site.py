"""The site as a reader meets it: built from the tracked files alone, opened from disk in a real browser."""

import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pandas
import pytest
import yaml
from bs4 import BeautifulSoup

from lorabook.page import claims, ledger, lists
from tools import editions

PHONE = 390
READABLE = 4.5  # WCAG AA for text
SLOW = 300_000  # milliseconds for what a busy machine loads; how long it takes is no fault


def pages(folder):
    """Every page, but not index.html, which only leads on to the front page."""
    found = sorted(path for path in folder.rglob("*.html") if "_static" not in path.parts)
    return [path for path in found if 'http-equiv="Refresh"' not in path.read_text()]


class Links(HTMLParser):
    """What a page points at, and what can be pointed at in it."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors, self.ids = [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.targets += [attributes[key] for key in ("href", "src") if attributes.get(key)]
        self.ids += [attributes["id"]] if attributes.get("id") else []
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}


def broken_links(folder):
    """Each link between pages whose file or anchor is missing."""
    links = {path: Links(path) for path in pages(folder)}
    broken = []
    for path, page in links.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            wanted = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = links[wanted].anchors if wanted in links else set()
            if not wanted.exists() or (
                parts.fragment and wanted.suffix == ".html" and unquote(parts.fragment) not in anchors
            ):
                broken.append(f"{path.relative_to(folder)} -> {target}")
    return broken


def test_links_between_pages_lead_somewhere(site):
    assert broken_links(site) == []


def test_a_broken_link_is_caught(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here"></a><a href="b.html#gone"></a><a href="c.html"></a><img src="d.png">'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p>')
    assert broken_links(tmp_path) == ["a.html -> b.html#gone", "a.html -> c.html", "a.html -> d.png"]


def test_the_download_button_gives_the_notebook_with_its_outputs(site, root):
    for page in site.glob("notebooks/*.html"):
        download = f"_sources/notebooks/{page.stem}.ipynb"
        assert f'href="../{download}"' in page.read_text()
        assert json.loads((site / download).read_text()) == json.loads(
            (root / f"notebooks/{page.stem}.ipynb").read_text()
        )


def test_the_site_is_small(site, edition):
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    # The theme and MathJax take 10 MB; a page that embeds data by mistake would show here.
    # `make book` adds the book in one file, and as a PDF that takes, packed, nine tenths of that. README has the sum.
    assert size + 1.9 * edition.stat().st_size < 46e6


# What the browser says of one open page, as one list per kind of fault.
FAULTS = r"""
() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const short = text => text.trim().replace(/\s+/g, " ").slice(0, 80);
  const tex = all('mjx-merror, merror, [data-mml-node="merror"], [data-mjx-error], [data-mml-node="mtext"][fill="red"]')
    .map(node => short(node.closest("mjx-container")?.parentElement?.textContent || node.textContent || "error"))
    .concat(all(".math").filter(node => !node.querySelector("mjx-container") && /\\[([]/.test(node.textContent))
      .map(node => short(node.textContent)));
  const dollars = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());)
    if (node.data.includes("$") && !node.parentElement.closest("code, pre, script, style, template, mjx-container"))
      dollars.push(short(node.data));
  const images = all("img").filter(node => !node.getAttribute("alt"))
    .concat(all("svg").filter(node => !node.closest("mjx-container, [aria-hidden=true], button")
      && !node.getAttribute("aria-label") && !node.querySelector("title")))
    .map(node => short(node.outerHTML));
  const wide = document.documentElement.scrollWidth > window.innerWidth
    ? [document.documentElement.scrollWidth + " pixels"] : [];

  const rgb = colour => { const c = colour.match(/[\d.]+/g).map(Number);
    return {rgb: c.slice(0, 3), alpha: c.length > 3 ? c[3] : 1}; };
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = node => { for (; node; node = node.parentElement) {
    const c = rgb(getComputedStyle(node).backgroundColor); if (c.alpha > 0.5) return c.rgb; } return [255, 255, 255]; };
  const contrast = (node, colour) => { const [a, b] = [light(rgb(colour).rgb), light(ground(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  const faint = [];
  for (const node of all(".lb-badge, .lb-claim, .lb-where, .lb-verdict p, figure.lb-row figcaption"))
    if (contrast(node, getComputedStyle(node).color) < READABLE) faint.push(short(node.textContent));
  const drawn = 'figure.lb-row svg text, figure.lb-row svg use[href*="-g"]';  // a letter is a shape that is used
  for (const node of all(drawn)) {
    const fill = getComputedStyle(node).fill;
    if (fill !== "none" && contrast(node, fill) < READABLE) faint.push(short(node.textContent
      || node.parentElement.id) + " " + fill);
  }
  return {tex, dollars, images, wide, faint};
}
""".replace("READABLE", str(READABLE))
# axe-core's serious and critical findings, by all its rules or by those that are named.
AXE = """
async rules => {
  // What is drawn is looked at above; its thousands of paths would only cost time here.
  document.querySelectorAll("mjx-container > svg, .lb-row svg").forEach(node => node.replaceChildren());
  // Of the thousands of words of code one of each kind, which has the colour of all.
  const kinds = new Set();
  for (const node of document.querySelectorAll(".highlight pre span[class]:not(:has(*))"))
    kinds.has(node.className) ? node.replaceWith(node.textContent) : kinds.add(node.className);
  document.querySelectorAll(".highlight pre").forEach(node => node.normalize());
  const only = rules ? {runOnly: {type: "rule", values: rules}} : {};
  const found = await axe.run({resultTypes: ["violations"], preload: false, ...only});
  return found.violations.filter(one => ["serious", "critical"].includes(one.impact))
    .flatMap(one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 160)}`));
}
"""
# What another width or theme can change.
AGAIN = ["color-contrast", "link-in-text-block", "scrollable-region-focusable", "aria-hidden-focus"]
# What is cut at a desk; on a phone it may scroll, where the keyboard or a finger reaches it.
CUT = """() => [".pst-scrollable-table-container", ".bd-article table", "mjx-container[display=true]", "div.stream pre"]
    .flatMap(name => [...document.querySelectorAll(name)])
    .filter(node => node.offsetParent && node.scrollWidth > node.clientWidth + 1 && node.clientWidth)
    .filter(node => innerWidth > PHONE || node.tabIndex !== 0 && !node.closest(".lb-scrolls"))
    .map(node => `${node.scrollWidth} > ${node.clientWidth}: ${node.textContent.trim().slice(0, 60)}`)"""
CUT = CUT.replace("PHONE", str(PHONE))
KINDS = ["tex", "dollars", "images", "wide", "faint", "cut", "console", "requests", "axe"]


@pytest.fixture(scope="session")
def axe():
    """The script of axe-core, which a Python package carries."""
    return (Path(find_spec("axe_playwright_python").origin).parent / "axe.min.js").read_text()


# A page takes a theme on when it finds the time; the book in one file has none beside the browser's.
SHOWN = "theme => (document.documentElement.dataset.theme || theme) === theme"


def visit(browser, url, looks, axe=""):
    """Open a page once and list its faults for each of some looks (width, theme), one list per kind.

    axe-core runs where its script is given.  What the console said and what was asked for is told with the first look.
    """
    context = browser.new_context(viewport={"width": looks[0][0], "height": 900}, color_scheme=looks[0][1])
    context.set_default_timeout(SLOW)
    page, console, requests = context.new_page(), [], []
    page.on("console", lambda message: console.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on(
        "request",
        lambda request: (
            requests.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None
        ),
    )
    page.goto(url)
    page.evaluate("() => window.MathJax?.startup?.promise")

    def look(width, theme, rest=150):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(SHOWN, arg=theme)
        page.wait_for_timeout(rest)

    found = {}
    for width, theme in looks:
        look(width, theme)
        found[width, theme] = page.evaluate(FAULTS) | {"console": [], "requests": [], "axe": []}
        found[width, theme]["cut"] = page.evaluate(CUT)
        if width > PHONE:
            look(1920, theme)
            found[width, theme]["cut"] += page.evaluate(CUT)
    found[looks[0]] |= {"console": console, "requests": requests}
    if axe:
        page.evaluate(axe)
        page.evaluate("() => document.querySelectorAll('details').forEach(node => { node.open = true; })")
        for k, one in enumerate(looks):  # it changes the page, so it comes last
            look(*one, rest=800)  # until the theme, too, has looked for what scrolls
            found[one]["axe"] = page.evaluate(AXE, AGAIN if k else None)
    context.close()
    return found


@pytest.fixture(scope="session")
def visits(site, browser, axe):
    """Every page, at desk width and dark, at phone width and light."""
    return {
        f"{path.relative_to(site)} at {width}, {theme}": faults
        for path in pages(site)
        for (width, theme), faults in visit(browser, path.as_uri(), [(1280, "dark"), (PHONE, "light")], axe).items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_page_has_a_fault_of_this_kind(visits, kind):
    assert {page: faults[kind] for page, faults in visits.items() if faults[kind]} == {}


SPOILT = {
    "tex": r'<div class="math">\[ \frac{1 \]</div><div class="math">\[ \nosuchmacro \]</div>',
    "dollars": "<p>the norm $x$ of it <code>$HOME</code></p>",
    "images": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><svg width="9" height="9"></svg>',
    "wide": '<div style="width: 2000px">wide</div>',
    "faint": '<figure class="lb-row"><svg aria-label="a"><text fill="#bbbbbb">label</text></svg></figure>',
    "cut": '<div class="stream"><pre style="overflow: auto; width: 90px">a_long_word_that_is_printed</pre></div>',
    "console": "<script>undefinedFunction()</script>",
    "requests": '<script async src="https://example.invalid/analytics.js"></script>',
    "axe": '<p style="color: #999999">faint words</p><button></button>',
}
SEEN_TWICE = {
    "requests": {"console"},
    "images": {"axe"},
    "cut": {"axe"},
}  # a refused request is reported on the console as well


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_with_a_fault_is_caught(site, browser, axe, tmp_path, kind):
    mathjax = (site / "_static/tex-svg.js").as_uri()
    path = tmp_path / "spoilt.html"
    path.write_text(
        '<!DOCTYPE html><html lang="en"><title>t</title><script defer '
        f'src="{mathjax}"></script><body>{SPOILT[kind]}</body>'
    )
    (found,) = visit(browser, path.as_uri(), [(PHONE, "light")], axe).values()
    assert found[kind], f"the fault was not seen: {found}"
    assert {other for other in KINDS if found[other]} <= {kind} | SEEN_TWICE.get(kind, set())
    if kind in ("tex", "axe"):
        assert len(found[kind]) >= 2, (
            "a syntax error and an unknown macro are two faults, faint words and a button without a name as well"
        )


def test_words_that_are_faint_in_the_second_look_alone_are_caught(browser, axe, tmp_path):
    path = tmp_path / "spoilt.html"
    path.write_text(
        '<!DOCTYPE html><html lang="en"><title>t</title><style>p { color: #999999 } '
        "@media (prefers-color-scheme: dark) { body { background: #000000 } }</style><body><p>words</p></body>"
    )
    dark, light = visit(browser, path.as_uri(), [(1280, "dark"), (PHONE, "light")], axe).values()
    assert dark["axe"] == [] and len(light["axe"]) == 1


def test_the_theme_switch_turns_the_page_dark_and_the_figures_follow(site, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.goto((site / "book/index.html").as_uri())
    ink = "() => getComputedStyle(document.querySelector('.lb-verdict')).color"
    before = page.evaluate(ink)
    for _ in range(3):
        if page.evaluate("() => document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button:visible").first.click()
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(ink) != before
    page.close()


def test_the_search_finds_a_word_from_disk(site, browser):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "search.html").as_uri() + "?q=Fukumizu")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    assert "references.html" in page.locator("#search-results").inner_html()
    page.goto((site / "search.html").as_uri() + "?q=xyzzyplugh")
    page.wait_for_selector("text=did not match any documents", timeout=10_000)
    assert page.locator("#search-results li a").count() == 0
    assert errors == []
    page.close()


def test_the_search_finds_a_theorem_by_its_number_and_a_claim_by_its_words(opened, site):
    for asked, first in (
        ("Theorem 3.2", "lora_one.theorem-3-2"),
        ("theorem 2.7", "rushka.thm-2-7"),
        ("kim.rank-cure", "kim.rank-cure"),
        ("rank one", "rushka.abstract-rank-one"),
        ("AdamW's decoupled decay is not a penalty", "kim.decoupled"),
    ):
        page = opened("search.html")
        page.goto((site / "search.html").as_uri() + "?" + urlencode({"q": asked}))
        found = page.locator("#lb-found li")
        found.first.wait_for()
        names = found.locator("a").all_inner_texts()
        assert names[0].startswith(first), (asked, names)
        assert len(found.first.locator(".context").inner_text()) > 30
        said = " ".join(page.locator("p.context").all_inner_texts())
        assert not re.search(r"[\\{}]|frac(?!t)|sqrt", said)
        found.first.locator("a").click()
        page.wait_for_url("**/notebooks/*.html#claim-*")
    # the page that treats a theorem stands above those that name it, however Sphinx orders them
    page.goto((site / "search.html").as_uri() + "?q=Theorem+3.2")
    page.wait_for_function("document.querySelector('#search-results li')?.innerText.includes('where the factors turn')")
    page.goto((site / "search.html").as_uri() + "?q=Fukumizu")
    page.wait_for_selector("#search-results li .context")
    assert "Fukumizu" in page.locator("#search-results li .context").first.inner_text()


def test_panels_stand_beside_each_other_at_a_desk_and_below_each_other_on_a_phone(site, browser, tmp_path):
    panel = '<div class="lb-panel"><svg viewBox="0 0 4 3" role="img" aria-label="a panel"></svg></div>'
    path = tmp_path / "row.html"
    style = (site / "_static/lorabook.css").as_uri()
    path.write_text(
        f'<link rel="stylesheet" href="{style}"><figure class="lb-row">{panel * 2}<figcaption>A '
        "caption.</figcaption></figure>"
    )
    for width, rows in ((1280, 1), (PHONE, 2)):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(path.as_uri())
        tops = page.evaluate(
            "() => [...document.querySelectorAll('.lb-panel')].map(node => node.getBoundingClientRect().top)"
        )
        assert len(set(tops)) == rows
        page.close()


@pytest.fixture
def opened(site, browser):
    """A function that opens a page of the site; what it opened is closed afterwards."""
    contexts = []

    def open_page(path, **settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        name = re.match(r"[^?#]*", path)[0]
        page.goto((site / name).as_uri() + path[len(name) :])
        return page

    yield open_page
    for context in contexts:
        context.close()


SHOWN = (
    "() => [...document.querySelectorAll('.tag_ledger tbody tr')].filter(row => !row.hidden).map(row => "
    "row.cells[0].textContent.trim())"
)


def test_the_ledger_filters_by_source_kind_verdict_and_words(opened, root):
    page = opened("notebooks/ledger.html")
    verdicts = [verdict for _, verdict in ledger.collect(root / "notebooks")]
    assert len(page.evaluate(SHOWN)) == len(verdicts)
    page.locator(".lb-filter").get_by_label("verdict").select_option(ledger.MARKS[claims.FAILS])
    failing = [verdict.claim for verdict in verdicts if verdict.verdict == claims.FAILS]
    assert len(page.evaluate(SHOWN)) == len(failing)
    page.locator(".lb-filter").get_by_label("source").select_option(ledger.short("rushka"))
    page.locator(".lb-filter").get_by_label("kind").select_option("equation")
    wanted = [
        claim.id.partition(".")[2] for claim in failing if claim.id.startswith("rushka.") and claim.kind == "equation"
    ]
    assert sorted(page.evaluate(SHOWN)) == sorted(wanted)
    assert page.locator(".lb-filter output").inner_text() == f"{len(wanted)} of {len(verdicts)} claims"
    page.locator(".lb-filter").get_by_label("search").fill("homogeneous")
    assert page.evaluate(SHOWN) == ["eq-247"]
    page.locator(".lb-filter").get_by_label("search").fill("xyzzyplugh")
    assert page.evaluate(SHOWN) == []
    page.get_by_role("button", name="Show all").click()
    assert len(page.evaluate(SHOWN)) == len(verdicts)
    # a whole name as a card shows it, and the name of a chapter
    # and the map that names it
    page.locator(".lb-filter").get_by_label("search").fill("lora_one.theorem-3-2-border")
    assert sorted(page.evaluate(SHOWN)) == ["printed-start", "theorem-3-2-border"]
    page.locator(".lb-filter").get_by_label("search").fill("LoRA-One")
    assert len(page.evaluate(SHOWN)) >= sum(verdict.claim.id.startswith("lora_one.") for verdict in verdicts)


def test_a_dark_page_is_light_on_paper(site, browser):
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto((site / "book" / "sources.html").as_uri())
    theme = lambda: page.evaluate("() => document.documentElement.dataset.theme")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    page.evaluate(
        "() => { window.seen = []; addEventListener('beforeprint', () => "
        "seen.push(document.documentElement.dataset.theme)); }"
    )
    page.pdf()
    assert page.evaluate("() => seen") == ["light"] and theme() == "dark"


COLUMN = "k => [...document.querySelectorAll('.tag_ledger tbody tr')].map(row => row.cells[k].textContent.trim())"


def test_the_ledger_sorts_by_the_keyboard_both_ways_in_the_orders_of_the_book(opened):
    page = opened("notebooks/ledger.html")
    before = page.evaluate(SHOWN)
    verdict = page.locator(".tag_ledger th").filter(has_text="verdict")
    place = lambda shown: list(claims.VERDICTS).index(shown.lstrip("✓✗– ").removesuffix(", proved"))
    for direction, sign in (("ascending", 1), ("descending", -1)):
        verdict.get_by_role("button").press("Enter")
        assert verdict.get_attribute("aria-sort") == direction
        found = [place(shown) for shown in page.evaluate(COLUMN, 3)]
        assert len(set(found)) == 5 and found == sorted(found, key=lambda number: sign * number)
    verdict.get_by_role("button").press("Enter")
    assert verdict.get_attribute("aria-sort") is None and page.evaluate(SHOWN) == before, (
        "a third press restores the order of the sources"
    )
    page.locator(".tag_ledger th button", has_text="where").press("Enter")
    places = page.evaluate(COLUMN, 5)
    numbers = [int(found[1]) for place in places if (found := re.match(r"Theorem 2\.(\d+)", place))]
    assert len(set(numbers)) > 3 and numbers == sorted(numbers), "Theorem 2.4 comes before Theorem 2.11"
    page.locator(".tag_ledger th button", has_text="kind").press("Enter")
    kinds = list(dict.fromkeys(page.evaluate(COLUMN, 2)))
    assert kinds == [kind for kind in lists.KINDS if kind in kinds]
    page.get_by_role("button", name="Show all").press("Enter")
    assert page.evaluate(SHOWN) == before
    # measured numbers have different units, and statements no order
    assert page.locator(".tag_ledger th:nth-child(5) button, .tag_ledger th:nth-child(7) button").count() == 0


def test_a_choice_in_the_ledger_stands_in_the_address_and_comes_back_from_it(opened, site):
    page = opened("notebooks/ledger.html")
    form = page.locator(".lb-filter")
    form.get_by_label("verdict").select_option(ledger.MARKS[claims.FAILS])
    form.get_by_label("source").select_option(ledger.short("rushka"))
    form.get_by_label("search").fill("norm")
    for _ in range(2):
        page.locator(".tag_ledger th button", has_text="where").press("Enter")
    shown, address = page.evaluate(SHOWN), page.url
    asked = parse_qs(urlsplit(address).query)
    assert shown and asked == {
        "verdict": [claims.FAILS],
        "source": [ledger.short("rushka")],
        "search": ["norm"],
        "sort": ["-where"],
    }
    again = opened("notebooks/ledger.html")
    again.goto(address)
    visible = "() => [...document.querySelectorAll('.tag_ledger tbody tr')].filter(row => row.checkVisibility())"
    assert again.evaluate(SHOWN) == shown and again.evaluate(f"({visible})().length") == len(shown)
    again.get_by_role("button", name="Show all").click()
    assert urlsplit(again.url).query == ""
    # what an address asks and the ledger has not is passed over
    again.goto((site / "notebooks/ledger.html").as_uri() + "?verdict=perhaps&sort=measured")
    assert len(again.evaluate(SHOWN)) == again.locator(".tag_ledger tbody tr").count()


def test_the_ledgers_head_stays_in_view_and_its_stripes_count_the_rows_that_are_shown(opened):
    page = opened("notebooks/ledger.html?verdict=fails+as+printed", viewport={"width": 1280, "height": 500})
    stripes = page.evaluate(
        "() => [...document.querySelectorAll('.tag_ledger tbody tr')].filter(row => !row.hidden)"
        ".map(row => getComputedStyle(row).backgroundColor)"
    )
    assert len(stripes) > 10 and stripes[0] != stripes[1]
    assert stripes == [stripes[k % 2] for k in range(len(stripes))]
    page.locator(".tag_ledger tbody tr:visible").nth(8).scroll_into_view_if_needed()
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(200)
    head = page.locator(".tag_ledger th").first.bounding_box()
    top = page.locator(".bd-header-article").first.bounding_box()
    assert abs(head["y"] - (top["y"] + top["height"])) <= 3


def test_the_errata_are_filtered_by_grade_and_the_choice_stands_in_the_address(opened, root):
    page = opened("notebooks/errata.html")
    found = [v for _, v in ledger.collect(root / "notebooks")]
    verdicts = [v for v in found if v.verdict == claims.FAILS and ledger.printed(v)]
    slips = {ledger.target(v.claim, "erratum").replace("_", "-") for v in verdicts if v.claim.grade == "slip"}
    form = page.locator(".lb-filter")
    assert form.locator("output").inner_text() == f"{len(verdicts)} of {len(verdicts)} errata"
    form.get_by_label("grade").select_option("slip")
    seen = (
        "() => [...document.querySelectorAll('[id^=erratum-]')].filter(node => node.checkVisibility())"
        ".map(node => node.id)"
    )
    assert set(page.evaluate(seen)) == slips and parse_qs(urlsplit(page.url).query) == {"grade": ["slip"]}
    again = opened("notebooks/errata.html")
    again.goto(page.url)
    assert set(again.evaluate(seen)) == slips
    # a link to an entry that the choice hides shows it all the same
    other = next(ledger.target(v.claim, "erratum").replace("_", "-") for v in verdicts if v.claim.grade != "slip")
    again.evaluate(f"() => {{ location.hash = '#{other}'; }}")
    again.wait_for_function(f"() => document.getElementById('{other}').checkVisibility()")


def test_a_verdict_leads_to_its_row_and_the_row_back_even_past_a_filter(opened):
    page = opened("notebooks/rushka_closed_forms.html")
    page.get_by_role("link", name="rushka.eq-24", exact=True).click()
    page.wait_for_url("**/ledger.html#row-rushka-eq-24")
    page.locator(".lb-filter").get_by_label("verdict").select_option(ledger.MARKS[claims.HOLDS])
    assert "eq-24" not in page.evaluate(SHOWN)
    page.evaluate("() => { location.hash = ''; location.hash = '#row-rushka-eq-24'; }")
    page.wait_for_function("() => document.querySelector('#row-rushka-eq-24').checkVisibility()")
    page.locator("#row-rushka-eq-24 a").click()
    page.wait_for_url("**/rushka_closed_forms.html#claim-rushka-eq-24")


def test_the_ledger_reads_without_its_script(opened, root):
    page = opened("notebooks/ledger.html", java_script_enabled=False)
    assert page.locator(".tag_ledger tbody tr:visible").count() == len(ledger.collect(root / "notebooks"))
    assert page.locator(".lb-filter").count() == 0


def test_a_formula_is_no_stop_of_the_tab_key(opened):
    page = opened("notebooks/rushka_closed_forms.html")
    page.evaluate("() => window.MathJax.startup.promise")
    page.wait_for_timeout(100)
    assert page.locator("mjx-container").count() > 150
    assert page.locator("mjx-container[tabindex], .math[tabindex]").count() == 0
    # and it is still read aloud
    assert page.locator("mjx-container mjx-assistive-mml").count() == page.locator("mjx-container").count()


def test_code_is_shown_on_purpose_or_folded(site, soup):
    for path in site.glob("notebooks/*.html"):
        article = soup(path).find("article")
        bare = [cell for cell in article.find_all("div", class_="cell_input") if not cell.find_parent("details")]
        assert all("tag_parameters" in cell.parent.get("class", []) for cell in bare), path.name


def test_the_number_of_a_paper_leads_to_it(site, soup):
    linked = 0
    for path in pages(site):
        article = soup(path).find("article") or BeautifulSoup("", "html.parser")
        for text in article.find_all(string=re.compile(r"arXiv[: ]\s?\d{4}\.\d{4,5}")):
            if not text.find_parent(["code", "pre", "script", "template"]):
                number = re.search(r"\d{4}\.\d{4,5}", text)[0]
                assert text.find_parent("a")["href"] == f"https://arxiv.org/abs/{number}", path.name
                linked += 1
    assert linked > 10


def test_the_panels_of_a_figure_have_letters_in_their_order(site, soup):
    several = 0
    for path in site.glob("notebooks/*.html"):
        for figure in soup(path).find_all("figure", class_="lb-row"):
            letters = [node.get_text() for node in figure.find_all("span", class_="lb-letter")]
            count = len(figure.find_all("div", class_="lb-panel"))
            assert letters == [f"({letter})" for letter in "abcdefghijkl"[:count]] * (count > 1)
            several += count > 1
    assert several > 20


def test_every_figure_has_its_data_one_click_away(site, soup):
    linked = []
    for path in site.glob("notebooks/*.html"):
        for figure in soup(path).find_all("figure", class_="lb-row"):
            (link,) = figure.find_all("a", class_="lb-data")
            assert link["href"] == f"{path.stem}-{figure['id']}.csv" and link.has_attr("download")
            assert link["aria-label"] == f"{link.get_text()} of Figure {figure['id'].partition('-')[2]}"
            linked.append(path.with_name(link["href"]))
            table = pandas.read_csv(linked[-1])
            count = len(figure.find_all("div", class_="lb-panel"))
            assert sorted(set(table["panel"])) == list("abcdefghijkl"[:count]), "every panel has its points"
            assert list(table)[:2] == ["panel", "series"] and table["series"].notna().all()
            # an axis without a label is one of names
            unnamed = [
                name for name in table if name in ("row", "column") and pandas.api.types.is_numeric_dtype(table[name])
            ]
            assert unnamed == [], link["href"]
    assert len(linked) > 40 and sorted(linked) == sorted(site.glob("notebooks/*.csv"))


def test_a_click_takes_the_data_along_and_paper_and_the_book_in_one_file_do_without(opened, site, edition, soup):
    page = opened("notebooks/rushka_closed_forms.html")
    link = page.locator(".lb-data").first
    with page.expect_download() as download:
        link.click()
    name = download.value.suggested_filename
    assert name == "rushka_closed_forms-figure-1.csv"
    assert download.value.path().read_bytes() == (site / "notebooks" / name).read_bytes()
    page.emulate_media(media="print")
    assert not link.is_visible()
    links = soup(edition).find_all("a", class_="lb-data")
    assert len(links) > 40 and not any(link.has_attr("href") for link in links)  # which the style hides
    assert ".lb-data:not([href]) { display: none; }" in (site / "_static/lorabook.css").read_text()


def test_a_box_has_the_number_of_its_source_and_no_other(site, soup):
    boxes = 0
    for path in site.glob("notebooks/*.html"):
        for box in soup(path).find_all("div", class_="proof"):
            number = box.find("span", class_="caption-number")
            assert number and not re.search(r"\d", number.get_text()), path.name
            boxes += 1
    assert boxes > 20


def test_a_card_shows_the_claim_first_and_its_numbers_after_one_click_and_on_paper(opened):
    page = opened("notebooks/rushka_closed_forms.html")
    for card in page.locator(".lb-verdict:not(.lb-together)").all():
        texts = card.locator(":scope > *").all_inner_texts()
        assert len(texts[0].split()) > 3 and card.locator(".lb-badge").inner_text() in texts[1]
    numbers = page.locator("details.lb-numbers")
    assert numbers.count() > 20 and not any(
        page.evaluate("() => [...document.querySelectorAll('details.lb-numbers')].map(node => node.open)")
    )
    first = numbers.first
    first.locator("summary").click()
    assert first.locator("li").first.is_visible()
    first.locator("summary").press("Enter")
    assert not first.locator("li").first.is_visible()
    page.evaluate(
        "() => { window.seen = []; addEventListener('beforeprint', () => "
        "seen.push(...[...document.querySelectorAll('details.lb-numbers')].map(node => node.open))); }"
    )
    page.pdf()
    assert len(page.evaluate("() => seen")) == numbers.count() and all(page.evaluate("() => seen"))
    assert not first.evaluate("node => node.open"), "after printing the fold is as it was"


def test_the_front_page_shows_a_claim_that_holds_and_one_that_fails_with_their_folds(site, soup):
    cards = soup(site / "book/index.html").select("article div.lb-verdict")
    assert [card["class"][1] for card in cards] == ["lb-holds", "lb-fails"]
    assert all(card.select_one("details.lb-numbers li") for card in cards)
    assert "What holds instead" in cards[1].get_text() and "What holds instead" not in cards[0].get_text()


def test_claims_between_which_nothing_is_said_share_a_table_with_all_that_a_card_has(site, opened, root, soup):
    verdicts = {verdict.claim.id: verdict for _, verdict in ledger.collect(root / "notebooks")}
    shared, alone = [], []
    for path in site.glob("notebooks/*.html"):
        article = soup(path).find("article")
        for card in article.select("div.lb-verdict"):
            names = [name for node in card.select(".lb-claim") if (name := node.get_text()) in verdicts]
            (shared if "lb-together" in card["class"] else alone).append(names)
            if "lb-together" in card["class"]:
                rows = card.select("tbody tr")
                assert len(rows) == len(names) > 1
                for row, name in zip(rows, names):
                    assert verdicts[name].verdict in row.select_one(".lb-badge").get_text()
                    assert row.select_one(".lb-where") and row.select_one(".lb-dispute")
                folded = [node.get_text() for node in card.select("details.lb-numbers li > p:first-child")]
                assert [name for name in names if not verdicts[name].claim.reason] == [
                    text for text in folded if text in names
                ]
    assert len(shared) > 12 and all(len(names) == 1 for names in alone)
    assert not {verdicts[name].verdict for names in shared for name in names} & {claims.FAILS}
    page = opened("notebooks/kim_networks.html", viewport={"width": PHONE, "height": 800})
    table = page.locator(".lb-together table").first
    assert table.evaluate("node => node.scrollWidth - node.clientWidth") <= 1


def test_every_card_has_a_link_that_disputes_it_at_the_repositorys_address(site, root, soup):
    url = yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"]
    disputed = []
    for path in site.glob("notebooks/*.html"):
        article = soup(path).find("article")
        for link in article.select("div.lb-verdict span.lb-dispute a"):
            address = link["href"]
            assert address.startswith(f"{url}/issues/new?")
            asked = parse_qs(urlsplit(address).query)
            assert f"notebooks/{path.stem}" in asked["body"][0] and "torch" in asked["body"][0]
            disputed.append(asked["title"][0].removeprefix("Verdict on "))
    assert sorted(disputed) == sorted(verdict.claim.id for _, verdict in ledger.collect(root / "notebooks"))
    corrections = re.findall(rf'href="({re.escape(url)}/issues/new)"', (site / "notebooks/errata.html").read_text())
    assert corrections, "the errata say where corrections go"


def test_beside_the_pages_lie_the_claims_the_letters_and_each_page_as_markdown(site, root, soup):
    told = json.loads((site / "claims.json").read_text())
    verdicts = {verdict.claim.id: verdict for _, verdict in ledger.collect(root / "notebooks")}
    assert {one["id"]: one["verdict"] for one in told} == {name: v.verdict for name, v in verdicts.items()}
    for one in told:
        page, _, anchor = one["page"].partition("#")
        assert f'id="{anchor}"' in (site / page).read_text(), one["id"]
    for source in ("mallada", "lora_one", "rushka", "kim"):
        assert lists.version(source) in (site / f"letters/{source}.md").read_text()
    for path in pages(site):
        article = soup(path).find("article")
        if path.parent == site or not article:
            continue
        text = path.with_suffix(".md").read_text()
        assert text.startswith("# ") and f'href="{path.stem}.md"' in path.read_text()
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        assert not re.search(r"\{[a-z:-]+\}`|^:::|<div|<span|<svg|\\\(", prose, re.M), path.name
        headings = [node.get_text().rstrip("#") for node in article.find_all(["h2", "h3"])]
        assert len(re.findall(r"^###? ", prose, re.M)) == len(headings)
    chapter = (site / "notebooks/rushka_closed_forms.md").read_text()
    assert len(re.findall(r"\*\*Numbers, counter-probes? and ranges?\*\*", chapter)) > 20 and "$$" in chapter


def test_the_scripts_of_a_chapter_take_less_than_fifteen_kilobytes(site, root):
    own = {path.name: path.stat().st_size for path in (root / "book/_static").glob("*.js")}
    for path in site.glob("notebooks/*.html"):
        if path.stem not in ("explore", "ledger", "errata"):
            used = {
                name
                for name in re.findall(r'<script[^>]*src="[./]*_static/([\w.]+)', path.read_text())
                if name in own and not name.startswith("explore")  # test_explore.py holds those
            }
            assert used and sum(own[name] for name in used) < 15_000, path.name


def test_the_scripts_of_the_book_are_small(root):
    assert {
        path.name: path.stat().st_size for path in (root / "book/_static").glob("*.js") if path.stat().st_size >= 10_000
    } == {}


def test_figures_and_equations_are_numbered_in_order_and_every_chapter_says_how_long_it_is(site):
    for page in site.glob("notebooks/*.html"):
        text = page.read_text()
        for name, mark in (("figure", '<figure class="lb-row" id="'), ("equation", '<span class="eqno">(')):
            count = text.count('<figure class="lb-row"') if name == "figure" else text.count('class="eqno"')
            assert text.count(mark) == count and all(f'id="{name}-{k}"' in text for k in range(1, count + 1)), (
                f"{page.stem}: {name}"
            )
        assert ("min to read" in text) == (page.stem not in ("ledger", "errata")), page.stem


def test_each_row_of_the_ledger_leads_to_the_section_of_its_verdict_and_the_verdict_back(site, root):
    texts = {page.stem: page.read_text() for page in site.glob("notebooks/*.html")}
    rows = dict(re.findall(r'id="row-([\w-]+)"[^>]*>.{0,200}?href="([^"]+)"', texts["ledger"], re.S))
    assert len(rows) == len(ledger.collect(root / "notebooks"))
    for name, target in rows.items():
        page, _, anchor = target.partition(".html#")
        there = texts[page].index(f'id="{anchor}"')
        back = re.search(rf'class="lb-claim">\s*<a [^>]*href="ledger\.html#row-{name}"', texts[page]).start()
        heads = [found.start() for found in re.finditer(r"<h[1-4]>", texts[page][there:back])]
        assert there < back and (not heads or len(heads) == 1 and heads[0] < 400), (
            f"{name}: another section begins before the verdict"
        )


def test_claims_can_be_followed_from_the_ledger_to_their_page_and_back(opened, root):
    page = opened("notebooks/ledger.html")
    # two pages are opened for each; that all links lead somewhere is seen above
    names = [verdict.claim.id for _, verdict in ledger.collect(root / "notebooks")][::43]
    assert len(names) >= 5 and {"kim", "lora_one", "mallada", "rushka"} <= {name.partition(".")[0] for name in names}
    for name in names:
        row = f"#row-{name.replace('.', '-').replace('_', '-')}"
        page.locator(f"{row} a").first.click()
        page.wait_for_url("**#claim-*")
        card = page.locator(f'.lb-claim a[href="ledger.html{row}"]')
        assert abs(card.bounding_box()["y"]) < 5000, "the verdict stands near the place"
        card.click()
        page.wait_for_url(f"**/ledger.html{row}")
        assert 0 <= page.locator(row).bounding_box()["y"] < page.viewport_size["height"]


WIDER = """() => [...document.querySelectorAll(".tag_ledger :is(td, th) *")]
    .filter(node => !node.closest("svg, mjx-assistive-mml")
    && node.getBoundingClientRect().right > node.closest("td, th").getBoundingClientRect().right + 1)
    .map(node => node.textContent)"""


@pytest.mark.parametrize(
    "width, medium", [(1280, "screen"), (900, "screen"), (673, "print")]
)  # 673 px: a sheet of A4 within its margins
def test_the_ledger_fits_a_desk_and_a_sheet(opened, width, medium):
    page = opened("notebooks/ledger.html", viewport={"width": width, "height": 900})
    page.emulate_media(media=medium)
    page.evaluate("() => window.MathJax?.startup?.promise")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate(
            "() => { const box = document.querySelector('.tag_ledger .pst-scrollable-table-container'); return "
            "box.scrollWidth - box.clientWidth; }"
        )
        <= 1
    )
    assert page.evaluate(WIDER) == []


def test_what_the_book_found_fits_one_screen(opened):
    page = opened("book/index.html", viewport={"width": 1280, "height": 1000})
    last = page.locator("#what-the-book-found li").last.bounding_box()
    assert last["y"] + last["height"] <= 1000


CHAPTERS = [
    f"notebooks/{source}_{part}"
    for source, parts in {
        "mallada": ("two_phase", "weights", "network"),
        "lora_one": ("alignment", "start", "convergence"),
        "rushka": ("descent_to_flow", "closed_forms", "low_rank"),
        "kim": ("landscape", "extensions", "networks"),
    }.items()
    for part in parts
]


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_opens_with_its_source_what_it_claims_and_what_was_found(site, page):
    text = (site / f"{page}.html").read_text()
    article = text[text.index('<article class="bd-article">') :]
    labels = re.findall(r"<strong>([^<]*)\.</strong>", article[: article.index("<h2>")])
    assert [label for label in labels if label != "How it was read"] == [
        "Source",
        "What the source claims",
        "What we found",
        "What you can do after this page",
    ]


def test_each_page_of_the_story_ends_with_the_reason_for_the_next(site, root):
    story = yaml.safe_load((root / "book/story.yml").read_text())
    for page, sentence in story.items():
        text = (site / f"{page}.html").read_text()
        said, link = re.search(
            r'<p class="lb-next">(.*?) Next: <a class="reference internal" href="([^"]+)"', text, re.S
        ).groups()
        following = re.search(r'<a class="right-next"\s+href="([^"]+)"', text)[1]
        assert html.unescape(said).replace("’", "'") == sentence and link == following, page
    names = [name for _, pages in editions.contents(root / "_toc.yml") for name in pages]
    assert names[: len(story)] == list(story), "the story goes page by page"


def test_a_page_with_formulas_says_without_script_that_they_are_tex(site):
    for path in pages(site):
        article = path.read_text().partition('<article class="bd-article">')[2]
        article = re.sub(r"<template.*?</template>", "", article, flags=re.S)  # previews need a script anyway
        assert ("<noscript>" in article) == ('class="math' in article), path.name


def test_the_notation_is_one_click_away_on_a_phone(opened, site):
    for path in pages(site):
        name = str(path.relative_to(site))
        if path.parent != site and name not in ("book/index.html", "book/notation.html"):
            assert re.search(r'<p class="lb-aids">(?:(?!</p>).)*href="[^"]*notation.html"', path.read_text(), re.S), (
                name
            )
    page = opened("notebooks/kim_landscape.html", viewport={"width": PHONE, "height": 800})
    page.locator(".lb-aids a", has_text="Notation").click()
    page.wait_for_url("**/notation.html")


def test_wide_things_can_be_reached_by_the_keyboard(opened):
    page = opened("notebooks/ledger.html", viewport={"width": PHONE, "height": 900})
    page.wait_for_selector(".lb-scrolls")
    assert page.evaluate("() => [...document.querySelectorAll('.lb-scrolls')].every(node => node.tabIndex === 0)")


@pytest.fixture(scope="session")
def edition(site, root, tmp_path_factory):
    """The book in one file, away from every other file."""
    path = tmp_path_factory.mktemp("edition") / editions.SINGLE
    own = {path.name for path in (root / "book/_static").glob("*")}
    path.write_text(editions.single_file(site, editions.contents(root / "_toc.yml"), own, editions.facts(root)))
    return path


def test_in_the_book_in_one_file_every_anchor_is_one_and_every_link_leads_somewhere(edition):
    text = edition.read_text()
    body = text[text.index("<main") : text.index("</main>")]
    assert [one for one, count in Counter(Links(edition).ids).items() if count > 1] == []
    assert broken_links(edition.parent) == []
    assert 'id="row-rushka-eq-20"' in body and 'href="#row-rushka-eq-20"' in body


def test_the_book_in_one_file_has_no_fault_and_asks_for_no_other_file(edition, browser):
    found = visit(browser, edition.as_uri(), [(1280, "light"), (PHONE, "dark")])
    assert len(found) == 2
    assert [(look, kind, faults) for look, kinds in found.items() for kind, faults in kinds.items() if faults] == []


LOOKS = """() => [...document.querySelectorAll(".lb-explore")].map(mount => ({
  kind: mount.dataset.explore, drawn: mount.dataset.drawn, words: mount.querySelector(".lb-said").textContent,
  looks: [...mount.querySelectorAll("svg[data-axes] *, .lb-key *")].map(node => {
    const style = getComputedStyle(node);
    return [node.tagName, node.getAttribute("class"), node.getAttribute("d"), ...["fill", "fillOpacity", "stroke",
      "strokeWidth", "strokeDasharray", "fontWeight", "display"].map(key => style[key]),
      node.closest("svg") && style.fontSize].join(" ");
  }),
}))"""


@pytest.fixture(scope="session")
def light_edition(edition, site):
    """The book in one file, its pages with explorables alone, and without MathJax, which draws none of them."""
    text, mathjax = edition.read_text(), (site / "_static/tex-svg.js").read_text()
    assert text.count(mathjax) == 1
    head, *sections = text.replace(mathjax, "").split('<section class="lb-page" id="')
    kept = [part for part in sections if 'class="lb-explore"' in part]
    foot = sections[-1][sections[-1].index("</main>") :]
    path = edition.with_name("light.html")
    path.write_text(head + '<section class="lb-page" id="' + "".join(kept) + foot)
    return path


def explorables(browser, url, looks):
    """What each explorable drew and how every part of it looks, all at one width, for each of (theme, medium)."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(SLOW)
    page, found = context.new_page(), []
    page.goto(url)
    page.add_style_tag(content=".lb-explore { width: 640px; }")
    for theme, medium in looks:
        page.emulate_media(media=medium, color_scheme=theme, reduced_motion="reduce")
        page.wait_for_function(SHOWN, arg=theme)
        page.wait_for_timeout(300)
        found.append(page.evaluate(LOOKS))
    context.close()
    return found


def test_every_explorable_of_both_editions_looks_as_on_the_site(site, light_edition, browser):
    # the PDF is what a browser prints of the one file
    looks = [("light", "screen"), ("dark", "screen"), ("light", "print")]
    chapters = ("explore", "mallada_two_phase", "lora_one_alignment", "rushka_closed_forms", "kim_landscape")
    addresses = [(site / f"notebooks/{name}.html").as_uri() for name in chapters]
    light, dark = (sum(ones, []) for ones in zip(*(explorables(browser, one, looks[:2]) for one in addresses)))
    assert len(light) == 8 and [one["looks"] for one in light] != [one["looks"] for one in dark]
    for wanted, found in zip((light, dark, light), explorables(browser, light_edition.as_uri(), looks)):
        assert [one["kind"] for one in found] == [one["kind"] for one in wanted]
        for have, want in zip(found, wanted):
            assert have["words"] == want["words"] and json.loads(have["drawn"]) == json.loads(want["drawn"])
            assert have["looks"] == want["looks"], have["kind"]
            colours = {part.split(" rgb")[1] for part in have["looks"] if " rgb" in part}
            assert len(colours) > 1, "more than one black shape"


def test_an_edition_begins_with_a_title_page(edition, light_edition, browser, root):
    text = edition.read_text()
    cover = text[text.index('<header class="lb-cover">') : text.index("</header>")]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    config = yaml.safe_load((root / "_config.yml").read_text())
    for part in (
        "How low-rank adaptation learns",
        config["author"],
        str(citation["version"]),
        config["repository"]["url"],
    ):
        assert part in cover
    assert text.index("lb-cover") < text.index('<nav aria-label="Contents">') < text.index('class="lb-page"')
    page = browser.new_page()
    page.goto(light_edition.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("() => getComputedStyle(document.querySelector('.lb-cover')).breakAfter") == "page"
    page.close()
