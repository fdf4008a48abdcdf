"""The graph on a small book of its own: what runs, what does not, and what a failure leaves behind."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from tools import guard

HOUSE = ["dodo.py", "Makefile", "pyproject.toml", "tools", "book", "_config.yml", "requirements.lock"]

ALPHA = """---
kernelspec: {display_name: Python 3, name: python3}
---

# Alpha

```{code-cell} ipython3
:tags: [parameters]

n: int = 4  # width
rank = 2
```

```{code-cell} ipython3
import lorabook
print("width", n, "rank", rank, lorabook.FACTOR)
```

```{code-cell} ipython3
:tags: [volatile, nbval-ignore-output]

import time
print(time.time())
```
"""

LEDGER = """---
kernelspec: {display_name: Python 3, name: python3}
---

# Ledger

```{code-cell} ipython3
:tags: [parameters, remove-cell]

executed = "."
```

```{code-cell} ipython3
from pathlib import Path
print("collected", sorted(path.stem for path in Path(executed).glob("*.ipynb") if path.stem != "ledger"))
```
"""

TOC = """format: jb-book
root: book/index
chapters:
  - file: notebooks/alpha
  - file: notebooks/ledger
  - file: book/references
"""


class Book:
    """A small book that has the real one's graph."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def doit(self, *arguments):
        command = [sys.executable, "-m", "doit", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True)

    def environment(self):
        # No PDF is printed: these builds have no use for one.
        return os.environ | {"LORABOOK_BROWSER": "skip", "PYTHONPATH": str(self.folder)}

    def write(self, path, text):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def replace(self, path, old, new):
        text = (self.folder / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def edit(self, name, old, new):
        """Change both halves of a pair, as `make reference` or `make form` would."""
        self.replace(f"notebooks/{name}.md", old, new)
        path = self.folder / f"notebooks/{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
        nbformat.write(notebook, path)

    def start(self, *command):
        """A build in a session of its own, left running; Ctrl-C works in it even where the tests ignore it."""
        return subprocess.Popen(
            command or [sys.executable, "-m", "doit", "book"],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def sleeping(self, *command):
        """A build that is at work in a cell of alpha."""
        self.edit("alpha", "import lorabook", "import lorabook, time; time.sleep(60)")
        process = self.start(*command)
        self.wait(lambda: self.unfinished.exists() and '"running"' in self.unfinished.read_text())
        return process

    @property
    def unfinished(self):
        return self.folder / "_build/unfinished/alpha.ipynb"

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.1)

    def processes(self):
        """The processes that run in the folder of the book, kernels among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                inside = Path(process.cwd()).is_relative_to(self.folder)
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    def page(self, name):
        return (self.folder / f"_build/pages/_build/html/notebooks/{name}.html").read_text()

    def executed(self, name):
        return self.folder / f"_build/pages/notebooks/{name}.ipynb"

    def printed(self, path):
        notebook = nbformat.read(self.folder / path, as_version=4)
        return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.fixture(scope="module")
def built(tmp_path_factory, root):
    """The small book, its reference outputs written and its site built once."""
    book = Book(tmp_path_factory.mktemp("book"))
    for name in HOUSE:
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, book.folder / name)
    book.write("lorabook/__init__.py", "FACTOR = 10\n")
    # what the pages and the build need of it
    for name in (
        "page/__init__",
        "page/letters",
        "page/parameters",
        "sweep/__init__",
        "sweep/closure",
        "sweep/kernels",
    ):
        book.write(f"lorabook/{name}.py", (root / f"lorabook/{name}.py").read_text())
    book.write("notebooks/alpha.md", ALPHA)
    book.write("notebooks/ledger.md", LEDGER)
    book.write("notebooks/profiles/full/alpha.yml", "n: 48\n")
    book.write("_toc.yml", TOC)
    # The front page of the real book points at notebooks that the small one lacks.
    book.write("book/index.md", "# Front page\n\n<!-- editions -->\n\nSee {cite:t}`hu2022lora`.\n")
    book.reference = book.doit("reference")
    book.first = book.doit("-n", "2", "book")
    return book


@pytest.fixture
def book(built, tmp_path):
    """A copy of the built book that a test may spoil."""
    shutil.copytree(built.folder, tmp_path / "book")
    return Book(tmp_path / "book")


def test_the_book_is_built_and_says_where_it_is(built):
    assert built.reference.returncode == 0, built.reference.stdout + built.reference.stderr
    assert built.first.returncode == 0, built.first.stdout + built.first.stderr
    assert (built.folder / "_build/pages/_build/html/index.html").as_uri() in built.first.stdout
    assert "alpha: " in built.first.stderr, "no progress was shown"
    assert "collected ['alpha']" in built.page("ledger") and "collected ['alpha']" in built.printed(
        "notebooks/ledger.ipynb"
    )


def test_without_a_browser_the_book_is_one_file_too_and_there_is_no_dead_link(built):
    site = built.folder / "_build/pages/_build/html"
    assert "No browser prints the book, so the site has no PDF." in built.first.stdout
    front = (site / "book/index.html").read_text()
    assert (site / "lorabook.html").exists() and '<a href="../lorabook.html">' in front
    assert not (site / "lorabook.pdf").exists() and "lorabook.pdf" not in front


def test_the_graph_is_listed_with_a_sentence_for_each_task(built):
    listed = built.doit("list", "--all").stdout.splitlines()
    tasks = {line.split()[0]: line.split()[1:] for line in listed}
    assert {"book", "test", "site", "pages", "notebook:alpha", "reference"} <= set(tasks)
    assert all(tasks.values()), "a task has no sentence"


def seconds_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_second_build_runs_nothing_in_less_than_five_seconds(built):
    before, start = built.executed("alpha").stat().st_mtime_ns, seconds_of_children()
    again = built.doit("-n", "2", "book")
    # Processor time: other tests share the machine.
    assert seconds_of_children() - start < 5
    assert again.returncode == 0
    assert [line for line in again.stdout.splitlines() if line.startswith(".  ") and line != ".  book"] == []
    assert built.executed("alpha").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "path, old, new, printed",
    [
        ("lorabook/__init__.py", "10", "11", "width 4 rank 2 11"),
        ("alpha", "rank = 2", "rank = 3", "width 4 rank 3 10"),
        ("requirements.lock", "numpy==", "numpy===", "width 4 rank 2 10"),
    ],
)
def test_a_change_of_package_notebook_or_lock_runs_the_notebook_again(book, path, old, new, printed):
    (book.edit if path == "alpha" else book.replace)(path, old, new)
    run = book.doit("notebook:alpha")
    assert ".  notebook:alpha" in run.stdout
    assert printed in book.printed("_build/pages/notebooks/alpha.ipynb")


def test_another_device_runs_the_notebooks_again(book, monkeypatch):
    monkeypatch.setenv("LORABOOK_DEVICE", "cpu")
    assert ".  notebook:alpha" in book.doit("notebook:alpha").stdout
    assert "-- notebook:alpha" in book.doit("notebook:alpha").stdout


def test_a_changed_page_runs_no_notebook(book):
    book.replace("book/index.md", "# Front page", "# Another front page")
    run = book.doit("book")
    assert ".  site" in run.stdout and ".  notebook" not in run.stdout
    assert "Another front page" in (book.folder / "_build/pages/_build/html/book/index.html").read_text()


def test_a_profile_changes_the_values_and_the_page_shows_them_once(book):
    run = book.doit("book", "profile=full")
    assert run.returncode == 0, run.stdout + run.stderr
    page = book.page("alpha")
    assert "width 48 rank 2 10" in page
    words = "".join(page.split("<span")).replace(" ", "")
    shown = [
        cell
        for cell in nbformat.read(book.executed("alpha"), as_version=4).cells
        if "remove-cell" not in cell.metadata.get("tags", [])
    ]
    assert [cell.source.count("rank = ") for cell in shown if "rank = " in cell.source] == [1]
    assert words.count("#width") == 0, "the cell with the defaults is still on the page"
    back = book.doit("book")
    assert ".  notebook:alpha" in back.stdout and "width 4 rank 2 10" in book.page("alpha")


def test_the_download_is_the_executed_notebook(book):
    assert book.doit("book", "profile=full").returncode == 0
    download = book.folder / "_build/pages/_build/html/_sources/notebooks/alpha.ipynb"
    assert "_sources/notebooks/alpha.ipynb" in book.page("alpha")
    assert json.loads(download.read_bytes()) == json.loads(
        book.executed("alpha").read_bytes()
    )  # the download has no indentation


def test_a_cell_that_raises_fails_the_build_by_name_and_leaves_the_previous_site(book):
    page, executed = book.page("alpha"), book.executed("alpha").read_bytes()
    book.edit("alpha", "import lorabook", "raise ValueError('rank above the dimension')")
    run = book.doit("-n", "2", "book")
    assert run.returncode != 0
    assert "notebooks/alpha.ipynb, cell 3 stopped with ValueError: rank above the dimension" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout, "a sentence was wanted"
    assert book.page("alpha") == page and book.executed("alpha").read_bytes() == executed
    # The failure is not forgotten: the next build tries again.
    assert book.doit("-n", "2", "book").returncode != 0


def test_the_cell_number_counts_the_cells_of_the_notebook_under_a_profile_too(book):
    book.edit("alpha", "import lorabook", "raise ValueError('no')")
    assert "notebooks/alpha.ipynb, cell 3 stopped with" in book.doit("book", "profile=full").stdout


def test_a_page_whose_data_cannot_be_had_says_so_and_the_build_goes_on_until_they_come(book):
    absent = (
        "import lorabook, pathlib\nif not pathlib.Path('../data').exists(): raise type('SentencesError', "
        "(OSError,), {})('No network.')"
    )
    book.edit("alpha", "import lorabook", absent)
    for _ in range(2):  # it is tried again each time
        run = book.doit("book")
        assert run.returncode == 0, run.stdout + run.stderr
        assert "notebooks/alpha.ipynb was not run: No network." in run.stdout
        page = book.page("alpha")
        assert "This page was not run here. No network. It shows the outputs that the repository holds" in page
        assert "width 4 rank 2 10" in page and "collected ['alpha']" in book.page("ledger")
    (book.folder / "data").mkdir()
    run = book.doit("book")
    assert ".  notebook:alpha" in run.stdout and "was not run" not in run.stdout + book.page("alpha")
    assert "-- notebook:alpha" in book.doit("book").stdout


def test_a_missing_kernel_fails_the_build_with_one_sentence(book):
    book.replace("tools/notebooks.py", 'KERNEL = "python3"', 'KERNEL = "nowhere"')
    run = book.doit("book")
    assert run.returncode != 0
    assert "notebooks/alpha.ipynb needs the Jupyter kernel 'nowhere', which this environment lacks" in run.stdout
    assert "Traceback" not in run.stdout


def test_an_unknown_name_in_a_profile_is_refused_with_one_sentence(book):
    book.write("notebooks/profiles/full/alpha.yml", "rnak: 3\n")
    run = book.doit("book", "profile=full")
    assert run.returncode != 0
    assert run.stderr.strip() == "notebooks/profiles/full/alpha.yml sets rnak, and the notebook knows only n, rank."


@pytest.mark.parametrize("text", ["n: [4\n", "- n\n", "n: 4\n\tm: 3\n", "4\n"])
def test_a_profile_that_cannot_be_read_is_named_in_one_sentence(book, text):
    book.write("notebooks/profiles/full/alpha.yml", text)
    run = book.doit("book", "profile=full")
    assert run.returncode != 0 and ".  " not in run.stdout
    assert run.stderr.startswith("notebooks/profiles/full/alpha.yml cannot be read: ") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["alhpa.yml", "alpha.yaml", "alpha.txt"])
def test_a_profile_of_no_notebook_is_named_in_one_sentence(book, name):
    book.write(f"notebooks/profiles/full/{name}", "n: 5\n")
    run = book.doit("book", "profile=full")
    assert run.returncode != 0 and ".  " not in run.stdout
    assert run.stderr.startswith(f"notebooks/profiles/full/{name} belongs to no notebook: its name has to be one of")
    assert run.stderr.count("\n") == 1


def test_an_unknown_profile_is_refused_with_one_sentence(book):
    run = book.doit("book", "profile=huge")
    assert run.returncode != 0
    assert run.stderr.strip() == "There is no profile 'huge': choose one of quick, full."


def test_a_killed_run_leaves_no_half_written_notebook(book):
    executed = book.executed("alpha").read_bytes()
    process = book.sleeping()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert book.executed("alpha").read_bytes() == executed
    book.edit("alpha", ", time; time.sleep(60)", "")
    assert book.doit("book").returncode == 0


def test_a_broken_page_fails_the_build_and_leaves_the_previous_site(book):
    before = (book.folder / "_build/pages/_build/html/book/index.html").read_text()
    book.write("book/index.md", "# Front page\n\n[nowhere](missing.md) {cite:t}`nobody1900`\n")
    run = book.doit("book")
    assert run.returncode != 0
    assert "nobody1900" in run.stdout and "The previous site stays." in run.stdout
    assert (book.folder / "_build/pages/_build/html/book/index.html").read_text() == before


def test_a_notebook_that_was_removed_leaves_the_book(book):
    book.write("notebooks/profiles/full/alpha.yml", "{}\n")
    for suffix in ("md", "ipynb"):
        shutil.move(book.folder / f"notebooks/alpha.{suffix}", book.folder / f"notebooks/beta.{suffix}")
    book.replace("_toc.yml", "notebooks/alpha", "notebooks/beta")
    run = book.doit("-n", "2", "book")
    assert run.returncode == 0, run.stdout + run.stderr
    assert not book.executed("alpha").exists()
    assert "collected ['beta']" in book.page("ledger")


def test_reference_outputs_are_left_alone_when_nothing_changed(book):
    path = book.folder / "notebooks/alpha.ipynb"
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    run = book.doit("reference", "alpha")
    assert "notebooks/alpha.ipynb is unchanged" in run.stdout, "only the volatile cell printed something else"
    assert path.read_bytes() == before and path.stat().st_mtime_ns == stamp


def test_reference_outputs_are_rewritten_when_a_number_or_the_text_changed(book):
    book.write("lorabook/__init__.py", "FACTOR = 12\n")
    assert "notebooks/alpha.ipynb is rewritten" in book.doit("reference", "alpha").stdout
    assert "width 4 rank 2 12" in book.printed("notebooks/alpha.ipynb")
    book.replace("notebooks/alpha.md", "# Alpha", "# A better title")
    assert "notebooks/alpha.ipynb is rewritten" in book.doit("reference", "alpha").stdout
    assert nbformat.read(book.folder / "notebooks/alpha.ipynb", as_version=4).cells[0].source == "# A better title"


def test_the_collectors_follow_a_rewritten_notebook_and_an_unknown_one_is_refused(book):
    book.write("notebooks/beta.md", ALPHA.replace("# Alpha", "# Beta"))
    run = book.doit("reference", "beta")
    assert run.returncode == 0 and "alpha" not in run.stdout, run.stdout
    assert "collected ['alpha', 'beta']" in book.printed("notebooks/ledger.ipynb")
    assert "There is no notebook gamma: choose from alpha, beta, ledger." in book.doit("reference", "gamma").stdout


def test_reference_outputs_hold_no_volatile_metadata(built):
    text = (built.folder / "notebooks/alpha.ipynb").read_text()
    notebook = json.loads(text)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert all(set(cell["metadata"]) <= {"tags"} for cell in notebook["cells"])
    assert [cell["id"] for cell in notebook["cells"]] == ["cell-01", "cell-02", "cell-03", "cell-04"]


def test_a_text_whose_cell_raises_leaves_the_reference_outputs(book):
    before = (book.folder / "notebooks/alpha.ipynb").read_bytes()
    book.replace("notebooks/alpha.md", "import lorabook", "1 / 0")
    run = book.doit("reference", "alpha")
    assert run.returncode != 0
    assert "notebooks/alpha.md, cell 3 stopped with ZeroDivisionError: division by zero" in run.stdout
    assert (book.folder / "notebooks/alpha.ipynb").read_bytes() == before


def test_code_that_is_no_python_is_named_by_its_line_in_the_text(book):
    book.edit("alpha", "import lorabook\n", "import lorabook\nif 1:\n    print((1)\n")
    lines = (book.folder / "notebooks/alpha.md").read_text().splitlines()
    said = f"notebooks/alpha.md, line {lines.index('    print((1)') + 1} is no Python: '(' was never closed"
    for command in ("notebook:alpha", "reference"):
        run = book.doit(command)
        assert run.returncode != 0 and said in run.stdout + run.stderr


def test_of_an_error_in_many_lines_the_first_is_told(book):
    book.edit("alpha", "import lorabook", "raise ValueError('the list is broken\\n  in line 3\\n  ^')")
    for command in ("notebook:alpha", "reference"):
        run = book.doit(command)
        assert run.returncode != 0 and "cell 3 stopped with ValueError: the list is broken" in run.stdout + run.stderr


# ------------------------------------------------------------ only what changed
def ran(run):
    """The notebooks, and the site, that a build ran."""
    tasks = [line.removeprefix(".  ") for line in run.stdout.splitlines() if line.startswith(".  ")]
    return {task.removeprefix("notebook:") for task in tasks if task.startswith(("notebook:", "site"))}


def test_a_module_that_no_notebook_reaches_runs_nothing_and_such_a_claim_list_only_the_site(book):
    book.write("lorabook/apart.py", '"""Nobody reads this."""\n')
    assert ran(book.doit("book")) == set()
    book.write("data/claims/other.yml", "claims: []\n")  # the site writes all claims for programs
    assert ran(book.doit("book")) == {"site"}


LEFT_BEHIND = ["alpha.md~", ".#alpha.md", "#alpha.md#", ".alpha.md.swp", "alpha.yml~", "__pycache__/alpha.py"]
LEFT_BEHIND += [".DS_Store", "alpha.ipynb~", ".~alpha.ipynb", ".ipynb_checkpoints/alpha-checkpoint.ipynb"]


@pytest.mark.parametrize(
    "place", ["", "lorabook", "lorabook/page", "notebooks", "notebooks/profiles/full", "book", "data"]
)
def test_what_editors_and_systems_leave_behind_runs_nothing(built, place, tmp_path):
    book = Book(shutil.copytree(built.folder, tmp_path / "book"))
    for name in LEFT_BEHIND:
        book.write(Path(place, name), "left behind")
    for profile in ("quick", "full"):
        listed = book.doit("list", "--all", "--status", f"profile={profile}")
        assert listed.returncode == 0 and "left behind" not in listed.stdout, listed.stderr
        if profile == "quick":
            assert {line.split()[0] for line in listed.stdout.splitlines() if "notebook:" in line} == {"U"}


def test_an_edit_while_a_notebook_runs_counts_for_the_next_build(book):
    slow = "import lorabook, time, pathlib; pathlib.Path('../seen').touch(); time.sleep(3)"
    book.edit("alpha", "import lorabook", slow)
    process = book.start(sys.executable, "-m", "doit", "notebook:alpha")
    book.wait(lambda: (book.folder / "seen").exists())
    book.write("lorabook/__init__.py", "FACTOR = 13\n")
    assert process.wait() == 0
    assert "width 4 rank 2 10" in book.printed("_build/pages/notebooks/alpha.ipynb"), "the edit came too early"
    assert ran(book.doit("notebook:alpha")) == {"alpha"}
    assert "width 4 rank 2 13" in book.printed("_build/pages/notebooks/alpha.ipynb")
    assert ran(book.doit("notebook:alpha")) == set()


def test_an_edit_that_is_put_back_while_a_notebook_runs_counts_as_one(book):
    """The kernel has run with the other code, and all hashes are as they were."""
    slow = "import time, pathlib; pathlib.Path('../seen').touch(); time.sleep(3)\nimport lorabook"
    book.edit("alpha", "import lorabook", slow)
    process = book.start(sys.executable, "-m", "doit", "notebook:alpha")
    book.wait(lambda: (book.folder / "seen").exists())
    book.write("lorabook/__init__.py", "FACTOR = 13\n")
    book.wait(lambda: "width 4 rank 2 13" in book.unfinished.read_text())
    book.write("lorabook/__init__.py", "FACTOR = 10\n")
    said = process.communicate()[0]
    assert process.returncode == 0
    assert "width 4 rank 2 13" in book.printed("_build/pages/notebooks/alpha.ipynb")
    assert "notebook:alpha does not count as done: lorabook/__init__.py changed meanwhile." in said
    assert ran(book.doit("notebook:alpha")) == {"alpha"}
    assert "width 4 rank 2 10" in book.printed("_build/pages/notebooks/alpha.ipynb")
    assert ran(book.doit("notebook:alpha")) == set()


def test_an_environment_that_holds_another_clone_is_refused_with_what_to_type(book, tmp_path):
    shutil.copytree(book.folder / "lorabook", tmp_path / "other/lorabook")
    shutil.copy(Path(__file__).parent.parent / "conftest.py", book.folder)
    book.write("tests/held.py", "")
    environment = book.environment() | {"PYTHONPATH": str(tmp_path / "other")}
    for command in (["doit", "book"], ["pytest", "-p", "no:cacheprovider", "notebooks"]):
        run = subprocess.run(
            [sys.executable, "-m", *command], cwd=book.folder, env=environment, capture_output=True, text=True
        )
        assert run.returncode != 0 and run.stdout.strip() == ""
        said = f"imports lorabook from {tmp_path / 'other/lorabook'}, and this clone is {book.folder}: type make book, "
        assert said in run.stderr and run.stderr.strip().count("\n") == 0


@pytest.mark.parametrize("word", ["porfile=full", "profil="])
def test_a_setting_that_is_misspelt_is_refused_with_one_sentence(book, word):
    run = book.doit("book", word)
    assert run.returncode != 0 and run.stdout == ""
    assert run.stderr.strip() == f"There is no setting {word.partition('=')[0]}: the only one is profile."


def test_a_notebook_without_its_text_is_left_out_with_one_sentence(book):
    shutil.copy(book.folder / "notebooks/alpha.ipynb", book.folder / "notebooks/out.ipynb")
    (book.folder / "notebooks/Untitled.ipynb").write_text("{}")
    run = book.doit("book")
    assert run.returncode == 0 and ran(run) == set()
    said = "".join(f"notebooks/{name}.ipynb has no text {name}.md and is left out.\n" for name in ("Untitled", "out"))
    assert run.stderr == said


# ------------------------------------------------------------ the two halves of a pair
def test_a_text_that_was_edited_alone_stops_the_build_with_what_to_type(book):
    book.replace("notebooks/alpha.md", "rank = 2", "rank = 3")
    for _ in range(2):  # it is not forgotten
        run = book.doit("-n", "2", "book")
        assert run.returncode != 0 and ran(run) == set()
        advice = "differ in their code or cells: type make reference NOTEBOOKS=alpha"
        assert f"notebooks/alpha.md and alpha.ipynb {advice}" in run.stdout
    assert book.doit("reference", "alpha").returncode == 0
    assert book.doit("book").returncode == 0 and "rank 3" in book.page("alpha")


@pytest.mark.parametrize("old, new", [("# Alpha", "# Another title"), ('print("width", n', "print('width',   n")])
def test_prose_and_form_are_carried_over_without_a_run(book, old, new):
    book.replace("notebooks/alpha.md", old, new)
    run = book.doit("book")
    assert run.returncode != 0 and "prose or in the form of code alone: type make form" in run.stdout
    outputs = book.printed("notebooks/alpha.ipynb")
    assert book.doit("form").returncode == 0
    assert book.printed("notebooks/alpha.ipynb") == outputs
    assert book.doit("pair:alpha").returncode == 0


def test_a_text_without_a_notebook_stops_the_build_with_what_to_type(book):
    book.write("notebooks/beta.md", ALPHA)
    run = book.doit("book")
    assert run.returncode != 0
    assert "notebooks/beta.md has no beta.ipynb with its outputs: type make reference NOTEBOOKS=beta" in run.stdout

    form = book.doit("form")
    assert "notebooks/beta.md has no beta.ipynb with its outputs: type make reference NOTEBOOKS=beta" in form.stdout
    assert "Traceback" not in form.stdout + form.stderr


@pytest.mark.parametrize("old, new", [("from json import", "from marshal import"), ("loads as", "load as")])
def test_another_import_is_other_code_and_one_that_is_not_used_is_none(book, old, new):
    names = "from json import loads as read\nimport lorabook\nprint(read.__module__)\n"
    book.edit("alpha", "import lorabook\n", names)
    book.replace("notebooks/alpha.md", names, "import lorabook, os\n\n" + names.replace("import lorabook\n", ""))
    assert "prose or in the form of code alone: type make form" in book.doit("pair:alpha").stdout
    book.replace("notebooks/alpha.md", old, new)
    assert "differ in their code or cells: type make reference NOTEBOOKS=alpha" in book.doit("pair:alpha").stdout


def test_a_line_that_looks_like_the_border_of_a_cell_is_formed_as_any_other(book):
    lines = 'print("""\n# %% a line\n#%%\n""")\n# %% a remark\nif True:\n    # In[1]:\n    pass\n'
    book.edit("alpha", "import lorabook\n", lines + "import lorabook\n")
    book.replace("notebooks/alpha.md", '"rank", rank', "'rank',rank")
    run = book.doit("form")
    assert run.returncode == 0, run.stdout + run.stderr
    text = (book.folder / "notebooks/alpha.md").read_text()
    assert lines in text and '"rank", rank' in text


def test_a_header_that_is_no_yaml_is_named_with_its_file_and_line(book):
    book.replace("notebooks/alpha.md", "python3}", "python3")
    for command in ("pair:alpha", "form", "reference"):
        run = book.doit(command)
        assert run.returncode != 0 and "Traceback" not in run.stdout + run.stderr
        assert re.search(r"^.*notebooks/alpha\.md cannot be read: .* line 3\b.*$", run.stdout + run.stderr, re.M)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}", "{}", "[1]", "\0", '{"cells": [{}]}'])
def test_a_notebook_that_is_none_any_more_stops_the_build_with_what_to_type(book, text):
    path = book.folder / "notebooks/alpha.ipynb"
    before = path.read_bytes()
    path.write_text(text)
    for command in ("book", "form"):
        run = book.doit(command)
        assert run.returncode != 0 and "Traceback" not in run.stdout + run.stderr
        assert "notebooks/alpha.ipynb is no notebook any more: type make reference NOTEBOOKS=alpha" in run.stdout
    run = book.doit("book", "profile=full")
    assert run.stderr.strip() == "notebooks/alpha.ipynb is no notebook any more: type make reference NOTEBOOKS=alpha."
    assert book.doit("reference", "alpha").returncode == 0
    assert json.loads(path.read_bytes())["cells"][1] == json.loads(before)["cells"][1]


# ------------------------------------------------------------ what can befall a build
def by_make(book):
    """`make book`, with an environment that is there already."""
    python = book.folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return "make", "book", "PYTHON=true"


def test_a_second_build_leaves_with_one_sentence_and_a_killed_one_does_not_stand_in_the_way(book):
    first = book.sleeping()
    second = book.doit("book")
    assert second.returncode != 0 and second.stdout == ""
    said = f"Another build is at work in this folder (process {first.pid}): wait until it is done."
    assert second.stderr.strip() == said
    assert book.doit("list").returncode == 0, "looking is allowed"
    first.kill()
    first.communicate()
    book.edit("alpha", ", time; time.sleep(60)", "")
    assert book.doit("book").returncode == 0


@pytest.mark.parametrize("victim", ["make", "doit"])
def test_a_build_that_is_killed_leaves_no_process_behind(book, victim):
    process = book.sleeping(*by_make(book))
    assert sum("ipykernel" in line for line in book.processes()) == 1
    chosen = psutil.Process(process.pid)
    if victim == "doit":
        (chosen,) = (child for child in chosen.children(recursive=True) if "tools/follow.py" in child.cmdline())
    chosen.kill()
    process.communicate()
    book.wait(lambda: book.processes() == [], seconds=10)


def test_ctrl_c_stops_everything_with_one_sentence(book):
    process = book.sleeping(*by_make(book))
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode != 0
    assert "Stopped. What was finished is kept; the same command goes on from there." in said
    assert "Traceback" not in said and "Error" not in said.replace("Error 130", ""), said
    book.wait(lambda: book.processes() == [], seconds=10)


@pytest.mark.parametrize("left", ["", '{"notebook:alpha": {"check', "[]"])
def test_notes_that_were_cut_short_are_begun_anew_with_one_sentence(book, left):
    book.write("_build/doit.json", left)
    run = book.doit("notebook:alpha")
    assert run.returncode == 0
    assert run.stdout.startswith("_build/doit.json, the list of what was done, had been cut short: every notebook runs")
    assert ran(run) == {"alpha"} and ran(book.doit("notebook:alpha")) == set()


def test_notes_that_are_a_folder_are_named_in_one_sentence(book):
    (book.folder / "_build/doit.json").unlink()
    (book.folder / "_build/doit.json").mkdir()
    for command in ("book", "list"):
        run = book.doit(command)
        assert run.returncode != 0 and run.stdout == ""
        assert run.stderr.startswith("_build/doit.json is a folder") and run.stderr.count("\n") == 1


FULL = "there is no space left on the disk"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named_when_a_notebook_is_written(book):
    book.write("lorabook/__init__.py", "FACTOR = 12\n")
    book.unfinished.parent.mkdir(exist_ok=True)
    book.unfinished.symlink_to("/dev/full")
    run = book.doit("book")
    assert run.returncode != 0 and "Traceback" not in run.stdout + run.stderr
    assert f"_build/unfinished/alpha.ipynb could not be written: {FULL}." in run.stdout


def test_a_full_disk_is_named_by_the_copy_that_failed_not_by_its_source():
    copying = OSError(errno.ENOSPC, "", "book/index.md", None, "_build/pages/book/index.md")
    assert guard.sentence(copying) == f"_build/pages/book/index.md could not be written: {FULL}."
    assert guard.sentence(OSError(errno.ENOSPC, ""), "_build") == f"_build could not be written: {FULL}."


def test_a_full_disk_is_named_when_the_site_is_built_and_the_previous_site_stays(book):
    before = book.page("alpha")
    book.write("book/index.md", "# Another\n\n<!-- editions -->\n\n{cite:t}`hu2022lora`\n")
    book.write("tools/follow.py", "raise OSError(28, 'No space left on device')\n")
    run = book.doit("book")
    assert run.returncode != 0 and f"The site could not be written: {FULL}." in run.stdout
    assert "Traceback" not in run.stdout + run.stderr and book.page("alpha") == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named_when_the_notes_are_written_and_the_old_ones_stay(book):
    notes = book.folder / "_build/doit.json"
    before = notes.read_bytes()
    (book.folder / "_build/doit.json.part").symlink_to("/dev/full")
    book.write("lorabook/__init__.py", "FACTOR = 12\n")
    run = book.doit("notebook:alpha")
    assert run.returncode != 0 and "Traceback" not in run.stdout + run.stderr
    assert f"_build/doit.json.part could not be written: {FULL}." in run.stderr
    assert notes.read_bytes() == before


@pytest.mark.skipif(not Path("/sys").exists(), reason="this system has no /sys")
def test_a_folder_that_may_not_be_written_is_named(book):
    shutil.rmtree(book.folder / "_build")
    (book.folder / "_build").symlink_to("/sys")  # nobody may write there
    run = book.doit("book")
    assert run.returncode != 0 and run.stdout == ""
    assert re.fullmatch(
        "_build/lock could not be written: (it is read-only|you may not write there).", run.stderr.strip()
    )
