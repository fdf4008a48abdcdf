"""Do the book's numbers hold on other processors?  These add up in another order, and last bits move.

`make kernels` runs the notebooks under one setting after another and counts the cells whose outputs differ from the
reference outputs in X.ipynb, compared as nbval compares them.  A setting is left out where a probe shows that it
changes no bit on this machine.  Results stay in _build/processors, named by the content of what they depend on.

    python tools/processors.py kim_networks --settings avx2 farthest --show
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools import closure, kernels, notebooks  # noqa: E402

RESULTS = ROOT / "_build/processors"
SETTINGS = {
    # as the build runs notebooks; every variable named below is otherwise unset
    # threads that outnumber the cores sleep while they wait: that moves no number and saves much time
    "native": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0", "LORABOOK_DEVICE": "cpu"},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "compatible": {"MKL_CBWR": "COMPATIBLE"},
    "nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
    "threads-2": {"OMP_NUM_THREADS": "2"},
    "threads-4": {"OMP_NUM_THREADS": "4"},
    "hash-seed": {"PYTHONHASHSEED": "1"},
    "signs": {"PYTHONPATH": str(ROOT / "tools/signs")},  # of singular vectors; no processor's setting flips them
    "cuda": {"LORABOOK_DEVICE": "cuda"},
}
# four threads on fewer cores would take ten times as long
MANY = "threads-4" if (os.cpu_count() or 1) >= 4 else "threads-2"
SETTINGS["farthest"] = {
    knob: value for name in ("default", "compatible", "nehalem", MANY) for knob, value in SETTINGS[name].items()
}
# Where a machine sets it, an older OpenBLAS may need it: there it stays as it is.
FIXED = {"OPENBLAS_CORETYPE"} & os.environ.keys()
# These show what the others print, and compute nothing.
COLLECTORS = ("ledger", "errata")
# What nbval leaves out of an output; a widget's names are random.
UNCOMPARED = ("metadata", "traceback", "output_type", "name", "execution_count", "data", "image/png", "image/jpeg")

PROBE = """
import hashlib, json, os
import numpy, torch
from torch.nn import functional

draw = torch.randn(300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
draw = draw.to(os.environ["LORABOOK_DEVICE"])
weight = draw.clone().requires_grad_()
functional.cross_entropy(functional.gelu(weight @ draw), torch.arange(300, device=draw.device)).backward()
array = draw.cpu().numpy()
found = {
    "torch's matrix product": draw @ draw,
    "torch's SVD": torch.linalg.svdvals(draw),
    "a singular vector": torch.linalg.svd(draw).U[:, 0],
    "torch's long sum": draw.repeat(20, 1).sum(),
    "a training step": weight.grad,
    "numpy's matrix product": array @ array,
    "numpy's SVD": numpy.linalg.svd(array)[1],
}
found = {name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value for name, value in found.items()}
found = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in found.items()}
print(json.dumps(found | {"the order of a set": " ".join({"one", "two", "three", "four", "five"})}))
"""


def environment(setting):
    """The variables that a setting stands for, with those of native, and the whole environment of its kernels."""
    knobs = {knob for values in SETTINGS.values() for knob in values} - FIXED
    values = {knob: value for knob, value in (SETTINGS["native"] | SETTINGS[setting]).items() if knob in knobs}
    return values, {key: value for key, value in os.environ.items() if key not in knobs} | values


def probe(setting):
    """Hashes of a few computations under a setting, by name; None where it does not run on this machine."""
    ran = subprocess.run([sys.executable, "-c", PROBE], env=environment(setting)[1], capture_output=True, text=True)
    return json.loads(ran.stdout) if ran.returncode == 0 else None


def telling(chosen):
    """Those of the chosen settings that change a bit on this machine; prints a sentence for every one."""
    native, kept = probe("native"), []
    for setting in chosen:
        found = native if setting == "native" else probe(setting)
        changed = [name for name in native if found and found[name] != native[name]]
        if found is None:
            print(f"{setting} is left out: this machine lacks it.")
        elif setting != "native" and not changed:
            print(f"{setting} is left out: it changes no bit on this machine, so it tests nothing.")
        else:
            print(f"{setting} moves {', '.join(changed)}." if changed else "native is how the build runs notebooks.")
            kept.append(setting)
    return kept


def code_cells(notebook):
    """The code cells, with their numbers as the build counts them: all cells from 1."""
    return [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]


def compared(cell):
    """What nbval compares of a cell's outputs, lists by kind; None for a cell whose outputs it leaves alone."""
    if "nbval-ignore-output" in cell.metadata.get("tags", []):
        return None
    found = defaultdict(list)
    for output in cell.outputs:
        parts = {output.name: output.text} if output.output_type == "stream" else {**output, **output.get("data", {})}
        for kind in parts.keys() - UNCOMPARED:
            found[kind].append(parts[kind])
    return dict(found)


def execute(path, setting):
    """Run a notebook under a setting: seconds, and what nbval compares of each code cell; an error is compared too."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        kernel_name=notebooks.KERNEL,
        kernel_manager_class=kernels.AsyncManager,
        extra_arguments=notebooks.QUIET,
        timeout=None,
        allow_errors=True,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.monotonic()
    client.execute(env=environment(setting)[1])
    return {"seconds": time.monotonic() - start, "cells": [compared(cell) for _, cell in code_cells(notebook)]}


def place(path, setting):
    """Where a result is kept: named by the content of all that it depends on."""
    import torch

    cells = [[cell.source, cell.metadata.get("tags", [])] for _, cell in code_cells(nbformat.read(path, as_version=4))]
    processor = torch.backends.cpu.get_cpu_capability()
    fixed = {knob: os.environ[knob] for knob in sorted(FIXED)}
    parts = [cells, environment(setting)[0] | fixed, torch.__version__, processor]
    content = hashlib.sha256(json.dumps(parts).encode())
    for file in closure.needs(path.stem):
        if not file.endswith(".ipynb"):  # of the notebook itself the cells count, not the outputs
            content.update((ROOT / file).read_bytes())
    return RESULTS / f"{path.stem}.{setting}.{content.hexdigest()[:16]}.json"


def differences(path, result):
    """The lines that differ from the reference outputs: (number of the cell, expected, found)."""
    for (number, cell), now in zip(code_cells(nbformat.read(path, as_version=4)), result["cells"], strict=True):
        reference = compared(cell)
        if now == reference:
            continue
        # A line often stands in the plain and in the HTML form of an output: the plain one comes first.
        for kind in sorted({*now, *reference}, key=lambda kind: kind != "text/plain"):
            old, new = ("\n".join(map(str, form.get(kind, []))).splitlines() for form in (reference, now))
            length = max(len(old), len(new))
            pairs = zip(*(lines + ["(no line)"] * (length - len(lines)) for lines in (old, new)))
            found = [(number, *pair) for pair in pairs if pair[0] != pair[1]]
            if found:
                yield from found
                break


def known():
    """The notebooks that compute, by name."""
    return {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.stem not in COLLECTORS}


def usual(path):
    """Seconds that a run took where the reference outputs were made, or a guess."""
    found = re.search(r"(\d+) s; ", path.read_text(encoding="utf-8"))
    return int(found[1]) if found else 30


def work(paths, settings, jobs):
    """Results by (path, setting): those that are kept, then the runs, each kept and told as it ends."""
    places = {(path, setting): place(path, setting) for setting in settings for path in paths}
    results = {pair: json.loads(kept.read_text()) for pair, kept in places.items() if kept.exists()}
    left = [pair for pair in places if pair not in results]
    if results:
        print(f"{len(results)} of {len(places)} runs are kept from before.")
    RESULTS.mkdir(parents=True, exist_ok=True)
    start, ahead = time.monotonic(), sum(usual(path) for path, _ in left)
    total = ahead
    with ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(execute, *pair): pair for pair in left}
        for done, run in enumerate(as_completed(runs), 1):
            path, setting = pair = runs[run]
            results[pair] = run.result()
            unfinished = places[pair].with_suffix(".part")
            unfinished.write_text(json.dumps(results[pair]))
            os.replace(unfinished, places[pair])
            ahead -= usual(path)
            minutes = (time.monotonic() - start) / (total - ahead) * ahead / 60
            print(
                f"{path.stem} under {setting}: {moved(path, results[pair])} cells differ; {done} of {len(left)} runs, "
                f"about {minutes:.0f} minutes left",
                flush=True,
            )
    return results


def moved(path, result):
    """How many cells differ."""
    return len({number for number, *_ in differences(path, result)})


def show(path, setting, result, lines):
    """Print the first differing lines of each cell: - expected, + found."""
    shown = defaultdict(int)
    for number, old, new in differences(path, result):
        shown[number] += 1
        if shown[number] <= lines:
            print(f"{path.stem}, cell {number}, under {setting}:\n  - {old}\n  + {new}")


def table(paths, settings, results):
    """The matrix: notebook x setting, cells that differ."""
    wide = max(len(name) for name in ["cells that differ", *(path.stem for path in paths)])
    lines = ["  ".join(["cells that differ".ljust(wide), *settings])]
    for path in paths:
        counts = (str(moved(path, results[path, setting])).rjust(len(setting)) for setting in settings)
        lines.append("  ".join([path.stem.ljust(wide), *counts]))
    return "\n".join(lines)


def choice(known, chosen, what):
    """What was chosen, all where nothing was; Trouble for a name that is not known."""
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise notebooks.Trouble(f"There is no {what} {', '.join(unknown)}: choose from {', '.join(known)}.")
    return list(chosen) or list(known)


def main(arguments=None):
    """Run and print the matrix; 1 where a cell differs, 2 for a name that is not known."""
    parser = argparse.ArgumentParser(description="Run notebooks as other processors would and compare their outputs.")
    parser.add_argument("notebooks", nargs="*", help="all where none is named")
    parser.add_argument("--settings", nargs="+", default=[], help=f"of {', '.join(SETTINGS)}; all where none is named")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--show", type=int, nargs="?", const=3, default=0, help="differing lines to show of each cell")
    given = parser.parse_args(arguments)
    try:
        paths = [known()[name] for name in choice(known(), given.notebooks, "notebook")]
        settings = choice(SETTINGS, given.settings, "setting")
        if given.jobs < 1:
            raise notebooks.Trouble(f"--jobs must be at least 1, not {given.jobs}.")
    except notebooks.Trouble as trouble:
        print(trouble)
        return 2
    for knob in sorted(FIXED):
        print(f"{knob} is set on this machine and stays {os.environ[knob]}.")
    settings = telling(settings)
    results = work(paths, settings, given.jobs)
    for (path, setting), result in results.items():
        show(path, setting, result, given.show)
    print(table(paths, settings, results))
    return int(any(moved(path, result) for (path, _), result in results.items()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Stopped; the runs that ended are kept.", flush=True)
        os._exit(130)
