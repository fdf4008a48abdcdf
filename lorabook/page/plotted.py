"""What panels show, as one tidy table: read off what was drawn, so that no figure is without its data.

A row is a point. ``panel`` is the letter on the page, ``series`` the name in the legend; the other columns are named
by the axes, with ``..., low`` and ``..., high`` for a band or an interval. A series without a name has that of the
one that looks the same, in another panel where no curve of its own panel has one; a prediction has that of the
series it is drawn on.
Streamlines are not in it: they guide the eye along a formula.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import numpy as np
import pandas
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.contour import ContourSet
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

NAMELESS = re.compile("_child[0-9]+|_nolegend_|")
EMPTY = pandas.DataFrame()


def csv(panels) -> str:
    """The points of some panels as the text of a CSV file.

    Five digits: a hundredth of a pixel, and the same on most processors.
    """
    looks = _named(line for ax in panels for line in ax.lines)
    tables = [_panel(ax, looks).assign(panel=letter) for ax, letter in zip(panels, "abcdefghijkl")]
    table = pandas.concat(tables, ignore_index=True).set_index(["panel", "series"])
    return table.rename(columns=plain).to_csv(float_format="%.5g", lineterminator="\n")


def link(text: str) -> str:
    """A link that holds a CSV file; the site makes a file of it."""
    held = quote(text, safe=" ~()*!.:@,;/+|[]=")
    return f'<a class="lb-data" download="figure.csv" href="data:text/csv;charset=utf-8,{held}">data (CSV)</a>'


def _panel(ax: Axes, looks: dict[tuple | None, str]) -> pandas.DataFrame:
    """The points of one panel; ``looks`` has the names of the series of all panels."""
    drawn = [(artist, points) for artist in ax.get_children() if len(points := _points(artist, ax))]
    own = _named(ax.lines)
    curves = [one for one, _ in drawn if isinstance(one, Line2D) and one.get_linestyle() not in ("--", ":")]
    seen = looks | own if len(curves) > 1 and not any(map(_label, curves)) else own
    names, tables, before = [""], [pandas.DataFrame(columns=["x", "y"], dtype=float)], None
    for artist, points in drawn:
        on = next((name for name, end in (("x", "low"), ("y", "left")) if end in points), None)
        if on and points[on].isin(tables[-1][on]).all():  # an interval around the curve drawn before it
            tables[-1] = tables[-1].merge(points, how="left")
            continue
        level = "level" in points or "x" in points and points["x"].isna().any()
        instead = "level" if level else plain(ax.get_ylabel() or ax.get_title(loc="left"))
        names.append(_name(artist, before, names, seen.get(_look(artist)) or instead))
        tables.append(points.assign(series=names[-1]))
        before = artist
    table = pandas.concat(tables)
    for axis in (ax.xaxis, ax.yaxis):
        table[axis.axis_name] = _worded(table[axis.axis_name], axis)
    x, y = ax.get_xlabel() or "column", ax.get_ylabel() or "row"
    y = f"{y}, up" if y == x else y
    words = {"x": x, "y": y, "left": f"{x}, low", "right": f"{x}, high", "low": f"{y}, low", "high": f"{y}, high"}
    return table.rename(columns=words)


def _points(artist: Artist, ax: Axes) -> pandas.DataFrame:
    """What an artist shows, in the coordinates of the data; what it does not place there is missing."""
    if isinstance(artist, ContourSet):
        paths = zip(artist.levels, artist.get_paths())
        lines = [(level, line) for level, path in paths for line in path.to_polygons(closed_only=False)]
        drawn = [_table(line).assign(level=level, line=k) for k, (level, line) in enumerate(lines, 1)]
        return pandas.concat(drawn) if drawn else EMPTY
    if isinstance(artist, QuadMesh):
        corners = artist.get_coordinates()
        return _table((corners[:-1, :-1] + corners[1:, 1:]).reshape(-1, 2) / 2).assign(value=artist.get_array().ravel())
    if isinstance(artist, PathCollection):
        return _table(artist.get_offsets())
    for errors in (one for one in ax.containers if isinstance(one, ErrorbarContainer)):
        if artist in errors[2]:
            low, high = np.stack(artist.get_segments()).transpose(1, 2, 0)  # of (N, 2, 2)
            across = {"x": low[0], "low": low[1], "high": high[1]}
            return pandas.DataFrame(across if errors.has_yerr else {"y": low[1], "left": low[0], "right": high[0]})
        if artist in errors[1]:
            return EMPTY
    if isinstance(artist, Line2D) and (artist.get_linestyle() != "None" or artist.get_marker() not in ("None", "")):
        return _placed(_table(artist.get_xydata()), artist.get_transform(), ax)
    if isinstance(artist, Rectangle) and artist is not ax.patch:
        ends = _placed(_table(artist.get_corners()[[0, 2]]), artist.get_data_transform(), ax)
        return ends if ends.isna().any(axis=None) else ends[1:].assign(y=ends["y"].mean())  # a strip, a bar
    if isinstance(artist, PolyCollection) and artist.get_paths():  # none where a band has no place on a log axis
        edges = pandas.concat([_table(path.vertices) for path in artist.get_paths()])
        edges = _placed(edges, artist.get_transform(), ax)
        if edges.isna().any(axis=None):
            return edges.sort_values("x")
        return edges.groupby("x")["y"].agg(low="min", high="max").reset_index()
    return EMPTY


def _table(points) -> pandas.DataFrame:
    return pandas.DataFrame(np.asarray(points, dtype=float), columns=["x", "y"])


def _placed(points: pandas.DataFrame, transform, ax: Axes) -> pandas.DataFrame:
    """Without what is given as a share of the panel."""
    placed = transform.contains_branch_seperately(ax.transData)
    points = points.assign(**{name: np.nan for name, there in zip("xy", placed) if not there})
    return points if all(placed) else points.drop_duplicates()


def plain(text: str) -> str:
    """A label on one line, its TeX as letters."""
    return " ".join(re.sub(r"\$|\\[,;]|\\(?=[A-Za-z])", "", text).split())


def _label(artist: Artist) -> str:
    label = plain(artist.get_label() or "")
    return "" if NAMELESS.fullmatch(label) else label.removeprefix("_")


def _look(artist: Artist) -> tuple | None:
    """By what a reader tells one curve from another."""
    if not isinstance(artist, Line2D):
        return None
    return to_hex(artist.get_color()), artist.get_marker(), artist.get_linestyle()


def _named(lines) -> dict[tuple | None, str]:
    """The first name of each look."""
    return {_look(line): _label(line) for line in reversed(list(lines)) if _label(line)}


def _name(artist: Artist, before: Artist | None, names: list[str], instead: str) -> str:
    """The name of a series, after the ``names`` of others, the last of them drawn by ``before``."""
    label = _label(artist)
    dashed = [isinstance(one, Line2D) and one.get_linestyle() == "--" for one in (artist, before)]
    if dashed[0] and label in ("", "prediction"):
        return f"{re.sub(', [0-9]+$', '', names[-1])}, {len(names)}" if dashed[1] else f"prediction, {names[-1]}"
    again = isinstance(artist, Line2D) and instead in names
    return label or (f"{instead}, {len(names)}" if again else instead) or "shown"


def _worded(values: pandas.Series, axis) -> pandas.Series:
    """Places on an axis of names become names."""
    words = {float(at): text.get_text() for at, text in zip(axis.get_ticklocs(), axis.get_ticklabels())}
    found = [words.get(value, "") for value in values]
    named = all(re.search("[A-Za-z]", word) for word in found)
    return pandas.Series(found, values.index) if named and found else values
