"""One form for all code: ruff on the tree, and on the cells of both halves of every notebook.

`python tools/form.py` rewrites, `python tools/form.py --check` only says what would change.
A cell whose code stays the same keeps its outputs; the prose of a text is left as it is, and stands in the notebook in
plain form.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools import closure, notebooks, plain  # noqa: E402

BIN = Path(sys.executable).parent
# Imports follow the parameters, the last line of a cell is its value, and only code has a length.
LINT = ["check", "--quiet", "--ignore", "B018,E402,E501", "--output-format", "concise"]
# Lines of code that would begin a cell in the form that ruff reads, which a word keeps from it.
BORDER, KEPT = re.compile(r"^(\s*#\s*)(?=%%|<codecell>|In\[)", re.M), "(kept) "
VERSIONS = re.compile(r"^    (format_version|jupytext_version): .*\n", re.M)


def ruff(text, *arguments):
    """What ruff makes of a text, or says of it."""
    return subprocess.run([BIN / "ruff", *arguments, "-"], input=text, capture_output=True, text=True, cwd=ROOT).stdout


def formed(text):
    """A text notebook with its cells in form, and what ruff still complains of."""
    notebook = jupytext.reads(text, "md:myst")
    for cell in notebook.cells:
        cell.source = BORDER.sub(rf"\1{KEPT}", cell.source) if cell.cell_type == "code" else cell.source
    raw = jupytext.writes(notebook, "py:percent")
    code = ruff(ruff(raw, *LINT, "--fix", "--exit-zero"), "format")
    if not code:  # a cell that is no Python
        return text, ruff(raw, *LINT).splitlines()
    for old, new in zip(notebook.cells, jupytext.reads(code, "py:percent").cells, strict=True):
        if old.cell_type == "code":
            old.source = new.source.replace(KEPT, "")
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    complaints = ruff(code, *LINT).splitlines() + [f"longer than 120: {line}" for line in lines if len(line) > 120]
    return VERSIONS.sub("", jupytext.writes(notebook, "md:myst")), complaints


def carry(text, outputs):
    """Copy a text to its notebook with outputs, its prose in plain form; what to type where code differs, or None."""
    wanted = advice(text, outputs)
    if wanted is None or not wanted.endswith("make form"):
        return wanted
    left, right = plain.cells(notebooks.text(text), page(text)), notebooks.opened(outputs)
    for source, cell in zip(left.cells, right.cells, strict=True):
        cell.source = source.source
    outputs.write_text(nbformat.writes(right) + "\n", encoding="utf-8")
    return None


def same(left, right):
    """Whether two cells are prose, or the same code in perhaps another form."""
    if left.cell_type != right.cell_type or tags(left) != tags(right):
        return False
    return left.cell_type != "code" or left.source == right.source or meaning(left.source) == meaning(right.source)


def page(text):
    """The name of a text in _toc.yml."""
    return f"notebooks/{text.stem}"


def tags(cell):
    return sorted(cell.metadata.get("tags", []))


def advice(text, outputs):
    """What to type where the halves of a pair differ; None where they agree."""
    if not outputs.exists():
        return f"{text} has no {outputs.name} with its outputs: type make reference NOTEBOOKS={text.stem}"
    left, right = plain.cells(notebooks.text(text), page(text)).cells, notebooks.opened(outputs).cells
    if [(tags(cell), cell.cell_type, cell.source.strip()) for cell in left] == [
        (tags(cell), cell.cell_type, cell.source.strip()) for cell in right
    ]:
        return None
    if len(left) == len(right) and all(map(same, left, right)) and imported(left) == imported(right):
        return f"{text} and {outputs.name} differ in prose or in the form of code alone: type make form"
    return f"{text} and {outputs.name} differ in their code or cells: type make reference NOTEBOOKS={text.stem}"


def meaning(source):
    """The syntax of a cell without its imports, which `imported` compares; what does not parse, as it stands."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return source
    return [ast.dump(node) for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]


def imported(cells):
    """What the imports of a notebook bind, as far as it uses that, as (module, name, bound as); ruff may sort them,
    spread them over lines and drop what is not used."""
    nodes, used = [], set()
    for source in (cell.source for cell in cells if cell.cell_type == "code"):
        try:
            nodes += ast.walk(ast.parse(source))
        except SyntaxError:  # `meaning` takes it as it stands
            used |= set(re.findall(r"\w+", source))
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    pairs = [(node, alias) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    found = {(getattr(node, "module", None), alias.name, alias.asname or alias.name) for node, alias in pairs}
    return {one for one in found if one[0] == "__future__" or one[2] == "*" or one[2].partition(".")[0] in used}


def main(check):
    """Form everything, or say what is out of form; the exit code."""
    os.chdir(ROOT)
    wrong = [subprocess.run([BIN / "ruff", "check", *([] if check else ["--fix"]), "."], cwd=ROOT).returncode]
    wrong.append(subprocess.run([BIN / "ruff", "format", *(["--check"] if check else []), "."], cwd=ROOT).returncode)
    for path in map(Path, closure.files("notebooks/*.md")):
        try:
            complaints = pair(path, check)
        except notebooks.Trouble as trouble:
            complaints = [str(trouble)]
        for complaint in complaints:
            print(complaint)
        wrong.append(bool(complaints))
    if check and any(wrong):
        print("To mend what can be mended, type: make form")
    return max(wrong)


def pair(path, check):
    """Form a text and carry it over; what is still wrong with it."""
    notebooks.text(path)
    text = path.read_text(encoding="utf-8")
    better, complaints = formed(text)
    if better != text and check:
        complaints.append("its cells would be given another form: run make form")
    elif better != text:
        path.write_text(better, encoding="utf-8")
    wanted = None if check else carry(path, path.with_suffix(".ipynb"))
    if wanted:
        print(wanted)
    return [f"{path}: {complaint}" for complaint in complaints]


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
