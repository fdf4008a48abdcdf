"""What rests on what: the claims of one source as a drawing in which each leads to its place, and as a list.

Above stands what a claim rests on (``rests_on`` in its list), below what rests on it, and an arc joins the two.  An arc
that a longer way says as well is left out; claims that stand alone are not drawn.  Colour and shape of a mark tell the
verdict.  The drawing is as wide as a phone and takes the page's ink, so that every page, dark or printed, can hold it.

Not here: whether the grounds are known and without a circle, which ``lists`` holds when a list is read.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from lorabook import checks
from lorabook.page import claims, lists
from lorabook.page.ledger import MARKS

WIDTH, ROW, GUTTER = 360, 26, 112  # of the drawing, of a claim, of the arcs
SHAPES = {
    claims.HOLDS: '<circle r="6"/>',
    claims.CONSTANT: '<path d="M0-8 8 0 0 8-8 0Z"/>',
    claims.RANGE: '<rect x="-6" y="-6" width="12" height="12"/>',
    claims.FAILS: '<path d="M-8-6H8L0 8Z"/>',
    claims.UNTESTABLE: '<circle r="5.5" class="lb-hollow"/>',
}


def graph(source: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The claims of which one rests on another, each after its grounds, and the pairs (ground, claim) of the arcs.

    Grounds of another source are among them.  What hangs together stands together.
    """
    nx = checks.package("networkx", "book")
    whole = nx.DiGraph((ground, one.id) for one in lists.load(source).values() for ground in one.rests_on)
    short = nx.transitive_reduction(whole)
    kept = nx.DiGraph(pair for pair in whole.edges if short.has_edge(*pair))  # in the order of the list
    part = {name: k for k, names in enumerate(nx.weakly_connected_components(kept)) for name in names}
    listed = {name: k for k, name in enumerate(kept)}
    start = nx.lexicographical_topological_sort(kept, key=lambda name: (part[name], listed[name]))
    return settled(list(start), list(kept.edges)), list(kept.edges)


def settled(names: list[str], pairs: list[tuple[str, str]]) -> list[str]:
    """The same names with shorter arcs: each in turn moves to its best place between grounds and followers."""
    moved = True
    while moved:
        moved = False
        for one in tuple(names):
            rest = [name for name in names if name != one]
            low = max((rest.index(a) + 1 for a, b in pairs if b == one), default=0)
            high = min((rest.index(b) for a, b in pairs if a == one), default=len(rest))
            better = min(
                (rest[:k] + [one] + rest[k:] for k in range(low, high + 1)), key=lambda row: length(row, pairs)
            )
            if length(better, pairs) < length(names, pairs):
                names, moved = better, True
    return names


def length(names: list[str], pairs: list[tuple[str, str]]) -> int:
    """Rows that all arcs span together."""
    return sum(names.index(b) - names.index(a) for a, b in pairs)


def drawing(source: str, verdicts: dict[str, str], address: Callable[[str], str]) -> str:
    """The graph of one source as HTML: the drawing, and the same as a list for those who do not see it.

    Args:
        verdicts: word of each claim, by id.
        address: where a claim is treated, from its id.

    Raises:
        KeyError: a claim of the graph has no verdict.
    """
    names, pairs = graph(source)
    place = {name: ROW * (k + 0.5) for k, name in enumerate(names)}
    longest = max(abs(place[a] - place[b]) for a, b in pairs)
    lines, marks, items = [], [], []
    for a, b in pairs:
        bend = GUTTER - 8 - 1.33 * (GUTTER - 20) * (abs(place[a] - place[b]) / longest) ** 0.6
        lines.append(
            f'<path data-of="{a} {b}" d="M{GUTTER - 9} {place[a]:g}C{bend:.0f} {place[a]:g} {bend:.0f} {place[b]:g} '
            f'{GUTTER - 9} {place[b]:g}"/>'
        )
    for name in names:
        word, home = verdicts[name], name.partition(".")[0]
        short = name.partition(".")[2] if home == source else name
        kind = claims.VERDICTS[word]
        link = f'href="{escape(address(name))}" data-claim="{name}"'
        marks.append(
            f'<a {link} class="lb-{kind}" aria-label="{name}: {word}">'
            f'<g transform="translate({GUTTER} {place[name]:g})">{SHAPES[word]}</g>'
            f'<text x="{GUTTER + 14}" y="{place[name] + 4.5:g}">{escape(short)}</text></a>'
        )
        items.append(f"<li><a {link}>{short}</a>, {MARKS[word]}{told(name, pairs, address)}</li>")
    height, title = ROW * len(names), escape(lists.short(source))
    return (
        f'<div class="lb-grounds"><svg viewBox="0 0 {WIDTH} {height}" role="group" aria-label="What rests on what in '
        f'{title}: a list of the same stands below.">\n<g class="lb-arcs">{"".join(lines)}</g>\n'
        + "\n".join(marks)
        + "\n</svg>\n<details><summary>The same as a list</summary>\n<ul>\n"
        + "\n".join(items)
        + "\n</ul>\n</details></div>\n"
    )


def told(name: str, pairs: list[tuple[str, str]], address: Callable[[str], str]) -> str:
    """On what a claim rests, as the end of a sentence."""
    grounds = [ground for ground, above in pairs if above == name]
    linked = [f'<a href="{escape(address(one))}" data-claim="{one}">{one}</a>' for one in grounds]
    return f": rests on {', '.join(linked)}" if linked else ""


def weak(verdicts: dict[str, str], address: Callable[[str], str]) -> str:
    """The failures on which something rests, as HTML; ``verdicts`` and ``address`` as in :func:`drawing`."""
    grounds = dict.fromkeys(ground for name in verdicts for ground in lists.find(name).rests_on)
    links = [
        f'<a href="{escape(address(name))}" data-claim="{name}">{name}</a>'
        for name in grounds
        if verdicts[name] == claims.FAILS
    ]
    return f"<p>Failures on which something rests: {', '.join(links) or 'none'}.</p>\n"


def legend() -> str:
    """Which mark means which verdict, as HTML."""
    marks = [
        f'<span class="lb-{kind}"><svg viewBox="-9 -9 18 18" aria-hidden="true">{SHAPES[word]}</svg> {word}</span>'
        for word, kind in claims.VERDICTS.items()
    ]
    return f'<p class="lb-legend">{" ".join(marks)}</p>\n'
