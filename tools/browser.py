"""The browser that prints the book and opens the site in the tests: a Chrome, Chromium or Edge that is there.

LORABOOK_BROWSER=auto takes one if it can, require insists on one, skip does without.
"""

import os
import shutil
import sys
from pathlib import Path

CHOICES = ("auto", "require", "skip")
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge")
MACOS = ("Google Chrome", "Chromium", "Microsoft Edge")
WINDOWS = (
    "Google/Chrome/Application/chrome.exe",
    "Chromium/Application/chrome.exe",
    "Microsoft/Edge/Application/msedge.exe",
)
HOW = "install Chrome, Chromium or Edge, or type: playwright install chromium"
NONE = f"There is no Chrome, Chromium or Edge here, and LORABOOK_BROWSER=require wants one: {HOW}"
APPLICATIONS = Path("/Applications")


def executable():
    """The path of a browser, or None.

    Raises:
        ValueError: LORABOOK_BROWSER is none of its three values, or is ``require`` and there is no browser.
    """
    wanted = os.environ.get("LORABOOK_BROWSER", "auto")
    if wanted not in CHOICES:
        raise ValueError(f"LORABOOK_BROWSER is '{wanted}': choose auto, require or skip.")
    if wanted == "skip":
        return None
    path = next(filter(None, map(shutil.which, COMMANDS)), None) or next(installed(), None)
    if path is None and wanted == "require":
        raise ValueError(NONE)
    return path and str(path)


def installed():
    """Browsers that no command names: where macOS and Windows keep them, then what Playwright fetched, newest first."""
    home, fetched, found = Path.home(), "chrome-linux*/chrome", []
    cache = home / ".cache"
    if sys.platform == "darwin":
        cache, fetched = home / "Library/Caches", "chrome-mac*/*.app/Contents/MacOS/*"
        folders = (APPLICATIONS, home / "Applications")
        found = [folder / f"{name}.app/Contents/MacOS/{name}" for folder in folders for name in MACOS]
    if sys.platform == "win32":
        cache, fetched = Path(os.environ.get("LOCALAPPDATA", home)), "chrome-win*/chrome.exe"
        folders = [os.environ.get(name) for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
        found = [Path(folder, name) for folder in folders if folder for name in WINDOWS]
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", cache / "ms-playwright"))
    revisions = sorted(cache.glob("chromium-*"), key=lambda path: path.name.rpartition("-")[2].zfill(9), reverse=True)
    found += [path for revision in revisions for path in revision.glob(fetched)]
    return (path for path in found if path.is_file() and os.access(path, os.X_OK))
