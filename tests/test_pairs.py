"""Each notebook is a pair: X.md, which people edit, and X.ipynb, the same cells with reference outputs."""

import copy
import json
import re
import shlex
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = sorted({path.stem for path in FOLDER.glob("*.md")} | {path.stem for path in FOLDER.glob("*.ipynb")})
LONGEST_CELL = 40
A_MACHINE = re.compile(r"/(?:home|root|tmp|work|Users)/")


def tags(cell):
    return sorted(cell.metadata.get("tags", []))


def differences(text, outputs):
    """One sentence for each way in which the two halves of a pair disagree."""
    if len(text.cells) != len(outputs.cells):
        return [f"the text has {len(text.cells)} cells and the notebook {len(outputs.cells)}"]
    found = []
    for number, (left, right) in enumerate(zip(text.cells, outputs.cells), 1):
        if left.cell_type != right.cell_type:
            found.append(f"cell {number} is {left.cell_type} in the text and {right.cell_type} in the notebook")
        if left.source.strip() != right.source.strip():
            found.append(f"cell {number} has another source in the text than in the notebook")
        if tags(left) != tags(right):
            found.append(f"cell {number} has tags {tags(left)} in the text and {tags(right)} in the notebook")
    return found


def faults(notebook):
    """One sentence for each thing that reference outputs may not be."""
    found = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if sum("parameters" in tags(cell) for cell in notebook.cells) != 1:
        found.append("there is not exactly one cell tagged 'parameters'")
    code = [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    if not any(cell.outputs for _, cell in code):
        found.append("no cell has an output")
    for number, cell in code:
        if cell.execution_count is None:
            found.append(f"cell {number} was not executed")
        if len(cell.source.splitlines()) > LONGEST_CELL:
            found.append(f"cell {number} is longer than {LONGEST_CELL} lines")
        if any(output.output_type == "error" for output in cell.outputs):
            found.append(f"cell {number} holds an error")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            found.append(f"cell {number} wrote to standard error")
        if A_MACHINE.search(json.dumps(cell.outputs)):
            found.append(f"cell {number} shows a path of the machine it ran on")
        if "volatile" in tags(cell) and "nbval-ignore-output" not in tags(cell):
            found.append(f"cell {number} is volatile and not tagged 'nbval-ignore-output'")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_two_halves_of_a_pair_have_the_same_cells(name):
    from tools import plain

    text, outputs = jupytext.read(FOLDER / f"{name}.md"), nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert differences(plain.cells(text, f"notebooks/{name}"), outputs) == []


@pytest.mark.parametrize("name", NAMES)
def test_reference_outputs_are_complete(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert faults(notebook) == []


def test_every_notebook_is_a_page_of_the_book(root):
    contents = yaml.safe_load((root / "_toc.yml").read_text())
    pages = {chapter["file"] for part in contents["parts"] for chapter in part["chapters"]}
    assert {page for page in pages if page.startswith("notebooks/")} == {f"notebooks/{name}" for name in NAMES}


def test_every_profile_belongs_to_a_notebook_and_sets_only_its_parameters():
    from tools import notebooks

    for path in FOLDER.glob("profiles/*/*.yml"):
        assert path.stem in NAMES, f"{path} belongs to no notebook"
        notebooks.profile_values(path, nbformat.read(FOLDER / f"{path.stem}.ipynb", as_version=4))


@pytest.mark.parametrize("line", ["n = 2 * 3", "n = other", "n, m = (1, 2)", "n: int"])
def test_a_parameter_that_is_no_plain_value_is_refused_with_one_sentence(line):
    from tools import notebooks

    notebook = a_notebook()
    notebook.cells[1].source = line
    with pytest.raises(
        notebooks.Trouble, match=f"^the parameters cell may set names to plain values only, and has: {re.escape(line)}$"
    ):
        notebooks.defaults(notebook)


# ------------------------------------------------------------ lines to paste
PAPERMILL = re.compile(r"^papermill (.*)$", re.M)


def bad_lines(text, folder):
    """One sentence for each papermill line of ``text`` that would not start: no such notebook, or a parameter that it
    does not have."""
    from tools import notebooks

    found = []
    for line in PAPERMILL.findall(text):
        source, _, *options = shlex.split(line)
        if not (folder / source).exists():
            found.append(f"{source}: there is no such notebook")
            continue
        known = notebooks.defaults(nbformat.read(folder / source, as_version=4))
        names = []
        while options:
            option, *options = options
            if option == "-p":
                name, _, *options = options
                names.append(name)
            elif option == "-y":
                value, *options = options
                names += yaml.safe_load(value)
            elif option == "-f" and (folder / options[0]).exists():
                file, *options = options
                names += yaml.safe_load((folder / file).read_text())
            else:
                found.append(
                    f"{source}: {option} is no option of papermill that this test knows, or its file is missing"
                )
        found += [f"{source}: there is no parameter {name}" for name in names if name not in known]
    return found


PASTED = [f"notebooks/{name}.md" for name in NAMES] + ["README.md", "book/rerun.md"]


@pytest.mark.parametrize("page", PASTED)
def test_every_papermill_line_names_a_notebook_and_its_parameters(page, root):
    text = (root / page).read_text()
    assert bad_lines(text, root) == []
    chapter = page.startswith("notebooks/") and Path(page).stem not in ("ledger", "errata")
    assert not chapter or f"papermill {page[:-3]}.ipynb out.ipynb" in text, "a chapter ends with a line to paste"


@pytest.mark.parametrize(
    "line",
    [
        "papermill notebooks/gone.ipynb out.ipynb -p n 4",
        "papermill notebooks/rushka_closed_forms.ipynb out.ipynb -p size 4",
        'papermill notebooks/rushka_closed_forms.ipynb out.ipynb -y "{n: 4, size: 4}"',
        "papermill notebooks/rushka_closed_forms.ipynb out.ipynb --p n 4",
        "papermill notebooks/rushka_closed_forms.ipynb out.ipynb -f gone.yml",
        "papermill notebooks/rushka_closed_forms.ipynb out.ipynb -f notebooks/profiles/full/kim_networks.yml",
    ],
)
def test_a_papermill_line_that_would_not_start_is_caught(line, root):
    assert len(bad_lines(f"```bash\n{line}\n```", root)) >= 1


def a_notebook():
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("n = 3", metadata={"tags": ["parameters"]}),
    ]
    notebook.cells[1].execution_count = 1
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="3")]
    return notebook


def change_source(notebook):
    notebook.cells[1].source = "n = 4"


def change_tags(notebook):
    notebook.cells[1].metadata.tags = []


def change_type(notebook):
    notebook.cells[0] = nbformat.v4.new_code_cell(notebook.cells[0].source)


def add_a_cell(notebook):
    notebook.cells.append(nbformat.v4.new_markdown_cell("more"))


@pytest.mark.parametrize("drift", [change_source, change_tags, change_type, add_a_cell])
def test_a_drifted_pair_is_caught(drift):
    text = a_notebook()
    outputs = copy.deepcopy(text)
    assert differences(text, outputs) == []
    drift(outputs)
    assert len(differences(text, outputs)) == 1


def other_kernel(notebook):
    notebook.metadata.kernelspec.name = "python2"


def no_outputs(notebook):
    notebook.cells[1].outputs = []


def not_executed(notebook):
    notebook.cells[1].execution_count = None


def an_error(notebook):
    notebook.cells[1].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]))


def a_warning(notebook):
    notebook.cells[1].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="UserWarning"))


def a_path(notebook):
    notebook.cells[1].outputs[0].text = "saved to /home/someone/out.png"


def a_long_cell(notebook):
    notebook.cells[1].source = "\n" * LONGEST_CELL + "n = 3"


def a_held_clock(notebook):
    notebook.cells[1].metadata.tags.append("volatile")


@pytest.mark.parametrize(
    "spoil",
    [other_kernel, no_outputs, not_executed, an_error, a_warning, a_path, a_long_cell, a_held_clock, change_tags],
)
def test_incomplete_reference_outputs_are_caught(spoil):
    notebook = a_notebook()
    assert faults(notebook) == []
    spoil(notebook)
    assert len(faults(notebook)) == 1
