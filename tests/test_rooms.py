"""The house: which room may know which, what other programs call, and names that mean one thing."""

import ast
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import lorabook

PACKAGE = Path(lorabook.__file__).parent
SHARED = {"checks", "descent", "device", "exact", "flow", "linalg", "linear_phase", "measure", "riccati"}
SOURCES = {"kim", "lora_one", "mallada", "rushka"}
CHAPTERS = {"maps", "one_dynamics", "real_fine_tune"}
# What each room may import, beside itself.
MAY = (
    {room: SHARED for room in ("page", "inputs")}
    | {source: SHARED | {"inputs"} for source in SOURCES}
    | {"adapters": SHARED | SOURCES | {"page", "inputs"}}
    | {chapter: SHARED | SOURCES | {"inputs", "page", "adapters"} for chapter in CHAPTERS}
    | {"sweep": SHARED | {"page"}, "experiments": SHARED | SOURCES | {"inputs", "page", "adapters", "sweep"}}
    | {"practice": SHARED | SOURCES | {"inputs", "real_fine_tune", "sweep"}}
    | {"commands": {"adapters", "experiments", "sweep"}, "__main__": {"commands"}, "": set()}
)
DOORS = {
    "rushka": "trace_flow trace_limit relative_error expected_squared_error time_to_residual mode frobenius_flow "
    "descend",
    "linear_phase": "propagate",
    "flow": "integrate",
    "mallada": "TwoLayer growth_rates linear_solution flow observe scalar_product",
    "lora_one": "Regression negative_gradient mean_relu_gradient spectral_init lora_ga_init descend linear_phase",
    "kim": "decoy_family Quadratic stationarity prox_nuclear proximal_gradient train theorem_1",
    "adapters": "lora_one_ certify PreconditionedAdamW LoraOneCallback",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(tree):
    """Dotted names below ``lorabook`` that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lorabook":
            inner = node.module.removeprefix("lorabook").lstrip(".")
            yield from [inner] if inner else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("lorabook.") for alias in node.names if alias.name.startswith("lorabook.")
            )


def room(path):
    """The folder of a file of the package, or its own name at the root."""
    inner = path.relative_to(PACKAGE)
    return inner.parts[0] if len(inner.parts) > 1 else "" if inner.stem == "__init__" else inner.stem


def strays(path, text):
    """Rooms that a module may not import and does."""
    known = {name.split(".")[0] for name in imported(ast.parse(text))}
    return known - MAY.get(room(path), SHARED) - {room(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_stands_below_it(path):
    assert not strays(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name, line, stray",
    [
        ("kim/theorem.py", "from lorabook import rushka", "rushka"),
        ("flow.py", "from lorabook.page import claims", "page"),
        ("adapters/start.py", "def f():\n    import lorabook.one_dynamics.early", "one_dynamics"),
        ("rushka/trace.py", "from lorabook.page.figures import panel", "page"),
    ],
)
def test_an_import_from_above_or_beside_is_found(name, line, stray):
    assert strays(PACKAGE / name, line) == {stray}


def test_the_root_is_the_mathematics_of_no_source():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules == SHARED
    assert rooms == set(MAY) - {"__main__", ""}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/runs.py")), ids=lambda path: path.parent.name)
def test_every_run_is_named_in_a_test(path):
    tests = "".join(test.read_text(encoding="utf-8") for test in Path(__file__).parent.glob("test_*.py"))
    runs = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    assert [name for name in runs if not name.startswith("_") and not re.search(rf"\bruns\.{name}\b", tests)] == []


@pytest.mark.parametrize("room, names", DOORS.items())
def test_what_other_programs_call_stays_where_it_is(room, names):
    module = importlib.import_module(f"lorabook.{room}")
    for name in names.split():
        assert callable(getattr(module, name)), name


def test_no_name_of_a_class_is_used_twice():
    names = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_room_names_each_of_its_files(room):
    doc = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    files = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    assert [name for name in sorted(files) if f"``{name}``" not in doc] == []


def test_no_module_is_hidden_by_another_thing_of_its_name():
    for path in FILES:
        if path.stem in ("__init__", "__main__"):
            continue
        inner = path.relative_to(PACKAGE).with_suffix("").parts
        importlib.import_module(".".join(("lorabook", *inner)))
        parent = importlib.import_module(".".join(("lorabook", *inner[:-1])))
        assert inspect.ismodule(getattr(parent, path.stem)), path
