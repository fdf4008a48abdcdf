"""The package away from its clone: what a wheel holds and does alone, and what it says where an extra is missing."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lorabook
from lorabook.__main__ import main
from lorabook.page import claims, lists

slow = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
BUILT = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]  # nothing is fetched
CHAPTER = "lora_one_start"  # reads claims and published tables, and is fast
REAL = ["peft", "transformers", "accelerate"]
BLOCKER = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
MODULES = """
import importlib, json, pkgutil, sys, lorabook
for one in pkgutil.walk_packages(lorabook.__path__, "lorabook."):
    importlib.import_module(one.name)
from lorabook.inputs import published
from lorabook.page import claims, lists
print(json.dumps({
    "files": sorted({m.__file__ for n, m in sys.modules.items() if n.startswith("lorabook") and m.__file__}),
    "data": [str(lists.LISTS), str(published.FOLDER)],
    "claims": sorted(claim for source in lists.sources() for claim in lists.load(source)),
    "tables": {path.stem: len(published.read(path.stem)) for path in sorted(published.FOLDER.glob("*.csv"))},
    "version": lorabook.__version__,
}))
"""


def run(*command, cwd, **variables):
    """A finished process with none of this environment's variables but the way to its programs and devices."""
    quiet = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=quiet | variables, capture_output=True, text=True)


def right(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(root):
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if name and (root / name).is_file()]


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory):
    """The tracked files in a folder of their own, as a repository with nothing to commit."""
    folder = tmp_path_factory.mktemp("copy") / "lorabook"
    for name in tracked(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, folder / name)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(copy):
    return build(copy)


def build(source):
    """The wheel of a folder with sources, in a folder beside it."""
    target = source.parent / "dist"
    right(run(*PIP, "wheel", *BUILT, "-w", target, source, cwd=source.parent))
    (made,) = target.glob("*.whl")
    return made


def python(folder):
    """An interpreter that sees the packages of this environment, but no lorabook: a .pth is not read twice over."""
    right(run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent))
    made = folder / "bin" / "python"
    where = right(run(made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder.parent)).strip()
    with open(f"{where}/dependencies.pth", "w") as lines:
        lines.writelines(f"{sysconfig.get_path(kind)}\n" for kind in ("purelib", "platlib"))
    assert "No module named 'lorabook'" in run(made, "-c", "import lorabook", cwd=folder.parent).stderr
    return made


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory):
    """A folder far from the clone, with an interpreter whose lorabook is the wheel's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    made = python(folder / "env")
    right(run(*PIP, "--python", made, "install", *BUILT, "--ignore-installed", wheel, cwd=folder))
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from adapter_folders import folder, pair

    return folder(tmp_path_factory.mktemp("adapter") / "saved", {"x.query": pair(8, 8, 2), "x.value": pair(8, 6, 2, 1)})


def without(place, *names):
    """The variables of a run in which the named packages cannot be imported."""
    folder = place / "-".join(("without", *names))
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=set(names)))
    return {"PYTHONPATH": str(folder)}


# ---------------------------------------------------------------- in the clone


def test_there_is_one_version(root, capsys):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lorabook.__version__"}
    assert yaml.safe_load((root / "CITATION.cff").read_text())["version"] == lorabook.__version__
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"lorabook {lorabook.__version__}\n"


def test_a_clone_on_the_path_reads_its_own_data(root):
    assert lists.LISTS == root / "data" / "claims"


def test_the_rooms_in_the_readme_and_in_the_package_are_those_that_there_are(root):
    rooms = {path.parent.name for path in (root / "lorabook").glob("*/__init__.py")}
    house = (root / "README.md").read_text().split("## The house")[1].split("\n## ")[0]
    assert [room for room in rooms if f"{room}/`" not in house] == []
    assert [room for room in rooms if f"``{room}``" not in lorabook.__doc__] == []
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [extra for extra in extras if f"| `{extra}` |" not in house] == []


def imports(code):
    """Top-level names that a text of Python imports from outside: at its head, and anywhere."""
    tree = ast.parse(code)
    found = {"head": set(), "anywhere": set()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {node.module}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("package", "checks.package")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names = {node.args[0].value}
        else:
            continue
        names = {name.split(".")[0] for name in names} - sys.stdlib_module_names
        found["anywhere"] |= names
        if node in tree.body:
            found["head"] |= names
    return found


def code(path):
    if path.suffix == ".md":
        return "\n".join(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code")
    return path.read_text(encoding="utf-8")


def undeclared(paths, project, *extras, where="anywhere"):
    """Packages that the files import and that neither the base nor the extras declare."""
    lines = project["dependencies"] + [one for extra in extras for one in project["optional-dependencies"][extra]]
    asked = [Requirement(line) for line in lines]
    deeper = sorted(set().union(*(one.extras for one in asked if one.name == "lorabook")) - set(extras))
    if deeper:  # an extra that takes another one along
        return undeclared(paths, project, *extras, *deeper, where=where)
    declared = {canonicalize_name(one.name) for one in asked}
    owners = importlib.metadata.packages_distributions()
    ours = {
        "lorabook",
        "tools",
        "benchmarks",
        "tests",
        "test_device_discipline",
        "half_there",
        "no_lora",
        *(path.stem for path in (Path(__file__).parent.parent / "book/_ext").glob("*.py")),
    } | {path.stem for path in paths}
    wanted = set().union(*(imports(code(path))[where] for path in paths)) - ours
    return {name for name in wanted if not declared & set(map(canonicalize_name, owners.get(name, [name])))}


def test_each_extra_holds_what_its_part_of_the_tree_imports(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    package = sorted((root / "lorabook").rglob("*.py"))
    tools = {*root.glob("tools/*.py")} - {root / "tools/mutants.py"}  # that one runs tests
    chapters = [*root.glob("notebooks/*.md"), *root.glob("book/_ext/*.py"), *sorted(tools), root / "dodo.py"]
    assert undeclared(package, project, where="head") == set()
    assert undeclared(package, project, *project["optional-dependencies"]) == set()
    assert undeclared(chapters, project, "book") == set()
    tested = [*sorted((root / "tests").glob("*.py")), root / "tools/mutants.py"]
    assert undeclared(tested, project, "book", "experiments", "sweep", "test") == set()
    assert undeclared(sorted((root / "benchmarks").glob("*.py")), project, "real", "sweep", "bench") == set()
    # counter-probe: what an extra brings is not in the base
    assert undeclared(package, project) >= {"peft", "sklearn", "tokenizers", "transformers"}
    assert undeclared(chapters, project) >= {"jupytext", "papermill", "sympy"}


# ---------------------------------------------------------------- the wheel


@slow
def test_the_wheel_holds_the_package_the_claims_and_the_tables_and_nothing_else(root, copy, wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    names = tracked(root)
    package = {name for name in names if name.startswith("lorabook/")}
    travels = re.compile(
        r"data/((claims|experiments)/.*\.yml|published/.*|(practice|real_fine_tune|kim_minilm)/.*\.csv)"
    )
    data = {f"lorabook/{name}" for name in names if travels.fullmatch(name)}
    assert held == package | data and len(data) > 10
    left = run("/usr/bin/env", "git", "status", "--porcelain", "--ignored", cwd=copy)
    assert right(left) == ""  # a build leaves nothing in the tree, not even what git ignores


@slow
def test_the_sdist_and_an_archive_of_the_repository_make_the_same_wheel(copy, wheel, tmp_path):
    packed = {name: zipfile.ZipFile(wheel).read(name) for name in zipfile.ZipFile(wheel).namelist()}
    hook = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    right(run(sys.executable, "-c", hook, tmp_path, cwd=copy))
    (sdist,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["git", "archive", "--prefix=tree/", "-o", tmp_path / "tree.tar", "HEAD"], cwd=copy, check=True)
    for number, archive in enumerate((sdist, tmp_path / "tree.tar")):
        shutil.unpack_archive(archive, tmp_path / str(number))
        (source,) = (tmp_path / str(number)).iterdir()
        again = zipfile.ZipFile(build(source))
        assert {name: again.read(name) for name in again.namelist()} == packed


@slow
def test_every_module_claim_list_and_table_is_found_in_an_installed_wheel(place):
    found = json.loads(right(run(place / "env/bin/python", "-c", MODULES, cwd=place)))
    assert {path.startswith(f"{place}/env/") for path in found["files"] + found["data"]} == {True}
    assert found["claims"] == sorted(claim for source in lists.sources() for claim in lists.load(source))
    assert found["tables"] and min(found["tables"].values()) > 0 and found["version"] == lorabook.__version__


@slow
def test_an_editable_install_reads_the_data_of_its_clone_and_a_clone_on_the_path_its_own(copy, root, tmp_path):
    made = python(tmp_path / "env")
    right(run(*PIP, "--python", made, "install", *BUILT, "--ignore-installed", "-e", copy, cwd=tmp_path))
    ask = "from lorabook.inputs import published; from lorabook.page import lists; print(lists.LISTS, published.FOLDER)"
    for home, variables in ((copy, {}), (root, {"PYTHONPATH": str(root)})):
        said = right(run(made, "-c", ask, cwd=tmp_path, **variables))
        assert said == f"{home}/data/claims {home}/data/published\n"


@slow
def test_the_command_of_the_wheel_measures_a_saved_adapter(place, adapter):
    command = place / "env/bin/lorabook"
    assert right(run(command, "--version", cwd=place)) == f"lorabook {lorabook.__version__}\n"
    said = right(run(command, "inspect", adapter, cwd=place))
    assert "LoRA adapter with 2 modules" in said
    assert right(run(place / "env/bin/python", "-m", "lorabook", "inspect", adapter, cwd=place)) == said


def verdicts(path):
    """The verdicts that the outputs of a notebook record."""
    outputs = (output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", []))
    records = [output.get("metadata", {}).get(claims.METADATA) for output in outputs]
    return [(record["id"], record["verdict"]) for record in records if record]


@slow
def test_a_chapter_runs_on_the_wheel_far_from_the_clone(root, place):
    shutil.copy(root / f"notebooks/{CHAPTER}.ipynb", place)
    command = [place / "env/bin/python", "-m", "papermill", f"{CHAPTER}.ipynb", "out.ipynb", "-k", "python3"]
    right(run(*command, "--no-progress-bar", cwd=place))
    expected = verdicts(root / f"notebooks/{CHAPTER}.ipynb")
    assert len(expected) > 3 and verdicts(place / "out.ipynb") == expected


@slow
def test_a_chapter_installs_the_package_where_it_is_missing_and_leaves_torch_and_numpy_alone(root, wheel, tmp_path):
    made, name = python(tmp_path / "env"), "rushka_closed_forms"
    cells = [cell.source for cell in nbformat.read(root / f"notebooks/{name}.ipynb", as_version=4).cells]
    first = next(source for source in cells if "LORABOOK_SOURCE" in source)
    (tmp_path / "first.py").write_text(f"{first}\nimport lorabook\nprint(lorabook.__file__)\n")
    variables = {"LORABOOK_SOURCE": f"lorabook[notebooks] @ {wheel.as_uri()}", "PIP_NO_INDEX": "1"}
    said = right(run(made, "first.py", cwd=tmp_path, **variables))
    assert said.strip() == str(next((tmp_path / "env").glob("lib/python*/site-packages/lorabook/__init__.py")))
    alone = {path.name for path in (tmp_path / "env").glob("lib/python*/site-packages/*")}
    assert {name.partition("-")[0] for name in alone} == {"lorabook", "dependencies.pth"}
    # where it is there, nothing is installed: a source that is none does not matter
    again = variables | {"LORABOOK_SOURCE": "no source at all"}
    assert right(run(made, "first.py", cwd=tmp_path, **again)) == said


def test_every_chapter_begins_with_the_same_cell_that_installs(root):
    first = {
        next(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code")
        for path in root.glob("notebooks/*.md")
    }
    assert len(first) == 1 and "LORABOOK_SOURCE" in first.pop()


# ---------------------------------------------------------------- without an extra


def sentence(package, extra):
    return f"This needs {package}: run `pip install {package}`, or install lorabook with its extra `{extra}`."


@slow
def test_without_the_extra_real_an_adapter_is_inspected_and_the_certificate_says_what_to_install(place, adapter):
    bare, command = without(place, *REAL), place / "env/bin/lorabook"
    assert "LoRA adapter with 2 modules" in right(run(command, "inspect", adapter, cwd=place, **bare))
    config = json.loads((adapter / "adapter_config.json").read_text())
    task = shutil.copytree(adapter, place / "task", dirs_exist_ok=True)
    (task / "adapter_config.json").write_text(json.dumps(config | {"task_type": "SEQ_CLS"}))
    (place / "train.jsonl").write_text('{"text": "a film", "label": 0}\n')
    options = ["--model", ".", "--data", "train.jsonl", "--weight-decay", "0.1"]
    done = run(command, "inspect", task, *options, cwd=place, **bare)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"lorabook: {sentence('transformers', 'real')}\n"


@slow
@pytest.mark.parametrize(
    "call, package, extra",
    [
        ("adapters.lora_one_(None, [], gamma=1.0)", "peft", "real"),
        ("adapters.certify(None, [], 0.1)", "peft", "real"),
        ("adapters.PreconditionedAdamW(None)", "peft", "real"),
        ("adapters.LoraOneCallback()", "transformers", "real"),
        ("digits.split()", "scikit-learn", "book"),
        ("encoder.tokenize(['a film'])", "tokenizers", "book"),
    ],
)
def test_what_needs_a_package_of_an_extra_imports_without_it_and_says_so_when_called(place, call, package, extra):
    rooms = (
        "from lorabook import adapters\nfrom lorabook.inputs import digits\nfrom lorabook.real_fine_tune import encoder"
    )
    ask = f"{rooms}\ntry:\n    {call}\nexcept ImportError as error:\n    print(error)"
    bare = without(place, *REAL, "sklearn", "tokenizers")
    said = right(run(place / "env/bin/python", "-c", ask, cwd=place, **bare))
    assert said == f"{sentence(package, extra)}\n"
