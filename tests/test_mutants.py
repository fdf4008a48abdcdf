"""The tool that changes formulas: what it finds in a module of five functions, and that it leaves the tree alone."""

import ast
import json
import shutil
import subprocess
import sys

import nbformat
import pytest

from tools import closure, mutants

TINY = '''"""Areas, 2 of them."""


def area(side):
    return side * side


def same(x):
    return x * 1


def printed(x):
    return x + x


def alone():
    return 7


def down(n):
    while n > 0:
        n = n - 1
    return n
'''
TESTS = """from lorabook import tiny


def test_an_area():
    assert tiny.area(3) == 9


def test_nothing_changes():
    assert tiny.same(5) == 5


def test_steps_end():
    assert tiny.down(3) == 0
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with one module, one file of tests and one notebook, in which the tool has tried every mutant."""
    root = tmp_path_factory.mktemp("tree")
    for folder in ("lorabook/sweep", "tests", "tools", "notebooks"):
        (root / folder).mkdir(parents=True)
    for empty in ("lorabook/__init__.py", "lorabook/sweep/__init__.py", "tools/notebooks.py"):
        (root / empty).touch()
    for tool in ("tools/closure.py", "lorabook/sweep/closure.py"):
        shutil.copy(closure.ROOT / tool, root / tool)
    (root / "lorabook/tiny.py").write_text(TINY)
    (root / "tests/test_tiny.py").write_text(TESTS)
    # what never ends is given up after five seconds here
    text = (closure.ROOT / "tools/mutants.py").read_text(encoding="utf-8")
    (root / "tools/mutants.py").write_text(text.replace("PATIENCE = 20 ", "PATIENCE = 5 "))
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cell = nbformat.v4.new_code_cell("from lorabook import tiny\n\ntiny.printed(3)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "6"}, execution_count=1)]
    notebook.cells.append(cell)
    nbformat.write(notebook, root / "notebooks/page.ipynb")
    before = files(root)
    said = run(root)
    return root, before, said


def files(root):
    """What stands in the tree, but for what was asked to be written and Python's own notes."""
    found = (path for path in root.rglob("*") if path.is_file() and not {"_build", "__pycache__"} & set(path.parts))
    return {path: path.read_bytes() for path in found}


def run(root, *arguments):
    command = [sys.executable, "tools/mutants.py", "--seed", "3", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(root):
    """The last word on each mutant."""
    lines = map(json.loads, (root / "_build/mutants.jsonl").read_text().splitlines())
    return list({tuple(one[key] for key in ("start", "end", "new")): one for one in lines}.values())


def found(root):
    return {(one["function"], one["old"], one["new"]): (one["verdict"], one["by"]) for one in records(root)}


@pytest.mark.slow
def test_a_wrong_formula_is_killed_by_its_unit_test(tree):
    assert found(tree[0])["area", "*", "/"] == ("unit", "tests/test_tiny.py::test_an_area")
    assert found(tree[0])["same", "1", "2"] == ("unit", "tests/test_tiny.py::test_nothing_changes")


@pytest.mark.slow
def test_a_formula_that_only_a_page_prints_is_killed_by_the_page(tree):
    assert found(tree[0])["printed", "+", "-"] == ("page", "notebooks/page.ipynb::Cell 0")


@pytest.mark.slow
def test_what_never_ends_is_killed_by_time(tree):
    assert found(tree[0])["down", "-", "+"][0] == "time"


@pytest.mark.slow
def test_an_equivalent_mutant_survives_the_tests_that_call_it(tree):
    assert found(tree[0])["same", "*", "/"] == ("survived", "")
    assert [one["tests"] for one in records(tree[0]) if (one["function"], one["old"]) == ("same", "*")] == [1]


@pytest.mark.slow
def test_a_function_that_no_test_calls_survives_no_test(tree):
    assert [(one["verdict"], one["tests"]) for one in records(tree[0]) if one["function"] == "alone"] == [
        ("survived", 0)
    ]


@pytest.mark.slow
def test_the_tree_is_left_as_it_was(tree):
    assert files(tree[0]) == tree[1]


@pytest.mark.slow
def test_each_mutant_is_told_and_the_end_counts_them(tree):
    verdicts = [one["verdict"] for one in records(tree[0])]
    told = [line for line in tree[2].splitlines() if line.startswith("[")]
    # nine meet the units, and those that are left the pages
    assert len(verdicts) == 9 and len(told) == 9 + verdicts.count("page") + verdicts.count("survived")
    assert tree[2].splitlines()[-1] == ", ".join(
        f"{verdict}: {verdicts.count(verdict)}" for verdict in ("unit", "page", "time", "survived")
    )


@pytest.mark.slow
def test_a_second_run_tries_nothing_again_but_survivors_on_request(tree):
    root, _, said = tree
    kept = records(root)
    assert run(root).splitlines() == said.splitlines()[-1:] and records(root) == kept
    (root / "tests/test_alone.py").write_text(
        "from lorabook import tiny\n\n\ndef test_it():\n    assert tiny.alone() == 7\n"
    )
    assert run(root, "--again").splitlines()[-1] == "unit: 1, page: 0, time: 0, survived: 1"
    assert found(root)["alone", "7", "14"] == ("unit", "tests/test_alone.py::test_it")
    assert found(root)["same", "*", "/"] == ("survived", "")


def changed(text):
    """The mutants of a text, each as the whole text it makes."""
    source = text.encode()
    return [(source[:start] + new.encode() + source[end:]).decode() for start, end, new in mutants.mutants(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x = 3", ["x = 6"]),
        ("x = 0.0", ["x = 1.0"]),
        ("x = -y", ["x = y"]),
        ("x = (a) + (b)", ["x = (a) - (b)"]),
        ("x -= y", ["x += y"]),
        ("x = a @ b.mT", ["x = a @ b"]),
        ("x = (a @ b).t()", ["x = (a @ b)"]),
        ("x = é < y <= z", ["x = é >= y <= z", "x = é < y > z"]),
        ("x = (  # a * b\n    a\n    # + b\n    / b\n)", ["x = (  # a * b\n    a\n    # + b\n    * b\n)"]),
    ],
)
def test_a_mutant_differs_in_one_place(text, expected):
    assert changed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        '"""2 + 2"""',
        'raise ValueError("no" + str(1 + n))',
        'print(f"{2 * n:.3f}")',
        "x = True",
        "def draw(ax):\n    return 2",
        "def plot():\n    from lorabook.page import figures\n\n    return 2",
    ],
)
def test_messages_and_drawings_have_no_mutants(text):
    assert changed(text) == []


@pytest.mark.parametrize("file", ["lorabook/linear_phase.py", "lorabook/rushka/low_rank.py"])
def test_every_mutant_is_another_program(file):
    text = (closure.ROOT / file).read_text(encoding="utf-8")
    programs = {ast.dump(ast.parse(one)) for one in [text, *changed(text)]}
    assert len(programs) == len(changed(text)) + 1


def test_the_innermost_function_is_found():
    text = "@deco(\n    5\n)\ndef f(a=1):\n    g = lambda x: x + 2\n    return g(3)\n"
    places = {digit: mutants.function(text, text.index(digit)) for digit in "5123"}
    assert places == {"5": ("at import", 0), "1": ("f", 1), "2": ("f", 5), "3": ("f", 1)}
