"""One form for all code: ruff on the tree, and on the cells of both halves of every notebook.

`python tools/form.py` rewrites, `python tools/form.py --check` only says what would change.
A cell whose code stays the same keeps its outputs; the prose of a text is left as it is.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# Imports follow the parameters, the last line of a cell is its value, and only code has a length.
LINT = ["check", "--quiet", "--ignore", "B018,E402,E501", "--output-format", "concise"]
VERSIONS = re.compile(r"^    (format_version|jupytext_version): .*\n", re.M)


def ruff(text, *arguments):
    """What ruff makes of a text, or says of it."""
    return subprocess.run([BIN / "ruff", *arguments, "-"], input=text, capture_output=True, text=True, cwd=ROOT).stdout


def formed(text):
    """A text notebook with its cells in form, and what ruff still complains of."""
    notebook = jupytext.reads(text, "md:myst")
    raw = jupytext.writes(notebook, "py:percent")
    code = ruff(ruff(raw, *LINT, "--fix", "--exit-zero"), "format")
    if not code:  # a cell that is no Python
        return text, ruff(raw, *LINT).splitlines()
    for old, new in zip(notebook.cells, jupytext.reads(code, "py:percent").cells, strict=True):
        if old.cell_type == "code":
            old.source = new.source
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    complaints = ruff(code, *LINT).splitlines() + [f"longer than 120: {line}" for line in lines if len(line) > 120]
    return VERSIONS.sub("", jupytext.writes(notebook, "md:myst")), complaints


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
    """Whether two cells are prose, or the same code in perhaps another form."""
    if left.cell_type != right.cell_type or tags(left) != tags(right):
        return False
    return left.cell_type != "code" or left.source == right.source or meaning(left.source) == meaning(right.source)


def tags(cell):
    return sorted(cell.metadata.get("tags", []))


def advice(text, outputs):
    """What to type where the halves of a pair differ; None where they agree."""
    if not outputs.exists():
        return f"{text} has no {outputs.name} with its outputs: type make reference NOTEBOOKS={text.stem}"
    try:
        left, right = jupytext.read(text).cells, nbformat.read(outputs, as_version=4).cells
    except nbformat.reader.NotJSONError:
        return f"{outputs} is no notebook any more: type make reference NOTEBOOKS={text.stem}"
    if [(tags(cell), cell.cell_type, cell.source.strip()) for cell in left] == [
        (tags(cell), cell.cell_type, cell.source.strip()) for cell in right
    ]:
        return None
    if len(left) == len(right) and all(map(same, left, right)):
        return f"{text} and {outputs.name} differ in prose or in the form of code alone: type make form"
    return f"{text} and {outputs.name} differ in their code or cells: type make reference NOTEBOOKS={text.stem}"


def meaning(source):
    """The syntax of a cell without its imports, which ruff may sort or drop; what does not parse, as it stands."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return source
    return [ast.dump(node) for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]


def main(check):
    """Form everything, or say what is out of form; the exit code."""
    wrong = [subprocess.run([BIN / "ruff", "check", *([] if check else ["--fix"]), "."], cwd=ROOT).returncode]
    wrong.append(subprocess.run([BIN / "ruff", "format", *(["--check"] if check else []), "."], cwd=ROOT).returncode)
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        better, complaints = formed(text)
        if better != text and check:
            complaints.append("its cells would be given another form: run make form")
        elif better != text:
            path.write_text(better, encoding="utf-8")
        if not check and not carry(path, path.with_suffix(".ipynb")):
            print(f"notebooks/{path.stem}.ipynb has other code than its text: run make reference NOTEBOOKS={path.stem}")
        for complaint in complaints:
            print(f"notebooks/{path.name}: {complaint}")
        wrong.append(bool(complaints))
    return max(wrong)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
