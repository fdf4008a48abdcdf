"""Which tests would notice a formula that was changed?  A seeded sample of mutants of the mathematics answers.

    python tools/mutants.py --seed 1 --count 200                    # the sample; what was tried is not tried again
    python tools/mutants.py --again                                 # those that survived, after tests were added
    python tools/mutants.py lorabook/flow.py --seed 2 --count 20    # a sample of one file

A mutant differs in one constant (twice it, or one more), one comparison (turned round), one + or *, one sign or one
transpose.  First each file of tests whose imports reach the mathematics runs once in a copy of the tree, and which
functions every test calls is noted.  Then every mutant meets the tests that call its function until one fails, and
those that are left the notebooks under 90 s.  One process imports what all of them need, and forks for each run.
One JSON line per mutant and step goes to _build/mutants.jsonl, and the last counts; the tree itself is left alone.
"""

import argparse
import ast
import contextlib
import importlib.metadata
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools import closure  # noqa: E402

ROOMS = ("", "rushka/", "mallada/", "lora_one/", "kim/", "one_dynamics/", "adapters/")
OTHER = {"+": "-", "-": "+", "*": "/", "/": "*", "<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
LONGEST = 90  # seconds of processor time that a notebook may take
PATIENCE = 20  # seconds of processor time, beside three times what the tests took
CLOCK = itertools.count(1)
MEMORY = 16 << 30  # a mutant may ask for tensors of any size
NOTING = """
import os, sys, threading
seen = {}
def note(frame, event, _):
    code = frame.f_code
    if event == "call" and id(code) not in seen:
        seen[id(code)] = code
        if code.co_filename.startswith(os.environ["MUTANTS_PACKAGE"]):
            with open(os.environ["MUTANTS_NOTES"], "a") as notes:
                test = os.environ.get("PYTEST_CURRENT_TEST", "")
                print(test, code.co_filename, code.co_firstlineno, sep="|", file=notes)
sys.setprofile(note)
threading.setprofile(note)
"""


def mutants(text):
    """Every mutant of a module as (start, end, new text), in bytes; messages and drawings are no mathematics."""
    source, tree = text.encode(), ast.parse(text)
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def span(node):
        return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset

    def visit(node):
        if isinstance(node, ast.Raise | ast.JoinedStr) or drawing(node):
            return
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield *span(node), repr(2 * node.value if node.value not in (0, 1) else node.value + 1)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield span(node)[0], span(node)[0] + 1, ""
        if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SIGNS:
            left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            yield from turned(span(left)[1], span(right)[0], re.escape(SIGNS[type(node.op)]))
        if isinstance(node, ast.Compare):
            for left, right in zip([node.left, *node.comparators], node.comparators):
                yield from turned(span(left)[1], span(right)[0], "[<>=!]=|[<>]")
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        name = node.func if called else node
        if isinstance(name, ast.Attribute) and name.attr in (("t", "transpose") if called else ("T", "mT", "mH")):
            yield span(name)[1] - len(name.attr) - 1, span(node)[1], ""
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    def turned(start, end, sign):
        found = re.search(sign, re.sub("#.*", lambda comment: " " * len(comment[0]), source[start:end].decode()))
        if found and found[0] in OTHER:
            yield start + found.start(), start + found.end(), OTHER[found[0]]

    return sorted(visit(tree))


def drawing(node):
    """Whether a function draws: it takes axes, or asks for the figures."""
    if not isinstance(node, ast.FunctionDef):
        return False
    names = {alias.name for one in ast.walk(node) if isinstance(one, ast.ImportFrom) for alias in one.names}
    return bool({"ax", "axes"} & {one.arg for one in node.args.args} or "figures" in names)


def function(text, start):
    """Name and first line of the innermost function around a place; line 0 for what runs at import."""
    before, found = text.encode()[:start].split(b"\n"), ("at import", 0)
    here = len(before), len(before[-1])
    for node in ast.walk(ast.parse(text)):  # breadth first: the innermost comes last
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            if (node.lineno, node.col_offset) <= here < (node.end_lineno, node.end_col_offset):
                first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
                found = (getattr(node, "name", found[0]), first)
    return found


def warm(files):
    """Import what the files import from elsewhere, and what pytest is extended by."""
    names = {
        dotted for file in files for dotted in closure.package.imports(ast.parse((ROOT / file).read_text("utf-8")))
    }
    own = {path.stem for place in (ROOT, ROOT / "tests") for path in place.iterdir()}
    for dotted in sorted(one for one in names if one[0] not in own):
        with contextlib.suppress(ImportError):
            importlib.import_module(".".join(dotted[:-1] or dotted))
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()


class Watch:
    """What pytest is told in a forked run: which tests to keep, the quickest first; it writes down what they did."""

    def __init__(self, seconds, out):
        self.seconds, self.out, self.passed, self.failed = seconds, out, {}, []

    def pytest_collection_modifyitems(self, items):
        if self.seconds and self.seconds.keys() <= {item.nodeid for item in items}:  # a mutant may rename a test
            items[:] = sorted(
                (item for item in items if item.nodeid in self.seconds), key=lambda item: self.seconds[item.nodeid]
            )

    def forget(self, item):
        if "sitecustomize" in sys.modules:
            getattr(sys.modules["sitecustomize"], "seen", {}).clear()

    pytest_runtest_setup = pytest_runtest_call = forget

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed[report.nodeid] = report.duration

    def pytest_sessionfinish(self):
        self.out.write_text(json.dumps([self.passed, self.failed]))


def fork(copy, file, limit, seconds=None, notes=None):
    """Run a file's tests in the copy, in a fork: exit status, None for time; passed with seconds; failed; seconds."""
    out = copy.with_name("result")
    out.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.chdir(copy)
            os.dup2(os.open(copy.with_name("said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))  # processor time: other work does not count
            for name in [name for name in sys.modules if name.split(".")[0] in ("tools", "lorabook", "sitecustomize")]:
                del sys.modules[name]
            sys.path[:] = [
                str(copy),
                *(path for path in sys.path if not Path(path).is_relative_to(ROOT / "tools") and path != str(ROOT)),
            ]
            os.environ["PYTHONPATH"] = str(copy)
            if notes:
                os.environ |= {"MUTANTS_PACKAGE": f"{copy / 'lorabook'}{os.sep}", "MUTANTS_NOTES": str(notes)}
                (copy / "sitecustomize.py").write_text(NOTING)
                importlib.import_module("sitecustomize")
            import pytest

            kind = ["--nbval"] if file.endswith(".ipynb") else ["-m", "not slow"]
            every = [] if notes else ["-x"]
            os._exit(
                pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", *kind, *every, file], [Watch(seconds, out)])
            )
        os._exit(70)
    end, ended = time.monotonic() + 10 * limit, (0,)  # an end for what waits and computes nothing
    try:
        while not ended[0]:
            time.sleep(0.02)
            ended = os.wait4(child, os.WNOHANG)
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    (copy / "sitecustomize.py").unlink(missing_ok=True)
    passed, failed = json.loads(out.read_text()) if out.exists() else ({}, [])
    status = None if os.WIFSIGNALED(ended[1]) else os.waitstatus_to_exitcode(ended[1])
    return status, passed, failed, ended[2].ru_utime + ended[2].ru_stime


def needs(file):
    """What the outcome of a file of tests, or of a notebook's test, depends on."""
    return closure.needs(Path(file).stem) if file.endswith(".ipynb") else closure.closure([file])


def measured(copy, file, known):
    """Seconds of each test of a file, and what it calls; kept with a stamp of all that the file depends on."""
    stamp, notes = closure.state(needs(file)), copy.with_name("notes")
    if known.get(file, {}).get("stamp") == stamp:
        return known[file]
    notes.write_text("")
    _, passed, failed, seconds = fork(copy, file, 4 * LONGEST, notes=notes)
    calls = {}
    for line in notes.read_text().splitlines():
        test, path, first = line.rsplit("|", 2)  # what is called while a test is set up, others may share
        test = test.removesuffix(" (call)") if test.endswith(" (call)") and file.endswith(".py") else ""
        calls.setdefault(f"{Path(path).relative_to(copy)}:{first}", []).append(test)
    if file.endswith(".ipynb") and (failed or seconds > LONGEST):
        failed, passed = failed or ["too long"], {}
    said = f"{len(passed)} tests in {seconds:.0f} s"
    print(f"{file}: {said}; left out: {' '.join([str(len(failed)), *failed[:1]])}", flush=True)
    return {"stamp": stamp, "passed": passed, "calls": calls}


def meet(copy, mutant, text, tests):
    """A mutant meets the tests that call its function, its own file first: whether one fails, by time, which."""
    key, chosen, (*_, room, module) = f"{mutant['file']}:{mutant['first']}", {}, Path(mutant["file"]).parts
    own = [room, module.removesuffix(".py")]
    for file, one in tests.items():
        called = one["calls"].get(key, []) if mutant["first"] else [""] if mutant["file"] in one["stamp"] else []
        chosen[file] = {test: time for test, time in one["passed"].items() if "" in called or test in called}
    order = [file for file in chosen if chosen[file]]
    order.sort(key=lambda file: (not any(one in file for one in own), sum(chosen[file].values())))
    source, target = text.encode(), copy / mutant["file"]
    kept = target.stat()
    target.write_bytes(source[: mutant["start"]] + mutant["new"].encode() + source[mutant["end"] :])
    os.utime(target, (next(CLOCK),) * 2)  # a time of its own, so that no other's bytecode is taken for it
    try:
        for file in order:
            limit, page = int(PATIENCE + 3 * sum(chosen[file].values())), file.endswith(".ipynb")
            status, passed, failed, _ = fork(copy, file, limit, None if page else chosen[file])
            mutant["tests"] += len(passed)
            if status != 0:
                return "time" if status is None else "page" if page else "unit", (failed or [file])[0]
        return None, ""
    finally:
        target.write_bytes(source)
        os.utime(target, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def name(record):
    """What tells a mutant from others."""
    return record["file"], record["start"], record["end"], record["new"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", help="modules to change; without any, all of the mathematics")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, default=ROOT / "_build/mutants.jsonl")
    parser.add_argument("--again", action="store_true", help="try again those in the output file that survived")
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    files = list(map(closure.asked, asked.files)) or closure.files(*(f"lorabook/{room}*.py" for room in ROOMS))
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in files}
    every = [(file, *one) for file in files for one in mutants(texts[file])]
    sample = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    lines = map(json.loads, asked.out.read_text().splitlines()) if asked.out.exists() else []
    tried = {name(one): one for one in lines}  # the last word on a mutant counts
    if asked.again:
        sample = [one for one in every if tried.get(one, {}).get("verdict") in ("survived", "left")]
        tried = {}
    os.environ |= {"OMP_NUM_THREADS": "1", "LORABOOK_BROWSER": "skip"}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder).resolve() / "copy"
        spare = lambda _, names: [one for one in names if closure.noise(one) or one == "_build"]
        shutil.copytree(ROOT, copy, symlinks=True, ignore=spare)
        for tests, before, after in (("tests/test_*.py", None, "left"), ("notebooks/*.ipynb", "left", "survived")):
            waiting = [one for one in sample if tried.get(one, {}).get("verdict") == before]
            tests, begun = reaching(copy, tests, {one[0] for one in waiting}, asked.out), time.monotonic()
            for number, one in enumerate(waiting, 1):
                file, start, end, new = one
                text, since = texts[file], time.monotonic()
                line, (inside, first) = text.encode()[:start].count(b"\n") + 1, function(text, start)
                mutant = {"file": file, "line": line, "function": inside, "first": first, "start": start, "end": end}
                mutant |= {"old": text.encode()[start:end].decode(), "new": new, "tests": 0, "seconds": 0}
                mutant |= {"code": text.split("\n")[line - 1].strip()} | tried.get(one, {})
                verdict, mutant["by"] = meet(copy, mutant, text, tests)
                mutant["verdict"], mutant["seconds"] = verdict or after, mutant["seconds"] + time.monotonic() - since
                tried[one] = mutant
                with asked.out.open("a") as out:
                    print(json.dumps(mutant), file=out)
                left = (time.monotonic() - begun) / number * (len(waiting) - number) / 60
                said = f"{file}:{line} {mutant['old']} -> {new or 'nothing'}: {mutant['verdict']} {mutant['by']}"
                print(f"[{number}/{len(waiting)}, {left:.0f} min left] {said}", flush=True)
    found = [tried[one]["verdict"] for one in sample]
    print(", ".join(f"{verdict}: {found.count(verdict)}" for verdict in ("unit", "page", "time", "survived")))


def reaching(copy, pattern, changed, out):
    """What is measured of the tests that reach one of the changed files; it is kept beside the output file."""
    beside = out.with_suffix(".tests.json")
    known = json.loads(beside.read_text()) if beside.exists() else {}
    reach = {file: needs(file) for file in closure.files(pattern)}
    reach = {file: found for file, found in reach.items() if changed & set(found)}
    warm({"tools/mutants.py"} | {one for found in reach.values() for one in found if one.endswith(".py")})
    for file in reach:
        known[file] = measured(copy, file, known)
        beside.write_text(json.dumps(known))
    return {file: known[file] for file in reach}


if __name__ == "__main__":
    main()
