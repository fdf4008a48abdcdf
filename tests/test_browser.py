"""Which browser is found, and what is said where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import browser

NO_BROWSER = (
    "There is no Chrome, Chromium or Edge here, and LORABOOK_BROWSER=require wants one: "
    "install Chrome, Chromium or Edge, or type: playwright install chromium"
)
UNKNOWN = "LORABOOK_BROWSER is 'yes': choose auto, require or skip."
A_TEST = "tests/test_editions.py::test_a_browser_prints_the_pdf"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without a browser, whose folders lie in tmp_path."""
    (tmp_path / "home").mkdir()
    for name in ("PATH", "HOME", "PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("LORABOOK_BROWSER", "PLAYWRIGHT_BROWSERS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(browser, "APPLICATIONS", tmp_path / "Applications")
    return tmp_path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


PLACES = [
    ("linux", "path/chromium"),
    ("linux", "path/google-chrome"),
    ("linux", "path/microsoft-edge"),
    ("linux", "home/.cache/ms-playwright/chromium-1200/chrome-linux64/chrome"),
    ("darwin", "Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    ("darwin", "home/Applications/Chromium.app/Contents/MacOS/Chromium"),
    ("darwin", "Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge"),
    ("darwin", "home/Library/Caches/ms-playwright/chromium-1200/chrome-mac-arm64/Chromium.app/Contents/MacOS/Chromium"),
    ("win32", "programfiles/Google/Chrome/Application/chrome.exe"),
    ("win32", "programfiles(x86)/Microsoft/Edge/Application/msedge.exe"),
    ("win32", "localappdata/Chromium/Application/chrome.exe"),
    ("win32", "localappdata/ms-playwright/chromium-1200/chrome-win64/chrome.exe"),
]


@pytest.mark.parametrize("system, place", PLACES)
def test_a_browser_is_found_where_each_system_keeps_it(machine, monkeypatch, system, place):
    # Whatever the system of the test, a command is a file in the one folder of the path.
    monkeypatch.setattr(shutil, "which", lambda name: str(path) if (path := machine / "path" / name).exists() else None)
    monkeypatch.setattr(sys, "platform", system)
    assert browser.executable() is None
    path = put(machine / place)
    assert browser.executable() == path
    monkeypatch.setenv("LORABOOK_BROWSER", "require")
    assert browser.executable() == path
    monkeypatch.setenv("LORABOOK_BROWSER", "skip")
    assert browser.executable() is None


def test_of_two_that_playwright_fetched_the_newest_that_can_be_run_is_taken(machine, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    cache = machine / "home/.cache/ms-playwright"
    (cache / "chromium-1300/chrome-linux").mkdir(parents=True)
    old, new = (put(cache / f"chromium-{number}/chrome-linux/chrome") for number in (999, 1200))
    assert browser.executable() == new
    Path(new).chmod(0o644)
    assert browser.executable() == old


@pytest.mark.parametrize("choice, sentence", [("require", NO_BROWSER), ("yes", UNKNOWN)])
def test_a_choice_that_cannot_be_met_is_refused_with_one_sentence(machine, monkeypatch, choice, sentence):
    monkeypatch.setenv("LORABOOK_BROWSER", choice)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ValueError) as refused:
        browser.executable()
    assert str(refused.value) == sentence


def run(root, tmp_path, *command, **choice):
    """A command of this environment where no browser can be found."""
    if any(path.is_relative_to(browser.APPLICATIONS) for path in browser.installed()):
        pytest.skip("a browser of /Applications cannot be hidden from another process")
    (tmp_path / "empty").mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LORABOOK_BROWSER", "PYTEST_"))}
    bare = {"PATH": str(tmp_path / "empty"), "HOME": str(tmp_path), "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=kept | bare | choice, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "choice, end",
    [
        ({}, "To run them, install Chrome, Chromium or Edge, or type: playwright install chromium"),
        ({"LORABOOK_BROWSER": "skip"}, "LORABOOK_BROWSER=skip asked for it."),
    ],
)
def test_without_a_browser_the_tests_pass_and_say_aloud_what_was_left_out(root, tmp_path, choice, end):
    tests = run(root, tmp_path, "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", A_TEST, **choice)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert f"LEFT OUT: 1 test that opens a browser. {end}" in tests.stdout.splitlines()


@pytest.mark.parametrize("choice, sentence", [("require", NO_BROWSER), ("yes", UNKNOWN)])
def test_tests_and_builds_refuse_a_choice_that_cannot_be_met_before_they_begin(root, tmp_path, choice, sentence):
    tests = run(root, tmp_path, "pytest", "-p", "no:cacheprovider", A_TEST, LORABOOK_BROWSER=choice)
    assert (tests.returncode, tests.stderr.strip()) == (4, f"ERROR: {sentence}")
    build = run(root, tmp_path, "doit", "list", LORABOOK_BROWSER=choice)
    assert (build.returncode, build.stderr.strip()) == (1, sentence)
