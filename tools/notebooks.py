"""Notebooks as the build sees them: their parameters, their runs, their reference outputs.

A notebook is a pair: `X.md`, the text that people edit, and `X.ipynb`, the same cells with
reference outputs and plain prose. `run` executes the `.ipynb` with the parameters of a profile and
leaves the result elsewhere; `reference` and `form` are the only writers of the `.ipynb`.
"""

import os
import re
from pathlib import Path

import yaml

from lorabook.page.parameters import literals

KERNEL = "python3"
# The kernel runs on this machine and for this build alone; its notes on encryption are noise here.
QUIET = ["--log-level=ERROR"]
VERDICT = "lorabook"  # the key of a verdict in an output's metadata, claims.METADATA
# The one error that does not stop the build: data that could not be fetched.
NO_DATA = "SentencesError"
NOT_RUN = "This page was not run here."


class Trouble(Exception):
    """One sentence for the reader of the build's output."""


def opened(path):
    """A notebook with outputs; Trouble that says what to type where the file is none any more."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, KeyError, TypeError, nbformat.ValidationError):
        advice = f"type make reference NOTEBOOKS={Path(path).stem}"
        raise Trouble(f"{path} is no notebook any more: {advice}") from None


def text(path):
    """A text notebook; Trouble where its header is no YAML."""
    import jupytext

    try:
        return jupytext.read(path)
    except (yaml.YAMLError, UnicodeError) as error:
        raise Trouble(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def parameter_cell(notebook):
    """The one cell tagged `parameters`."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise Trouble(f"a notebook needs one cell tagged 'parameters', and this one has {len(cells)}")
    return cells[0]


def defaults(notebook):
    """The names and literal values that the parameters cell sets."""
    try:
        return literals(parameter_cell(notebook).source)
    except ValueError as error:
        raise Trouble(str(error)) from None


def profile_values(profile_file, notebook):
    """What a profile sets, none of it unknown to the notebook; no file means no change."""
    try:
        values = (yaml.safe_load(profile_file.read_text(encoding="utf-8")) or {}) if profile_file else {}
        if not isinstance(values, dict):
            raise TypeError("it is not a list of `name: value`")
    except (yaml.YAMLError, UnicodeError, TypeError) as error:
        raise Trouble(f"{profile_file} cannot be read: {' '.join(str(error).split())}") from None
    known = defaults(notebook)
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise Trouble(f"{profile_file} sets {', '.join(unknown)}, and the notebook knows only {', '.join(known)}")
    return values


def run(source, destination, profile_file=None, **extra):
    """Execute `source` with papermill and move the result to `destination` when it is complete.

    The parameters that were used appear once: when any differs from its default, one injected
    cell shows them all, and the cell with the defaults leaves the page.  Where the data cannot be
    had, the result is the source itself with a note, and the build goes on.
    """
    import jupyter_client
    import nbclient
    import papermill

    from tools import kernels

    source, destination = Path(source), Path(destination)
    unfinished = Path("_build/unfinished") / source.name
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    destination.parent.mkdir(parents=True, exist_ok=True)
    notebook = opened(source)
    values = profile_values(profile_file, notebook) | extra
    if values:
        values = defaults(notebook) | values
    try:
        executed = kernels.patient(papermill.execute_notebook)(
            str(source),
            str(unfinished),
            values,
            kernel_name=KERNEL,
            resources={"metadata": {"path": str(source.parent)}},  # cwd= would move every thread of the build
            extra_arguments=QUIET,
            kernel_manager_class=kernels.AsyncManager,
            progress_bar={
                "desc": source.stem,
                "mininterval": 5,
                "bar_format": "{desc}: {n_fmt} of {total_fmt} cells, {elapsed}\n",
            },
        )
    except papermill.exceptions.PapermillExecutionError as error:
        if error.ename == NO_DATA:
            save(as_printed(notebook, error.evalue), unfinished, destination)
            print(f"{source} was not run: {error.evalue}", flush=True)
            return
        # Counted in the source: an injected cell stands before the one that failed.
        number = error.cell_index + (0 if values else 1)
        said = stopped(source, number, notebook.cells[number - 1].source, error)
        raise Trouble(f"{said} (as far as it ran: {unfinished})") from None
    except jupyter_client.kernelspec.NoSuchKernel:
        raise Trouble(
            f"{source} needs the Jupyter kernel '{KERNEL}', which this environment lacks: install ipykernel"
        ) from None
    except nbclient.exceptions.DeadKernelError:
        raise Trouble(
            f"{source}: its kernel died, perhaps for want of memory (as far as it ran: {unfinished})"
        ) from None
    except RuntimeError as error:
        raise Trouble(f"{source}: its kernel did not start: {error}") from None
    except OSError as error:
        error.filename = error.filename or str(unfinished)  # a write that fails names no file
        raise
    if values:
        show_once(executed)
    save(executed, unfinished, destination)


def save(notebook, unfinished, destination):
    """Write a notebook aside, and put it in its place when it is whole."""
    import nbformat

    try:
        nbformat.write(notebook, unfinished)
        os.replace(unfinished, destination)
    except OSError as error:
        error.filename = error.filename or str(unfinished)
        raise


def stopped(path, number, source, error):
    """Where and with what a cell stopped; code that is no Python by its line in the text."""
    line = re.fullmatch(r"(.*) \(\d+\.py, line (\d+)\)", error.evalue)  # IPython calls a cell by a number
    file = Path(path).with_suffix(".md")
    if line and file.is_file():
        above, found, _ = file.read_text(encoding="utf-8").partition(f"\n{source}\n```")
        if found:
            number = above.count("\n") + 1 + int(line[2])
            return f"{file}, line {number} is no Python: {line[1]}"
    first = f"{error.ename}: {error.evalue.strip()}".strip().splitlines()[0]
    return f"{path}, cell {number} stopped with {first}"


def as_printed(notebook, reason):
    """The notebook with its reference outputs, and a note below its opening that it was not run and why."""
    import nbformat

    note = f"> {NOT_RUN} {reason} It shows the outputs that the repository holds, at the default parameters."
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, metadata={"tags": ["not-run"]}))
    return notebook


def was_run(destination):
    """False for a page that waits for its data."""
    return not Path(destination).exists() or NOT_RUN not in Path(destination).read_text(encoding="utf-8")


def show_once(executed):
    """Give the injected cell the tags of the parameters cell, and take that one off the page."""
    shown = parameter_cell(executed)
    for cell in executed.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags += [tag for tag in shown.metadata.tags if tag != "parameters"]
    shown.metadata.tags.append("remove-cell")


def reference(source, destination):
    """Execute the text notebook and write `destination` if a cell that is not volatile changed.

    Returns True when the file was written.
    """
    import nbclient
    import nbformat

    from tools import kernels, plain

    source, destination = Path(source), Path(destination)
    fresh = text(source)
    fresh.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    fresh.nbformat, fresh.nbformat_minor = 4, 5
    client = nbclient.NotebookClient(
        fresh,
        kernel_name=KERNEL,
        kernel_manager_class=kernels.AsyncManager,
        extra_arguments=QUIET,
        timeout=None,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_complete=lambda cell, cell_index: print(
            f"{source.stem}: cell {cell_index + 1} of {len(fresh.cells)}", flush=True
        ),
    )
    try:
        kernels.patient(client.execute)()
    except nbclient.exceptions.CellExecutionError as error:
        number = next(
            i for i, cell in enumerate(fresh.cells, 1) if any(o.output_type == "error" for o in cell.get("outputs", []))
        )
        raise Trouble(stopped(source, number, fresh.cells[number - 1].source, error)) from None
    fresh.metadata.language_info = nbformat.from_dict({"name": "python", "pygments_lexer": "ipython3"})
    plain.cells(fresh, f"notebooks/{source.stem}")
    for number, cell in enumerate(fresh.cells, 1):
        cell.id = f"cell-{number:02d}"
        for output in cell.get("outputs", []):  # numbers that are not rounded differ between processors
            output.get("metadata", {}).get(VERDICT, {}).pop("numbers", None)
    try:
        if destination.exists() and lasting(fresh) == lasting(opened(destination)):
            print(f"{destination} is unchanged")
            return False
    except Trouble:
        pass  # no notebook any more, so this makes one
    unfinished = destination.with_suffix(".ipynb.part")
    save(fresh, unfinished, destination)
    print(f"{destination} is rewritten")
    return True


def lasting(notebook):
    """What a reference notebook holds besides the outputs of its volatile cells."""
    return [
        {
            key: value
            for key, value in cell.items()
            if key != "outputs" or "volatile" not in cell.metadata.get("tags", [])
        }
        for cell in notebook.cells
    ]
