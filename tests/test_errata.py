"""Every erratum has a witness: a few lines without this package that print what is printed and what is right."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lorabook.page import claims, ledger, lists

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "errata"
WITNESSES = sorted(FOLDER.glob("*.py"))
LIBRARIES = {"__future__", "cmath", "fractions", "itertools", "math", "mpmath", "numpy", "scipy", "sympy"}
# The process in which a witness runs cannot import this package, nor torch.
ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("lorabook", "torch"):
            raise ImportError(f"{name} is refused here")
sys.meta_path.insert(0, Refuse())
runpy.run_path(sys.argv[1])
"""


def named(path):
    return path.stem


def said(path):
    """The two lines that a witness prints, as (printed, right)."""
    command = [sys.executable, "-I", "-c", ALONE, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = re.fullmatch(r"printed: (.+)\nright: (.+)\n", run.stdout)
    assert found, run.stdout
    return found.groups()


@pytest.mark.parametrize("path", WITNESSES, ids=named)
def test_a_witness_prints_what_the_card_prints(path):
    assert said(path) == lists.find(path.stem).witness


@pytest.mark.parametrize("path", WITNESSES, ids=named)
def test_a_witness_is_short_and_needs_nothing_of_ours(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    used = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    used |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert len(text.splitlines()) <= 40
    assert {name.split(".")[0] for name in used} <= LIBRARIES
    assert ast.get_docstring(tree)


def test_every_erratum_has_a_witness_and_every_witness_an_erratum():
    failing = {
        verdict.claim.id
        for _, verdict in ledger.collect(ROOT / "notebooks")
        if verdict.verdict == claims.FAILS and ledger.printed(verdict)
    }
    assert failing == {path.stem for path in WITNESSES}


def test_a_witness_that_says_something_else_is_found(tmp_path):
    path = tmp_path / "demo.a.py"
    path.write_text("print('printed: 1')\nprint('right: 2')\n")
    assert said(path) == ("1", "2")
    path.write_text("import lorabook\n")
    with pytest.raises(AssertionError, match="lorabook"):
        said(path)
