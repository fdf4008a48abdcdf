"""What several test files share: the repository, its tools and the site's extensions on the import path, a built site
and a browser, runs on the CPU without a word, and programs that can be shut in."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from filelock import FileLock

import tools.browser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "book/_ext"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
LEFT_OUT = "no browser"


def pytest_configure(config):
    """Before any test runs, say what is wrong with LORABOOK_BROWSER."""
    try:
        tools.browser.executable()
    except ValueError as error:
        raise pytest.UsageError(error) from None


def pytest_terminal_summary(terminalreporter):
    """Say aloud at the end that tests were left out for want of a browser."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(LEFT_OUT in str(report.longrepr) for report in skipped)
    if count:
        tests = "1 test that opens" if count == 1 else f"{count} tests that open"
        asked = os.environ.get("LORABOOK_BROWSER") == "skip"
        why = "LORABOOK_BROWSER=skip asked for it." if asked else f"To run them, {tools.browser.HOW}"
        terminalreporter.write_line(f"LEFT OUT: {tests} a browser. {why}", red=True, bold=True)


@pytest.fixture(scope="session")
def root():
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def site(root, tmp_path_factory):
    """`jupyter-book build .` on a copy of the tracked files: no notebook is run.  Several workers share one build."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    clone, built = folder / "clone", folder / "site-is-built"
    with FileLock(folder / "clone.lock"):
        if not built.exists():
            build(root, clone)
            built.touch()
    return clone / "_build/html"


@pytest.fixture(scope="session")
def soup():
    """A function that parses a page, each once; nobody changes what it gives."""
    return functools.cache(lambda path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser"))


def build(root, clone):
    """Copy the tracked files and build the book there."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (root / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, clone / name)
    command = [Path(sys.executable).parent / "jupyter-book", "build", ".", "-W", "-n", "--keep-going", "-q"]
    run = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def quiet(monkeypatch):
    """Runs on the CPU, without a network and without a word of transformers."""
    import transformers

    monkeypatch.setenv("LORABOOK_DEVICE", "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def shut_in():
    """A test that runs a foreign program is left out where nothing can shut it in."""
    from lorabook.experiments import ExperimentError, sandbox

    try:
        sandbox.needed()
    except ExperimentError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def executable():
    """The path of a browser; a test that asks for one is left out where there is none."""
    return tools.browser.executable() or pytest.skip(LEFT_OUT)


@pytest.fixture(scope="session")
def browser(executable):
    """The browser, opened without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()
