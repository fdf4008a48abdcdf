"""The graph on a small book of its own: what runs, what does not, and what a failure leaves behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

HOUSE = ["dodo.py", "tools", "book", "_config.yml", "requirements.lock"]

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
        # Without a browser no PDF is printed, which most of these builds have no use for.
        return {"LORABOOK_NO_BROWSER": "1"} | os.environ | {"PYTHONPATH": str(self.folder)}

    def write(self, path, text):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def replace(self, path, old, new):
        text = (self.folder / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

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
    for name in ("__init__", "letters"):
        book.write(f"lorabook/page/{name}.py", (root / f"lorabook/page/{name}.py").read_text())  # the pages need it
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


def test_without_a_chromium_the_book_is_one_file_too_and_there_is_no_dead_link(built):
    site = built.folder / "_build/pages/_build/html"
    assert "There is no Chromium here, so the site has no PDF." in built.first.stdout
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
        ("notebooks/alpha.ipynb", "rank = 2", "rank = 3", "width 4 rank 3 10"),
        ("requirements.lock", "numpy==", "numpy===", "width 4 rank 2 10"),
    ],
)
def test_a_change_of_package_notebook_or_lock_runs_the_notebook_again(book, path, old, new, printed):
    book.replace(path, old, new)
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
    book.replace("notebooks/alpha.ipynb", "import lorabook", "raise ValueError('rank above the dimension')")
    run = book.doit("-n", "2", "book")
    assert run.returncode != 0
    assert "notebooks/alpha.ipynb, cell 3 stopped with ValueError: rank above the dimension" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout, "a sentence was wanted"
    assert book.page("alpha") == page and book.executed("alpha").read_bytes() == executed
    # The failure is not forgotten: the next build tries again.
    assert book.doit("-n", "2", "book").returncode != 0


def test_the_cell_number_counts_the_cells_of_the_notebook_under_a_profile_too(book):
    book.replace("notebooks/alpha.ipynb", "import lorabook", "raise ValueError('no')")
    assert "notebooks/alpha.ipynb, cell 3 stopped with" in book.doit("book", "profile=full").stdout


def test_a_page_whose_data_cannot_be_had_says_so_and_the_build_goes_on_until_they_come(book):
    absent = (
        "import lorabook, pathlib\\nif not pathlib.Path('../data').exists(): raise type('SentencesError', "
        "(OSError,), {})('No network.')"
    )
    book.replace("notebooks/alpha.ipynb", "import lorabook", absent)
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
    assert "notebooks/profiles/full/alpha.yml sets rnak, and the notebook knows only n, rank" in run.stdout
    assert "Traceback" not in run.stdout


def test_an_unknown_profile_is_refused_with_one_sentence(book):
    run = book.doit("book", "profile=huge")
    assert run.returncode != 0
    assert run.stderr.strip() == "There is no profile 'huge': choose one of quick, full."


def test_a_killed_run_leaves_no_half_written_notebook(book):
    executed = book.executed("alpha").read_bytes()
    book.replace("notebooks/alpha.ipynb", "import lorabook", "import time; time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "doit", "book"],
        cwd=book.folder,
        env=book.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    unfinished = book.folder / "_build/unfinished/alpha.ipynb"
    deadline = time.monotonic() + 60
    while not (unfinished.exists() and '"running"' in unfinished.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert unfinished.exists(), "the run was killed before it began"
    assert book.executed("alpha").read_bytes() == executed
    book.replace("notebooks/alpha.ipynb", "import time; time.sleep(60)", "import lorabook")
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
