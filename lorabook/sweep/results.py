"""The records of a folder as a table, and as a map of where a claim holds."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from lorabook.sweep import SweepError
from lorabook.sweep.engine import read, write

NUMBERS = ("value", "probe", "repair", "constant")
FUNCTIONS = {"sqrt", "log", "exp", "abs", "minimum", "maximum"}
TICKS = 8  # values of a parameter that are all written beside a linear axis
#: What a verdict looks like on a map: a colour and a shape, so that each tells it alone.
LOOKS = {
    "holds": ("#009E73", "o"),
    "holds with a constant": ("#56B4E9", "s"),
    "holds in the range tested": ("#0072B2", "D"),
    "fails as printed": ("#D55E00", "X"),
    "not testable here": ("#888888", "P"),
    "differs from run to run": ("#E69F00", "^"),
    "the run failed": ("#888888", "x"),
}


def chosen(folder: str | Path) -> list[Path]:
    """The files of a folder's records by their parameters; of several with the same ones the one made last.

    Raises:
        SweepError: there is no such folder, it holds no record, or one cannot be read.
    """
    paths = sorted(Path(folder).glob("[!.]*.json"))
    if not paths:
        raise SweepError(f"{folder} holds no record: it is the folder that `lorabook sweep --out` wrote.")
    found: dict[tuple, tuple[str, Path, list]] = {}
    for path in paths:
        one = read(path)
        try:
            name = one["notebook"], json.dumps(one["parameters"])
            made = one["ended"], path, [_order(value) for value in one["parameters"].values()]
        except (KeyError, TypeError, AttributeError):
            raise SweepError(f"{path} is no record of a sweep.") from None
        found[name] = max(found.get(name, made), made)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], item[1][2]))
    return [path for _, (_, path, _) in ordered]


def records(folder: str | Path) -> list[dict]:
    """The records themselves."""
    return [read(path) for path in chosen(folder)]


def _order(value) -> tuple:
    """Numbers by size, then everything else by its letters."""
    return (0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value))


def flat(record: dict) -> dict:
    """One row: parameters under their names, ``claim`` its verdict, ``claim.value`` its number, and ``record....``; of
    what it was made of, the notebook's own hash is ``record.cells``."""
    row = {"record.notebook": record["notebook"], **record["parameters"]}
    for claim, verdict in record.get("verdicts", {}).items():
        row[claim] = verdict["verdict"]
        row |= {f"{claim}.{name}": float(number) for name, number in verdict.get("numbers", {}).items()}
    rest = {name: one for name, one in record.items() if name not in ("notebook", "parameters", "verdicts", "made_of")}
    rest |= {"cells" if name == "notebook" else name: version for name, version in record["made_of"].items()}
    row |= {f"record.{name}": one for name, one in rest.items()}
    return {name: json.dumps(one) if isinstance(one, list) else one for name, one in row.items()}


def table(folder: str | Path, out: str | Path = "") -> str:
    """All records, a row for each: as the text of a CSV file, or written to ``out`` (.csv or .parquet)."""
    paths = chosen(folder)
    rows = lambda: (flat(read(path)) for path in paths)  # read anew each time: there may be very many
    names = sorted({name: None for row in rows() for name in row}, key=lambda name: name.startswith("record."))
    if Path(out).suffix == ".parquet":
        from lorabook import checks

        checks.package("pyarrow", "sweep")
        import pandas

        made = io.BytesIO()
        pandas.DataFrame(list(rows()), columns=names).to_parquet(made)
        write(Path(out), made.getvalue())
        return ""
    if out and Path(out).suffix != ".csv":
        raise SweepError(f"A table is a file that ends in .csv or .parquet; got {out}.")
    text = io.StringIO()
    lines = csv.DictWriter(text, names, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows())
    if out:
        write(Path(out), text.getvalue())
    return "" if out else text.getvalue()


def verdicts(found: list[dict], x: str, y: str, claim: str) -> dict[tuple, str]:
    """What the records say of a claim at each pair of values of two parameters.

    Raises:
        SweepError: no record speaks of the claim, or the two are not two parameters with single values.
    """
    if x == y:
        raise SweepError(f"A map needs two parameters; got {x} twice.")
    of = {record["notebook"] for record in found if claim in record.get("verdicts", {})}
    if not of:
        known = sorted({name for record in found for name in record.get("verdicts", {})})
        raise SweepError(f"No record has a verdict on {claim}; they have {', '.join(known) or 'none at all'}.")
    said: dict[tuple, set] = {}
    for record in found:
        if record["notebook"] in of:
            unknown = [name for name in (x, y) if name not in record["parameters"]]
            if unknown:
                raise SweepError(f"{unknown[0]} is no parameter; these are {', '.join(record['parameters'])}.")
            place = tuple(record["parameters"][name] for name in (x, y))
            if any(isinstance(value, list) for value in place):
                raise SweepError(f"{x} and {y} need single values on a map, not lists.")
            verdict = record.get("verdicts", {}).get(claim)
            said.setdefault(place, set()).add(verdict["verdict"] if verdict else "the run failed")
    return {place: words.pop() if len(words) == 1 else "differs from run to run" for place, words in said.items()}


def border(expression: str) -> Callable[[dict], object]:
    """What a claim list says of its border, an expression that is 0 there: a function of parameters by name.

    Raises:
        SweepError: it is not made of numbers, names, + - * / ** and the functions of numpy in ``FUNCTIONS``.
    """
    import numpy

    kinds = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant, ast.Name, ast.Load)
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        if not called and not isinstance(node, kinds):
            raise SweepError(f"The border {expression!r} has {ast.unparse(node)!r}, which is no arithmetic.")
    known = {name: getattr(numpy, name) for name in FUNCTIONS}
    return lambda values: eval(compile(tree, expression, "eval"), {"__builtins__": {}} | known | values)


def draw(folder: str | Path, x: str, y: str, claim: str, out: str | Path) -> str:
    """The map of a claim over two parameters as an SVG file; a sentence where its border cannot be drawn.

    Raises:
        SweepError: as :func:`verdicts`; or ``out`` is no SVG file.
    """
    if Path(out).suffix != ".svg":
        raise SweepError(f"A map is an SVG file; give a name that ends in .svg, not {out}.")
    found = records(folder)
    said = verdicts(found, x, y, claim)
    from lorabook.page import figures, lists

    places = [_axis([place[k] for place in said]) for k in (0, 1)]
    ax = figures.panel(x, y, claim, width=6.2, height=4.0)
    for k, set_scale, set_ticks in ((0, ax.set_xscale, ax.set_xticks), (1, ax.set_yscale, ax.set_yticks)):
        where, kind = places[k]
        if kind == "names":
            set_ticks(list(where.values()), list(where))
        elif kind == "log":
            set_scale("log")
        elif len(where) <= TICKS:
            set_ticks(list(where))
    for word, (colour, shape) in LOOKS.items():
        here = [place for place, verdict in said.items() if verdict == word]
        if here:
            xy = [[places[k][0][place[k]] for place in here] for k in (0, 1)]
            ax.plot(*xy, shape, color=colour, label=word, markersize=7, linestyle="none")
    note = _dashed(ax, claim, lists, found, (x, y), places)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    counts = ", ".join(f"{list(said.values()).count(word)} {word}" for word in LOOKS if word in said.values())
    alt = f"Where {claim} holds over {x} and {y}: {counts}."
    write(Path(out), figures.row(ax, caption=claim, alt=[alt]).drawings[0])
    return note


def _axis(values: list) -> tuple[dict, str]:
    """Where each value of a parameter stands: names side by side, numbers at themselves, on a log axis if they span
    much."""
    values = sorted(set(values), key=lambda one: (isinstance(one, str), one))
    if isinstance(values[-1], str):
        return {one: k for k, one in enumerate(values)}, "names"
    wide = values[0] > 0 and values[-1] / values[0] >= 30
    return {one: one for one in values}, "log" if wide else "linear"


def _dashed(ax, claim: str, lists, found: list[dict], names: tuple[str, str], places) -> str:
    """Draw the border that the claim list predicts; why not, in a sentence, where that cannot be done."""
    import numpy

    said = lists.find(claim).border
    if not said:
        return ""
    used = {node.id for node in ast.walk(ast.parse(said)) if isinstance(node, ast.Name)} - FUNCTIONS
    alike = [record["parameters"] for record in found if claim in record.get("verdicts", {})]
    moving = sorted(name for name in used - set(names) if len({str(one.get(name)) for one in alike}) > 1)
    flat_axes = [name for name, (_, kind) in zip(names, places) if kind == "names"]
    if moving or flat_axes:
        return f"The border {said} = 0 is not drawn: {', '.join(moving or flat_axes)} takes several values besides."
    lines = []
    for where, kind in places:
        low, high = min(where), max(where)
        lines.append(numpy.geomspace(low, high, 200) if kind == "log" else numpy.linspace(low, high, 200))
    mesh = dict(zip(names, numpy.meshgrid(*lines)))
    with numpy.errstate(all="ignore"):
        height = numpy.broadcast_to(border(said)(alike[0] | mesh), mesh[names[0]].shape)
    from lorabook.page import figures

    if not (numpy.nanmin(height) < 0 < numpy.nanmax(height)):
        return f"The border {said} = 0 lies outside this map."
    ax.contour(*lines, height, levels=[0.0], colors=figures.INK, linestyles="dashed", linewidths=1.0)
    ax.plot([], [], "--", color=figures.INK, linewidth=1.0, label="predicted border")
    return ""
