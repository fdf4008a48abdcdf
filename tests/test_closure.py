"""What a notebook depends on is what it really imports, and no more than its syntax names."""

import json
import os
import re
import subprocess
import sys

import pytest

from tools import closure

NAMES = sorted(path.stem for path in (closure.ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "lorabook/__init__.py": "",
    "lorabook/one.py": "",
    "lorabook/room/__init__.py": "",
    "lorabook/room/two.py": "from . import three\n",
    "lorabook/room/three.py": "from ..one import x\n",
    "lorabook/room/look.mplstyle": "",
    "lorabook/lazy.py": "def f():\n    import lorabook.one\n",
    "lorabook/round.py": "from lorabook import about\n",
    "lorabook/about.py": "from lorabook import round\n",
    "lorabook/broken.py": "def",
    "lorabook/inputs/__init__.py": "",
    "lorabook/inputs/published.py": "",
    "lorabook/page/__init__.py": "",
    "lorabook/page/ledger.py": "",
    "data/claims/kim.yml": "",
    "data/claims/rushka.yml": "",
    "data/items/kim.yml": "",
    "book/errata/kim.slip.py": "",
    "data/published/table.csv": "",
    "lorabook/swept/__init__.py": "",
    "data/swept/table.csv": "",
    "data/card.md": "",
    "tools/notebooks.py": "from tools import kernels\n",
    "tools/kernels.py": "",
    "tools/form.py": "",
    "requirements.lock": "",
}
ALWAYS = {"notebooks/x.ipynb", "tools/notebooks.py", "tools/kernels.py", "requirements.lock"}
ROOM = {"__init__.py", "room/__init__.py", "room/look.mplstyle"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small repository; the notebook's code cells are given, and what it needs comes back."""
    for path, text in SMALL.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(closure, "ROOT", tmp_path)
    monkeypatch.setattr(closure.package, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()

    def needs(*cells):
        cells = [{"cell_type": "code", "source": [cell]} for cell in cells]
        cells.append({"cell_type": "markdown", "source": ["import lorabook.room.two and kim.lemma"]})
        (tmp_path / "notebooks/x.ipynb").write_text(json.dumps({"cells": cells}))
        found = set(closure.needs("x"))
        assert found >= ALWAYS
        return found - ALWAYS

    return needs


@pytest.mark.parametrize(
    "code, reached",
    [
        ("import json, torch", set()),
        ("import lorabook", {"__init__.py"}),
        ("import lorabook.one as o", {"__init__.py", "one.py"}),
        ("from lorabook.one import x", {"__init__.py", "one.py"}),
        ("from lorabook import one", {"__init__.py", "one.py"}),
        ("from lorabook.room import three", ROOM | {"room/three.py", "one.py"}),
        ("import lorabook.room.two", ROOM | {"room/two.py", "room/three.py", "one.py"}),
        ("def f():\n    from lorabook import one", {"__init__.py", "one.py"}),
        ("from lorabook import lazy", {"__init__.py", "lazy.py", "one.py"}),
        ("from lorabook import round", {"__init__.py", "round.py", "about.py"}),
        ("from lorabook import broken", {"__init__.py", "broken.py"}),
    ],
)
def test_each_kind_of_import_is_followed_and_nothing_else(small, code, reached):
    assert small(code) == {f"lorabook/{file}" for file in reached}


def test_a_cell_that_is_no_plain_python_may_reach_everything(small):
    assert {path for path in SMALL if path.startswith("lorabook/") and path.endswith(".py")} <= small("%run more")


def test_a_notebook_uses_the_claim_lists_that_it_names_and_the_ledger_all_it_shows(small):
    assert small('check("kim.lemma")') == {"data/claims/kim.yml"}
    assert small('check(f"rushka.{name}")', "kim = 1") == {"data/claims/rushka.yml"}
    shown = {"data/claims/kim.yml", "data/claims/rushka.yml", "data/items/kim.yml", "book/errata/kim.slip.py"}
    assert shown <= small("from lorabook.page import ledger")
    assert small('run(folder / "kim.slip.py")') == {"book/errata/kim.slip.py", "data/claims/kim.yml"}


def test_the_tables_count_where_they_are_read_and_a_data_card_never(small):
    assert "data/published/table.csv" in small("from lorabook.inputs import published")
    assert "data/swept/table.csv" in small("import lorabook.swept")
    assert not any(path.startswith("data/") for path in small("from lorabook import one"))


def test_what_each_notebook_really_imports_is_in_its_closure(root):
    """A process for each notebook, forked after what is slow to import, runs its import statements alone."""
    script = """
import ast, os, sys
import matplotlib.pyplot, myst_nb, scipy, seaborn, torch, yaml
from pathlib import Path
from tools import closure
for name in sys.argv[1:]:
    if os.fork() == 0:
        for ours in [module for module in sys.modules if module.partition(".")[0] == "lorabook"]:
            del sys.modules[ours]  # what the tools of the build imported
        for tree in closure.code(closure.ROOT / f"notebooks/{name}.ipynb"):
            lines = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
            exec("\\n".join(map(ast.unparse, lines)), {})
        loaded = {Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
        ours = {str(f.relative_to(closure.ROOT)) for f in loaded if f.is_relative_to(closure.ROOT / "lorabook")}
        print(name, len(ours), *sorted(ours - set(closure.needs(name))), flush=True)
        os._exit(0)
    os.wait()
"""
    run = subprocess.run(
        [sys.executable, "-c", script, *NAMES],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    said = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines()}
    assert sorted(said) == NAMES, run.stderr
    assert all(int(count) > 3 for count, *_ in said.values())
    assert {name: missed for name, (_, *missed) in said.items() if missed} == {}


def test_the_package_has_no_import_of_its_own_that_the_syntax_does_not_show(root):
    hidden = re.compile(r"__import__|import_module\((?!module\))|checks\.package\(\W*lorabook")
    assert [path for path in (root / "lorabook").rglob("*.py") if hidden.search(path.read_text())] == []


def test_the_notebooks_that_reach_a_file_are_printed(root):
    def printed(path):
        command = [sys.executable, root / "tools/closure.py", path]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()

    assert printed("lorabook/__init__.py") == NAMES
    assert printed("lorabook/__main__.py") == []
    assert {"ledger", "errata", "kim_landscape"} <= set(printed("data/claims/kim.yml")) < set(NAMES)


def test_what_is_no_notebook_may_reach_everything(small):
    for text in ("{}", "[1]", "null", '{"cells": [1]}', '{"cells": [{}]}', "\0"):
        (closure.ROOT / "notebooks/x.ipynb").write_text(text)
        assert "lorabook/room/two.py" in closure.needs("x"), text


@pytest.mark.parametrize(
    "path, said", [("lorabok/flow.py", "is no file of"), (__file__ + "x", "is no file of"), ("lorabook", "is a folder")]
)
def test_what_is_no_file_here_is_named_in_one_sentence(root, tmp_path, path, said):
    for folder in (root, tmp_path):
        command = [sys.executable, root / "tools/closure.py", path]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert run.returncode == 2 and run.stdout == ""
        assert run.stderr.startswith(f"{path} {said}") and run.stderr.count("\n") == 1


def test_a_file_is_found_from_the_root_and_from_where_one_stands(root, tmp_path):
    found = []
    for folder, path in ((root, "lorabook/flow.py"), (tmp_path, "lorabook/flow.py"), (root / "lorabook", "flow.py")):
        command = [sys.executable, root / "tools/closure.py", path]
        found.append(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)
    assert found[0] and found == [found[0]] * 3


def test_a_file_that_was_changed_and_put_back_has_another_stamp(small):
    before = closure.stamps(["lorabook/room/two.py", "lorabook/one.py", "gone.py"])
    text = (closure.ROOT / "lorabook/room/two.py").read_text()
    (closure.ROOT / "lorabook/room/two.py").write_text("")
    os.utime(closure.ROOT / "lorabook/one.py", (0, 0))
    (closure.ROOT / "lorabook/room/two.py").write_text(text)
    os.utime(closure.ROOT / "lorabook/room/two.py", (1, 1))
    after = closure.stamps(["lorabook/room/two.py", "lorabook/one.py", "gone.py"])
    assert before.keys() == {"lorabook/room/two.py", "lorabook/one.py"}
    assert all(before[path] != after[path] for path in before)
    assert closure.state(before) == {path: stamp[0] for path, stamp in after.items()}


def test_a_word_in_an_adapter_runs_no_notebook_of_a_source():
    of_sources = [name for name in NAMES if name.startswith(("kim", "lora_one", "mallada", "rushka"))]
    assert len(of_sources) == 12
    for name in of_sources:
        assert not any("/adapters/" in path for path in closure.needs(name)), name
