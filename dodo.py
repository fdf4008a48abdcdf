"""The graph of the book. `doit list` shows it, `doit book` makes the site, `doit test` holds it.

    notebooks/X.ipynb  --papermill-->  _build/pages/notebooks/X.ipynb  --collected by-->  ledger, errata
    book/, data cards, _config.yml, _toc.yml  --copied-->  _build/pages/  --jupyter-book-->  _build/pages/_build/html

Nothing that did not change runs again: doit compares the contents of what each task depends on.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from doit import get_var
from doit.exceptions import TaskFailed
from doit.tools import config_changed

from tools import editions, notebooks

PAGES = Path("_build/pages")
SITE = PAGES / "_build/html"
ASIDE = Path("_build/aside")
# Notebooks that read the executed ones and show what they found, so they run last.
COLLECTORS = ["ledger", "errata"]
NOTEBOOKS = sorted(
    (path.stem for path in Path("notebooks").glob("*.ipynb")), key=lambda name: (name in COLLECTORS, name)
)
TEXTS = sorted((path.stem for path in Path("notebooks").glob("*.md")), key=lambda name: (name in COLLECTORS, name))
PROFILES = ["quick"] + sorted(path.name for path in Path("notebooks/profiles").glob("*") if path.is_dir())
PROFILE = get_var("profile", "quick")
if PROFILE not in PROFILES:
    sys.exit(f"There is no profile '{PROFILE}': choose one of {', '.join(PROFILES)}.")

# Two notebooks run at once, so each may use half of the cores.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
Path("_build").mkdir(exist_ok=True)
DOIT_CONFIG = {"default_tasks": ["book"], "dep_file": "_build/doit.json", "backend": "json", "verbosity": 2}


def files(*patterns):
    """The files that match, as doit wants them: sorted texts."""
    return sorted(
        str(path)
        for pattern in patterns
        for path in Path().glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    )


PACKAGE = files("lorabook/**/*", "data/**/*", "requirements*.lock", "tools/notebooks.py")
PROSE = files("book/**/*", "data/*.md", "_config.yml", "_toc.yml", "CITATION.cff")


def tell(action, *args, **kwargs):
    """Run a step; its trouble fails the task with one sentence."""
    try:
        action(*args, **kwargs)
    except notebooks.Trouble as trouble:
        return TaskFailed(str(trouble))


def task_notebook():
    """execute a notebook with papermill, with the parameters of the profile"""
    for name in NOTEBOOKS:
        source, destination = f"notebooks/{name}.ipynb", f"{PAGES}/notebooks/{name}.ipynb"
        profile_file = Path(f"notebooks/profiles/{PROFILE}/{name}.yml")
        profile_file = profile_file if profile_file.exists() else None
        extra, before, others = {}, [], []
        if name in COLLECTORS:
            extra = {"executed": os.path.relpath(PAGES / "notebooks", "notebooks")}
            before = ["pages"]
            others = [f"{PAGES}/notebooks/{other}.ipynb" for other in NOTEBOOKS if other not in COLLECTORS]
        yield {
            "name": name,
            "doc": f"execute notebooks/{name}.ipynb",
            "actions": [(tell, [notebooks.run, source, destination, profile_file], extra)],
            "file_dep": [source, *PACKAGE, *([str(profile_file)] if profile_file else []), *others],
            "task_dep": before,
            "uptodate": [config_changed(os.environ.get("LORABOOK_DEVICE", "")), (notebooks.was_run, [destination])],
            "targets": [destination],
        }


def copy_pages():
    """Bring _build/pages in line with the sources; executed notebooks that have no source go."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for folder in ("book", "data"):
        shutil.rmtree(PAGES / folder, ignore_errors=True)
    for path in PROSE:
        (PAGES / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, PAGES / path)
    for path in (PAGES / "notebooks").glob("*.ipynb"):
        if path.stem not in NOTEBOOKS:
            path.unlink()


def task_pages():
    """copy the prose and the configuration of the book"""
    return {
        "actions": [copy_pages],
        "file_dep": PROSE,
        "uptodate": [config_changed({"prose": PROSE, "notebooks": NOTEBOOKS})],
        "targets": [f"{PAGES}/{path}" for path in PROSE],
    }


def build_site():
    """Build aside and swap, so that a failure leaves the previous site."""
    shutil.rmtree(ASIDE, ignore_errors=True)
    command = ["jupyter-book", "build", str(PAGES), "--path-output", str(ASIDE), "-W", "-n", "--keep-going", "-q"]
    command[0] = str(Path(sys.executable).parent / command[0])
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode:
        return TaskFailed(
            f"{built.stdout}\nThe site was not built; the warnings above say why. The previous site stays."
        )
    editions.make(ASIDE / "_build/html", PAGES / "_toc.yml", editions.chromium())
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ASIDE / "_build/html", SITE)
    shutil.rmtree(ASIDE)


def task_site():
    """build the site from the executed notebooks and the prose, with the book in one file and as a PDF"""
    return {
        "actions": [build_site],
        "file_dep": [f"{PAGES}/{path}" for path in PROSE]
        + [f"{PAGES}/notebooks/{name}.ipynb" for name in NOTEBOOKS]
        + files("tools/edition*"),
        "uptodate": [config_changed({"printed by": editions.chromium()})],
        "targets": [f"{SITE}/index.html"],
    }


def task_book():
    """make the book and say where it is"""
    return {
        "actions": [lambda: print(f"The book is at {(SITE / 'index.html').resolve().as_uri()}")],
        "task_dep": ["site"],
        "uptodate": [False],
    }


def task_test():
    """run every test: the package, the notebooks' numbers, the build, the site in a browser"""
    return {
        "actions": [[sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--nbval", "tests", "notebooks"]]
    }


def rewrite(chosen):
    """Rewrite the reference outputs of the chosen notebooks, then those that collect from them."""
    unknown = sorted(set(chosen) - set(TEXTS))
    if unknown:
        return TaskFailed(f"There is no notebook {', '.join(unknown)}: choose from {', '.join(TEXTS)}.")
    for name in TEXTS:
        if not chosen or name in chosen or name in COLLECTORS:
            failed = tell(notebooks.reference, f"notebooks/{name}.md", f"notebooks/{name}.ipynb")
            if failed:
                return failed


def task_reference():
    """rewrite the reference outputs in notebooks/X.ipynb from the text in notebooks/X.md"""
    return {"actions": [rewrite], "pos_arg": "chosen", "uptodate": [False]}


def task_bench():
    """time the package against its peers"""
    for path in files("benchmarks/*.py"):
        yield {"name": Path(path).stem, "doc": f"run {path}", "actions": [[sys.executable, path]], "uptodate": [False]}
