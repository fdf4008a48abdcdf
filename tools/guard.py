"""What guards a build: one at a time, whole notes of what was done, and one sentence for trouble of the machine."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from doit import doit_cmd
from doit.dependency import JsonDB

from tools import environment

ROOT = Path(__file__).resolve().parent.parent
CAUSES = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "your quota on the disk is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
}
LOOKING = {"list", "info", "help", "dumpdb", "tabcompletion", "--help", "--version"}  # commands that write nothing


def sentence(error, place=None):
    """What an error of the disk means; None for any other error.  A write that fails names no file: then `place`."""
    if error.errno in CAUSES:
        path = error.filename2 or error.filename or place or Path.cwd()
        return f"{path} could not be written: {CAUSES[error.errno]}."


def package():
    """Which lorabook a notebook would import, where it is not that of this clone; what to do then, in one sentence."""
    ask = "import importlib.util as u; found = u.find_spec('lorabook'); print(found.origin if found else '')"
    command = [sys.executable, "-c", ask]
    found = subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True).stdout.strip()
    if not found or Path(found).resolve().parent != ROOT / "lorabook":
        which = f"imports lorabook from {Path(found).parent}" if found else "has no lorabook"
        return f"{sys.executable} {which}, and this clone is {ROOT}: type make book, or pip install -e . here."


def begin(notes):
    """Before a build: hold the clone alone, see that the notes can be read, and speak in sentences when it stops."""
    sys.excepthook = stopped
    if notes.is_dir():
        sys.exit(f"{notes} is a folder, and the list of what was done belongs there: remove it.")
    unknown = sorted(set(doit_cmd._CMDLINE_VARS or {}) - {"profile"})
    if unknown:
        sys.exit(f"There is no setting {', '.join(unknown)}: the only one is profile.")
    if LOOKING & set(sys.argv[1:2]):
        return
    other = package()
    if other:
        sys.exit(other)
    try:
        notes.parent.mkdir(exist_ok=True)
        begin.lock = environment.alone(notes.parent / "lock")  # held until this process ends
        if notes.exists() and not readable(notes):
            notes.unlink()
            print(f"{notes}, the list of what was done, had been cut short: every notebook runs again.", flush=True)
    except OSError as error:
        sys.exit(sentence(error, notes.parent) or str(error))
    JsonDB.dump = dump


def readable(notes):
    try:
        return isinstance(json.loads(notes.read_text()), dict)
    except ValueError:
        return False


def dump(database):
    """Replace the notes as a whole, so that a killed build leaves the old ones."""
    part = Path(f"{database.name}.part")
    try:
        part.write_text(database.codec.encode(database._db))
        os.replace(part, database.name)
    except OSError as error:
        sys.exit(f"{sentence(error, part) or error} The next build repeats what this one did.")


def stopped(kind, error, trace):
    """One sentence for Ctrl-C; the kernels end with this process."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("\nStopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
