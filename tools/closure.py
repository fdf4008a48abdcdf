"""What a notebook of this clone depends on, and which notebooks depend on a file.

    python tools/closure.py lorabook/flow.py data/claims/kim.yml     # the notebooks that reach one of these

lorabook/sweep/closure.py reads off the syntax which files of the package a notebook's code reaches.
"""

import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lorabook.sweep import closure as package
from lorabook.sweep.closure import closure, files, noise, parsed  # noqa: F401

ROOT = package.ROOT


def code(notebook):
    """The syntax of each code cell; None for one that does not parse, or for a file that is no notebook."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [parsed("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        return [None]


def needs(name):
    """The files that a run of the notebook depends on: those of the package, the locks and the runner."""
    package_files = package.needs(code(ROOT / f"notebooks/{name}.ipynb"))
    locks = files("requirements*.lock")
    return sorted({f"notebooks/{name}.ipynb", *package_files, *locks, *closure(["tools/notebooks.py"])})


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
