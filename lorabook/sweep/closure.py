"""What code depends on in this package: the files that it reaches, read off the syntax, so that nothing is run.

Followed are `import` and `from ... import`, wherever they stand, with the `__init__` of every package on the way.
It looks where this very package stands, so it serves a clone and an installed wheel alike.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import lorabook

ROOT = Path(lorabook.__file__).resolve().parent.parent
OURS = ("lorabook", "tools")  # beside an installed wheel lie the packages of others


def noise(path: str | Path) -> bool:
    """Whether a file is an editor's backup, a cache or hidden, and so no part of the book."""
    return any(
        part.startswith((".", "#")) or part.endswith(("~", ".swp", ".swo", ".bak", ".orig")) or part == "__pycache__"
        for part in Path(path).parts
    )


def files(*patterns: str) -> list[str]:
    """The files that match, as sorted texts relative to the root."""
    found = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(str(path) for path in found if not noise(path))


def parsed(text: str) -> ast.Module | None:
    """The syntax of a text; None for one that does not parse."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def imports(tree, package=()):
    """Every dotted name that the syntax may import, as a tuple; `package` is where it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)


def modules(name):
    """The files of ours that run when a dotted name is imported: those of the packages on the way, and its own."""
    for end in range(1, len(name) + 1) if name[0] in OURS else ():
        path = ROOT.joinpath(*name[:end])
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


@cache
def reached(file):
    """The files that one module imports by itself."""
    tree = parsed(file.read_text(encoding="utf-8"))
    names = imports(tree, file.relative_to(ROOT).parent.parts) if tree else ()
    return {module for name in names for module in modules(name)}


def closure(start) -> list[str]:
    """The given modules, and all that these import in turn, as sorted texts relative to the root."""
    found, waiting = set(), {ROOT / file for file in start}
    while waiting:
        found |= waiting
        waiting = {module for file in waiting for module in reached(file)} - found
    return sorted(str(file.relative_to(ROOT)) for file in found)


def needs(cells: list[ast.Module | None]) -> list[str]:
    """The files of this package that the code of a notebook depends on: what it imports and what lies beside that, its
    claim lists, its tables.  A cell that does not parse is None: one of magics may reach anything."""
    start = {module for tree in cells if tree for dotted in imports(tree) for module in modules(dotted)}
    if None in cells:
        start |= {ROOT / file for file in files("lorabook/**/*.py")}
    package = closure(start)
    beside = {file for folder in {Path(file).parent for file in package} for file in files(f"{folder}/*")}
    data = "lorabook/data" if (ROOT / "lorabook/data").is_dir() else "data"  # of a wheel, of a clone
    lists = files(f"{data}/claims/*.yml", f"{data}/items/*.yml", "book/errata/*.py")  # the ledger shows all of them
    if "lorabook/page/ledger.py" not in package:
        texts = [node.value for tree in cells if tree for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        lists = [file for file in lists if any(named(Path(file), str(text)) for text in texts)]
    rooms = {Path(file).parent.name for file in package}  # data/practice belongs to lorabook/practice
    rooms |= {"published"} if "lorabook/inputs/published.py" in package else set()
    tables = files(*(f"{data}/{room}/*.csv" for room in rooms))
    return sorted({*package, *lists, *tables, *(file for file in beside if not file.endswith(".py"))})


def named(file: Path, text: str) -> bool:
    """Whether a text in a notebook's code names a claim of this list, or this very file."""
    return text.endswith(file.name) or (file.parent.name == "claims" and text.startswith(f"{file.stem}."))
