"""What CONTRIBUTING.md tells people to type and to open is there, and what it says of CI and releases is so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lorabook

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", PAGE)
COMMANDS = [code for code in CODE if code.split()[0] in ("make", "doit", "pytest", "OMP_NUM_THREADS=1")]


@pytest.fixture(scope="module")
def tasks():
    """The names that `doit list --all` shows."""
    command = [Path(sys.executable).parent / "doit", "list", "--all", "--quiet"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def unknown(command, tasks):
    """What of a command is not there: a target of make, a task of doit, a file of pytest; a name X stands for any."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    names = re.findall(r"NOTEBOOKS=(\w+)", command)
    missing = [name for name in names if name != "X" and not (ROOT / f"notebooks/{name}.ipynb").exists()]
    if words[0] == "make":
        targets = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.M)
        return missing + sorted(set(words[1:]) - {word for line in targets for word in line.split()})
    if words[0] == "doit":
        return [word for word in words[1:] if not word.startswith("-") and word not in tasks | {"list"}]
    return [word for word in words[1:] if not word.startswith("-") and not (ROOT / word).exists()]


def test_what_it_says_to_type_is_a_target_a_task_or_a_file(tasks):
    assert len(COMMANDS) > 10
    assert {command: unknown(command, tasks) for command in COMMANDS if unknown(command, tasks)} == {}


@pytest.mark.parametrize(
    "command, missing",
    [
        ("make coffee", "coffee"),
        ("make reference NOTEBOOKS=nowhere", "nowhere"),
        ("doit notebook:nowhere", "notebook:nowhere"),
        ("OMP_NUM_THREADS=1 pytest --nbval notebooks/nowhere.ipynb", "notebooks/nowhere.ipynb"),
    ],
)
def test_a_command_that_is_not_there_is_caught(tasks, command, missing):
    assert unknown(command, tasks) == [missing]


def test_every_page_of_the_contents_is_one_that_the_book_is_built_of():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    wanted = [contents["root"], *(one["file"] for part in contents["parts"] for one in part["chapters"])]
    command = [Path(sys.executable).parent / "doit", "info", "--no-status", "pages"]
    copied = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(wanted) > 25
    assert [name for name in wanted if f"/pages/{name}.md\n" not in copied] == []


def test_the_files_it_names_exist():
    named = [code for code in CODE if re.fullmatch(r"[\w./-]+(/|\.(md|py|yml|cff|ipynb))", code) and "X" not in code]
    made = (".venv",)
    assert len(named) > 8
    assert [name for name in named if not name.startswith(made) and not list(ROOT.glob(f"**/{name}"))] == []


def test_make_check_takes_files_of_tests_that_exist(tasks):
    names = re.search(r'^FAST = """(.*?)"""', (ROOT / "dodo.py").read_text(), re.M | re.S)[1].split()
    assert "check" in tasks and len(names) > 10
    assert [name for name in names if not (ROOT / f"tests/test_{name}.py").exists()] == []


def test_the_commit_hooks_and_ci_run_what_make_check_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [
        ".venv/bin/python tools/form.py --check",
        ".venv/bin/python -m mypy",
    ]
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert jobs["check"]["steps"][-1]["run"] == "make check"


def test_a_release_is_built_with_few_rights_and_uploaded_without_a_password():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert release["permissions"] == {} and not release["concurrency"]["cancel-in-progress"]
    assert build["permissions"] == {"contents": "read"}
    assert publish["permissions"] == {"id-token": "write"} and publish["needs"] == "build"
    assert publish["environment"]["name"] == "pypi"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_version_is_the_one_of_the_citation_and_of_the_changelog():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == lorabook.__version__
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[:2] == ["Unreleased", lorabook.__version__]
