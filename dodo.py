"""The graph of the book. `doit list` shows it, `doit book` makes the site, `doit test` holds it.

    notebooks/X.ipynb  --papermill-->  _build/pages/notebooks/X.ipynb  --collected by-->  ledger, errata
    book/, data cards, _config.yml, _toc.yml  --copied-->  _build/pages/  --jupyter-book-->  _build/pages/_build/html

Nothing that did not change runs again. What a task depends on is hashed before it runs (tools/closure.py says what
that is for a notebook); where any of it was written during the run, the task does not count as done.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from doit import get_var
from doit.exceptions import TaskFailed
from doit.tools import config_changed

from tools import browser, closure, editions, guard, notebooks

PAGES = Path("_build/pages")
SITE = PAGES / "_build/html"
NOTES = Path("_build/doit.json")
guard.begin(NOTES)
# Notebooks that read the executed ones and show what they found, so they run last.
COLLECTORS = ["ledger", "errata"]


def stems(pattern):
    """The names of files, those that collect last."""
    return sorted((Path(path).stem for path in closure.files(pattern)), key=lambda name: (name in COLLECTORS, name))


FOUND, TEXTS = stems("notebooks/*.ipynb"), stems("notebooks/*.md")
NOTEBOOKS = [name for name in FOUND if name in TEXTS]
for stray in [name for name in FOUND if name not in TEXTS]:
    print(f"notebooks/{stray}.ipynb has no text {stray}.md and is left out.", file=sys.stderr)
PROFILES = ["quick"] + sorted({Path(path).parent.name for path in closure.files("notebooks/profiles/*/*")} - {"quick"})
PROFILE = get_var("profile", "quick")
if PROFILE not in PROFILES:
    sys.exit(f"There is no profile '{PROFILE}': choose one of {', '.join(PROFILES)}.")

try:
    BROWSER = browser.executable()
except ValueError as error:
    sys.exit(str(error))

SETTINGS = closure.files(f"notebooks/profiles/{PROFILE}/*")
for path in map(Path, SETTINGS):
    if path.suffix != ".yml" or path.stem not in NOTEBOOKS:
        sys.exit(f"{path} belongs to no notebook: its name has to be one of {', '.join(NOTEBOOKS)}, with .yml.")
    try:
        notebooks.profile_values(path, notebooks.opened(f"notebooks/{path.stem}.ipynb"))
    except notebooks.Trouble as trouble:
        sys.exit(f"{trouble}.")

# Two notebooks run at once, so each may use half of the cores.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
DOIT_CONFIG = {
    "default_tasks": ["book"],
    "dep_file": str(NOTES),
    "backend": "json",
    "verbosity": 2,
    "par_type": "thread",  # no process of doit's own is left behind when it is killed
}
PROSE = closure.files("book/**/*", "data/**/*.md", "_config.yml", "_toc.yml", "CITATION.cff")
PROSE += [f"notebooks/{name}.md" for name in NOTEBOOKS]


class unchanged(config_changed):
    """Whether files and settings are as they were when the task last began; read now, before anything runs.

    Where a file was written before the task had ended, even if it was put back, the task does not count as done.
    """

    def __init__(self, *paths, **settings):
        super().__init__({"files": closure.state(paths), **settings})
        self.paths, self.stamps = paths, closure.stamps(paths)

    def configure_task(self, task):
        task.value_savers.append(lambda: {"_config_changed": self.digest_of_one_state(task)})

    def digest_of_one_state(self, task):
        now = closure.stamps(self.paths)
        moved = [path for path in self.paths if now.get(path) != self.stamps[path]]
        if not moved:
            return self.config_digest
        print(f"{task.name} does not count as done: {', '.join(moved)} changed meanwhile.", flush=True)


def tell(action, *args, **kwargs):
    """Run a step; its trouble, and that of the disk, fails the task with one sentence."""
    try:
        return action(*args, **kwargs)
    except notebooks.Trouble as trouble:
        return TaskFailed(str(trouble))
    except OSError as error:
        said = guard.sentence(error, NOTES.parent)
        if not said:
            raise
        return TaskFailed(said)


def step(action, *args, **kwargs):
    """What a task does: two of them share the screen, so nothing of it is held back."""
    return {"actions": [(tell, [action, *args], kwargs)], "io": {"capture": False}}


def agree(name):
    """Fail where the text and the notebook with outputs differ, and say what to type."""
    from tools import form

    advice = form.advice(Path(f"notebooks/{name}.md"), Path(f"notebooks/{name}.ipynb"))
    return TaskFailed(advice) if advice else None


def task_pair():
    """see that the text people edit and the notebook with outputs have the same cells"""
    for name in TEXTS:
        yield {
            "name": name,
            "doc": f"compare notebooks/{name}.md and .ipynb",
            **step(agree, name),
            "uptodate": [unchanged(*closure.files(f"notebooks/{name}.md", f"notebooks/{name}.ipynb"))],
        }


def task_notebook():
    """execute a notebook with papermill, with the parameters of the profile"""
    for name in NOTEBOOKS:
        source, destination = f"notebooks/{name}.ipynb", f"{PAGES}/notebooks/{name}.ipynb"
        setting = f"notebooks/profiles/{PROFILE}/{name}.yml"
        setting = [setting] if setting in SETTINGS else []
        extra, before, others = {}, [f"pair:{name}"], []
        if name in COLLECTORS:
            extra = {"executed": os.path.relpath(PAGES / "notebooks", "notebooks")}
            before.append("pages")
            others = [f"{PAGES}/notebooks/{other}.ipynb" for other in NOTEBOOKS if other not in COLLECTORS]
        yield {
            "name": name,
            "doc": f"execute notebooks/{name}.ipynb",
            **step(notebooks.run, source, destination, *map(Path, setting), **extra),
            "file_dep": others,
            "task_dep": before,
            "uptodate": [
                unchanged(*closure.needs(name), *setting, device=os.environ.get("LORABOOK_DEVICE", "")),
                (notebooks.was_run, [destination]),
            ],
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
    for path in (PAGES / "notebooks").glob("*"):
        if path.stem not in NOTEBOOKS:
            path.unlink()


def task_pages():
    """copy the prose and the configuration of the book"""
    return {
        **step(copy_pages),
        "uptodate": [unchanged(*PROSE, notebooks=NOTEBOOKS)],
        "targets": [f"{PAGES}/{path}" for path in PROSE],
    }


def build_site():
    """Build aside and swap, so that a failure leaves the previous site."""
    for old in NOTES.parent.glob("aside-*"):
        shutil.rmtree(old, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix="aside-", dir=NOTES.parent))
    command = [sys.executable, "tools/follow.py", "jupyter-book", "build", str(PAGES), "--path-output", str(aside)]
    command += ["-W", "-n", "--keep-going", "-q"]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if built.returncode:
        if os.strerror(errno.ENOSPC) in built.stdout:
            raise OSError(errno.ENOSPC, "", "The site")
        return TaskFailed(
            f"{built.stdout}\nThe site was not built; the warnings above say why. The previous site stays."
        )
    editions.make(aside / "_build/html", PAGES / "_toc.yml", BROWSER)
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.parent.mkdir(parents=True, exist_ok=True)
    os.replace(aside / "_build/html", SITE)
    shutil.rmtree(aside)


def task_site():
    """build the site from the executed notebooks and the prose, with the book in one file and as a PDF"""
    code = closure.closure(["tools/editions.py", *closure.files("book/**/*.py")])
    # the cards and the settings are drawn with the pages
    code += closure.files("data/claims/*.yml", "data/experiments/*.yml", "data/results/*.json")
    return {
        **step(build_site),
        "file_dep": [f"{PAGES}/{path}" for path in PROSE] + [f"{PAGES}/notebooks/{name}.ipynb" for name in NOTEBOOKS],
        "task_dep": [f"pair:{name}" for name in TEXTS],
        "uptodate": [unchanged(*code, *closure.files("tools/edition*.css"), printed_by=BROWSER)],
        "targets": [f"{SITE}/index.html"],
    }


def task_book():
    """make the book and say where it is"""
    return {
        "actions": [lambda: print(f"The book is at {(SITE / 'index.html').resolve().as_uri()}")],
        "task_dep": ["site"],
        "uptodate": [False],
    }


PYTEST = [sys.executable, "tools/follow.py", "pytest", "-n", "2"]


# The tests of `doit check`: shapes, verdicts, pairs and rooms, and the mathematics that takes seconds.
FAST = """checks claims contributing descent device device_discipline figures flow held kim ledger linalg linear_phase
    measure minilm pairs parameters plain_tex plotted riccati rooms rushka_algorithm rushka_low_rank rushka_printed
    rushka_trace"""


def task_check():
    """say before a commit whether form, types and the fast tests stand: no notebook of the book, no browser"""
    form, types = [sys.executable, "tools/form.py", "--check"], [sys.executable, "-m", "mypy"]
    fast = [*PYTEST, "-q", "-m", "not slow", *(f"tests/test_{name}.py" for name in FAST.split())]
    return {"actions": [form, types, fast], "uptodate": [False]}


def task_test():
    """run the tests: the package, the notebooks' numbers, the build, the site in a browser"""
    return {"actions": [[*PYTEST, "-m", "not slow", "--nbval", "tests", "notebooks"]], "uptodate": [False]}


def task_test_slow():
    """run the tests that take long: hundreds of kernels, builds that are killed"""
    return {"basename": "test-slow", "actions": [[*PYTEST, "-m", "slow", "tests"]], "uptodate": [False]}


def task_numbers():
    """run the notebooks again and name each number that is not the one that is held"""
    return {"actions": [[*PYTEST, "--nbval", "notebooks"]], "uptodate": [False]}


def task_form():
    """give all code its form, and carry the prose of the texts over to the notebooks with outputs"""
    return {"actions": [[sys.executable, "tools/form.py"]], "uptodate": [False]}


def rewrite(chosen):
    """Rewrite the reference outputs of the chosen notebooks, then those that collect from them."""
    unknown = sorted(set(chosen) - set(TEXTS))
    if unknown:
        return TaskFailed(f"There is no notebook {', '.join(unknown)}: choose from {', '.join(TEXTS)}.")
    for name in TEXTS:
        if not chosen or name in chosen or name in COLLECTORS:
            notebooks.reference(f"notebooks/{name}.md", f"notebooks/{name}.ipynb")


def task_reference():
    """rewrite the reference outputs in notebooks/X.ipynb from the text in notebooks/X.md"""
    return {"actions": [(lambda chosen: tell(rewrite, chosen))], "pos_arg": "chosen", "uptodate": [False]}


def task_bench():
    """time the package against its peers"""
    for path in closure.files("benchmarks/*.py"):
        yield {"name": Path(path).stem, "doc": f"run {path}", "actions": [[sys.executable, path]], "uptodate": [False]}
