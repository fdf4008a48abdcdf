"""What a notebook depends on: the files that its code reaches, read off the syntax, so that nothing is run.

    python tools/closure.py lorabook/flow.py data/claims/kim.yml     # the notebooks that reach one of these

Followed are `import` and `from ... import`, wherever they stand, with the `__init__` of every package on the way.
"""

import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def noise(path):
    """Whether a file is an editor's backup, a cache or hidden, and so no part of the book."""
    return any(
        part.startswith((".", "#")) or part.endswith(("~", ".swp", ".swo", ".bak", ".orig")) or part == "__pycache__"
        for part in Path(path).parts
    )


def files(*patterns):
    """The files that match, as sorted texts relative to the root."""
    found = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(str(path) for path in found if not noise(path))


def code(notebook):
    """The syntax of each code cell; None for one that does not parse, or for a file that is no notebook."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [parsed("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        return [None]


def parsed(text):
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
    """The files that run when a dotted name is imported: those of the packages on the way, and its own."""
    for end in range(1, len(name) + 1):
        path = ROOT.joinpath(*name[:end])
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


@cache
def reached(file):
    """The files that one module imports by itself."""
    tree = parsed(file.read_text(encoding="utf-8"))
    names = imports(tree, file.relative_to(ROOT).parent.parts) if tree else ()
    return {module for name in names for module in modules(name)}


def closure(start):
    """The given modules, and all that these import in turn, as sorted texts relative to the root."""
    found, waiting = set(), {ROOT / file for file in start}
    while waiting:
        found |= waiting
        waiting = {module for file in waiting for module in reached(file)} - found
    return sorted(str(file.relative_to(ROOT)) for file in found)


def needs(name):
    """The files that a run of the notebook depends on: what it imports and what lies beside that, its claim lists, its
    tables, the locks and the runner."""
    cells = code(ROOT / f"notebooks/{name}.ipynb")
    start = {module for tree in cells if tree for dotted in imports(tree) for module in modules(dotted)}
    if None in cells:  # a cell of magics may reach anything
        start |= set(files("lorabook/**/*.py"))
    package = closure(start)
    beside = {file for folder in {Path(file).parent for file in package} for file in files(f"{folder}/*")}
    lists = files("data/claims/*.yml", "data/items/*.yml", "book/errata/*.py")  # the ledger shows all of them
    if "lorabook/page/ledger.py" not in package:
        texts = [node.value for tree in cells if tree for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        lists = [file for file in lists if any(named(file, str(text)) for text in texts)]
    tables = files("data/published/*.csv") if "lorabook/inputs/published.py" in package else []
    found = {f"notebooks/{name}.ipynb", *package, *lists, *tables, *files("requirements*.lock")}
    found |= {file for file in beside if not file.endswith(".py")}
    return sorted(found | set(closure(["tools/notebooks.py"])))


def named(file, text):
    """Whether a text in a notebook's code names a claim of this list, or this very file."""
    return text.endswith(Path(file).name) or file.startswith("data/claims/") and text.startswith(f"{Path(file).stem}.")


def state(paths):
    """The content of files, by path, as hashes."""
    return {path: hashlib.md5((ROOT / path).read_bytes()).hexdigest() for path in paths}


def stamps(paths):
    """The content of files and when they were last written: what was changed and changed back differs too."""
    return {path: (state([path])[path], (ROOT / path).stat().st_mtime_ns) for path in paths if (ROOT / path).is_file()}


def asked(name):
    """A file as it was typed, seen from here or else from the root, relative to the root; it stops at any other."""
    path = next((path for path in (Path(name).resolve(), (ROOT / name).resolve()) if path.exists()), None)
    if path is None or not path.is_relative_to(ROOT):
        print(f"{name} is no file of {ROOT}.", file=sys.stderr)
    elif path.is_dir():
        print(f"{name} is a folder: name files in it.", file=sys.stderr)
    else:
        return str(path.relative_to(ROOT))
    sys.exit(2)


if __name__ == "__main__":
    wanted = set(map(asked, sys.argv[1:]))
    for notebook in files("notebooks/*.ipynb"):
        if wanted & set(needs(Path(notebook).stem)):
            print(Path(notebook).stem)
