"""A notebook as a kind of point: parameters go in, papermill runs it, verdicts and numbers come out.

The notebook itself travels to the workers, as the text of its code; the package has to be there, and the same.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lorabook
from lorabook.page.parameters import ParameterError, literals
from lorabook.sweep import SweepError, closure, kernels
from lorabook.sweep.engine import PointError

KERNEL = "python3"
SILENT = ["--log-level=CRITICAL"]  # a kernel that ends says that it was interrupted; what fails is in the record
RECORD, POINT = "lorabook", "lorabook-point"  # keys in the metadata of outputs: a verdict, what the kernel says last
FILES = ("lorabook", "notebook", "torch", "numpy", "scipy")  # what names a record, with its parameters


class OtherVersion(SweepError):
    """A worker computes with other code than the sweep began with."""


@dataclass(frozen=True)
class Notebook:
    """The code of a notebook: for each code cell its number, counted from 1 over all cells, and its text."""

    name: str
    cells: tuple[tuple[int, str], ...]
    place: int  # which of these is the parameters cell

    def defaults(self) -> dict:
        """The names and literal values that the parameters cell sets."""
        return literals(self.cells[self.place][1])


def read(path: str | Path) -> Notebook:
    """The notebook of a file.

    Raises:
        SweepError: there is no such file, it is no notebook, or it has not one cell tagged ``parameters``.
    """
    path = Path(path)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [(k, one) for k, one in enumerate(cells, 1) if one["cell_type"] == "code"]
        tagged = [k for k, (_, one) in enumerate(code) if "parameters" in one["metadata"].get("tags", [])]
        texts = tuple((k, "".join(one["source"])) for k, one in code)
    except OSError as error:
        raise SweepError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SweepError(f"{path} is no notebook with outputs (.ipynb).") from None
    if len(tagged) != 1:
        raise SweepError(f"{path} needs one cell tagged 'parameters', and has {len(tagged)}.")
    notebook = Notebook(path.stem, texts, tagged[0])
    try:
        notebook.defaults()
    except (ValueError, SyntaxError) as error:
        raise SweepError(f"{path}: {error}.") from None
    return notebook


def guard(notebook: Notebook) -> Callable[[dict], None]:
    """What holds the parameters of a point against the notebook's own check, the cell with ``parameters.check``.

    A notebook without one takes values of the types of its defaults.  The function raises SweepError.
    """
    later = [text for _, text in notebook.cells[notebook.place + 1 :] if "parameters.check(" in text]
    later = [text for text in later if closure.parsed(text)]
    cell, defaults = compile(later[0], notebook.name, "exec") if later else None, notebook.defaults()

    def check(values: dict) -> None:
        try:
            if cell:
                exec(cell, dict(values))
            for name, value in values.items() if not cell else ():
                if type(value) is not type(defaults[name]):
                    kind = type(defaults[name]).__name__
                    raise ParameterError(f"{name} is of type {kind} in the notebook; got {value!r}.")
        except ParameterError as error:
            point = ", ".join(f"{name} = {value!r}" for name, value in values.items() if value != defaults[name])
            raise SweepError(f"The point {point or 'of the defaults'} is refused: {error}") from None
        except Exception as error:
            raise SweepError(f"{notebook.name} cannot be checked: {type(error).__name__}: {error}") from None

    return check


@functools.cache
def _reach(notebook: Notebook) -> list[str]:
    return closure.needs([closure.parsed(text) for _, text in notebook.cells])


def identity(notebook: Notebook) -> dict:
    """What a record rests on beside its parameters: versions, with a hash of the files that the notebook reaches and
    one of its own code.  The files are read anew each time, so that an edit during a sweep is seen."""
    content = hashlib.sha256()
    named = {file.removeprefix("lorabook/"): closure.ROOT / file for file in _reach(notebook)}
    for name in sorted(named):
        data = named[name].read_bytes()
        content.update(f"{name} {len(data)}\n".encode() + data)
    code = [text for k, (_, text) in enumerate(notebook.cells) if k != notebook.place]
    found = {name: importlib.metadata.version(name).split("+")[0] for name in ("torch", "numpy", "scipy")}
    return {
        "lorabook": f"{lorabook.__version__} (files {content.hexdigest()[:12]})",
        "notebook": hashlib.sha256("\0".join(code).encode()).hexdigest()[:12],
        **found,
    }


def key(notebook: Notebook, made_of: dict, values: dict) -> str:
    """The name of a point's record: a hash of notebook, package, versions and all parameters."""
    said = json.dumps([notebook.name, made_of, values], sort_keys=True)
    return f"{notebook.name}-{hashlib.sha256(said.encode()).hexdigest()[:20]}"


def same(notebook: Notebook, made_of: dict) -> None:
    """OtherVersion unless the code on this machine is what the sweep began with."""
    found = identity(notebook)
    for name, version in made_of.items():
        if found[name] != version:
            raise OtherVersion(
                f"{platform.node()} has {name} {found[name]}, and the sweep began with {version}: install the same "
                "there, or start again if it was edited meanwhile."
            )


def run(notebook: Notebook, values: dict, made_of: dict) -> dict:
    """One point: the notebook with these parameters, all of them, and what it says at the end.

    Returns:
        ``verdicts`` by claim, with ``numbers`` that are not rounded; ``device``, ``python``, ``seconds``,
        ``peak_memory`` in bytes.

    Raises:
        PointError: a cell stopped, or the kernel died.
        OtherVersion: the package or a version is not that of ``made_of``.
    """
    import tempfile

    import jupyter_client
    import nbclient
    import nbformat
    import papermill

    where, begun = platform.node(), time.perf_counter()
    same(notebook, made_of)
    cells = [text for _, text in notebook.cells]
    cells[notebook.place] = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    cells = [_OPENING.format(root=str(closure.ROOT)), *cells, _CLOSING]
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    try:
        with tempfile.TemporaryDirectory(prefix="point-") as folder:
            executed = kernels.patient(papermill.execute_notebook)(
                document,
                None,
                kernel_name=KERNEL,
                language="python",
                resources={"metadata": {"path": folder}},
                extra_arguments=SILENT,
                kernel_manager_class=kernels.manager(),
                progress_bar=False,
            )
    except papermill.exceptions.PapermillExecutionError as error:
        first = f"{error.ename}: {error.evalue.strip()}".strip().splitlines()[0]
        if error.ename == "OtherVersion":
            raise OtherVersion(f"{where}: {error.evalue}") from None
        if error.ename == "KeyboardInterrupt":
            raise SweepError(f"The kernel on {where} was interrupted.") from None
        numbers = ["before the first", *(number for number, _ in notebook.cells), "after the last"]
        raise PointError(f"cell {numbers[error.cell_index]} stopped with {first}") from None
    except jupyter_client.kernelspec.NoSuchKernel:
        raise PointError(f"{where} has no Jupyter kernel '{KERNEL}': install ipykernel there") from None
    except nbclient.exceptions.DeadKernelError:
        raise PointError(f"its kernel died on {where}, perhaps for want of memory") from None
    except RuntimeError as error:
        raise PointError(f"its kernel did not start on {where}: {error}") from None
    same(notebook, made_of)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    found = [dict(output.metadata[RECORD]) for output in outputs if RECORD in output.get("metadata", {})]
    last = next(dict(output.metadata[POINT]) for output in outputs if POINT in output.get("metadata", {}))
    return {"verdicts": {one.pop("id"): one for one in found}, **last, "seconds": time.perf_counter() - begun}


# What the kernel does first and last.  Names with an underscore are no parameters.
_OPENING = "from lorabook.sweep import notebook as _point\n_point.opened({root!r})"
_CLOSING = "_point.closed()"


def opened(root: str) -> None:
    """In the kernel, first: OtherVersion where it imports another lorabook than its worker."""
    if str(closure.ROOT) != root:
        raise OtherVersion(f"its kernel imports lorabook from {closure.ROOT}, and not from {root}: install it there.")


def closed() -> None:
    """In the kernel, last: the device, the version of Python and the most memory that was held."""
    from IPython.display import display

    said: dict[str, str | int] = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    torch = sys.modules.get("torch")
    if torch:
        from lorabook import device

        said["device"] = device.describe()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            said["peak_memory_gpu"] = torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said["peak_memory"] = most * (1 if sys.platform == "darwin" else 1024)
    display({"text/plain": ""}, raw=True, metadata={POINT: said})
