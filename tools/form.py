"""One form for all code: ruff on the tree, and on the cells of both halves of every notebook.

`python tools/form.py` rewrites, `python tools/form.py --check` only says what would change.
A cell whose code stays the same keeps its outputs; the prose of a text is left as it is.
"""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# Imports follow the parameters, and the last line of a cell is its value.
LINT = f"{BIN}/ruff check --quiet --ignore B018,E402,E501 --output-format concise"
VERSIONS = re.compile(r"^    (format_version|jupytext_version): .*\n", re.M)


def form_text(path):
    """Give the cells of a text notebook their form; what ruff still complains of, or nothing."""
    steps = ["--pipe", f"{LINT} --fix --exit-zero -", "--pipe", f"{BIN}/ruff format -", "--check", f"{LINT} -"]
    ran = subprocess.run([BIN / "jupytext", *steps, str(path)], capture_output=True, text=True)
    path.write_text(VERSIONS.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")
    if ran.returncode:
        return "\n".join(line for line in (ran.stdout + ran.stderr).splitlines() if line.startswith("-:"))
    cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    return "\n".join(f"longer than 120: {line}" for cell in cells for line in cell.splitlines() if len(line) > 120)


def carry(text, outputs):
    """Copy the sources of a text to its notebook with outputs; False where the code itself differs."""
    left, right = jupytext.read(text), nbformat.read(outputs, as_version=4)
    if len(left.cells) != len(right.cells) or not all(map(same, left.cells, right.cells)):
        return False
    for source, cell in zip(left.cells, right.cells, strict=True):
        cell.source = source.source
    outputs.write_text(nbformat.writes(right) + "\n", encoding="utf-8")
    return True


def same(left, right):
    """Whether two cells hold the same text, or the same code in another form."""
    if left.cell_type != "code" or left.source == right.source:
        return left.source == right.source and left.cell_type == right.cell_type
    return meaning(left.source) == meaning(right.source)


def meaning(source):
    """The syntax of a cell without its imports, which ruff may sort or drop."""
    return [ast.dump(node) for node in ast.parse(source).body if not isinstance(node, ast.Import | ast.ImportFrom)]


def main(check):
    """Form everything, or say what is out of form; the exit code."""
    wrong = [subprocess.run([BIN / "ruff", "check", *([] if check else ["--fix"]), "."], cwd=ROOT).returncode]
    wrong.append(subprocess.run([BIN / "ruff", "format", *(["--check"] if check else []), "."], cwd=ROOT).returncode)
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".form-") as folder:
            formed = Path(shutil.copy(path, folder))
            complaint = form_text(formed)
            changed = formed.read_bytes() != path.read_bytes()
            if complaint:
                print(f"notebooks/{path.name}:\n{complaint}")
            elif changed and check:
                complaint = print(f"notebooks/{path.name} would be given another form: run make form") or True
            elif changed:
                formed.replace(path)
        if not check and not complaint and not carry(path, path.with_suffix(".ipynb")):
            print(f"notebooks/{path.stem}.ipynb has other code than its text: run make reference NOTEBOOKS={path.stem}")
        wrong.append(int(bool(complaint)))
    return max(wrong)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
