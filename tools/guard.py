"""What guards a build: one at a time, whole notes of what was done, and one sentence for trouble of the machine."""

import errno
import json
import os
import sys
from pathlib import Path

from doit.dependency import JsonDB

from tools import environment

CAUSES = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "your quota on the disk is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
}
LOOKING = {"list", "info", "help", "dumpdb", "tabcompletion", "--help", "--version"}  # commands that write nothing


def sentence(error):
    """What an error of the disk means; None for any other error."""
    if error.errno in CAUSES:
        return f"{error.filename or Path.cwd()} could not be written: {CAUSES[error.errno]}."


def begin(notes):
    """Before a build: hold the clone alone, see that the notes can be read, and speak in sentences when it stops."""
    sys.excepthook = stopped
    if LOOKING & set(sys.argv[1:2]):
        return
    try:
        notes.parent.mkdir(exist_ok=True)
        begin.lock = environment.alone(notes.parent / "lock")  # held until this process ends
        if notes.exists() and not readable(notes):
            notes.unlink()
            print(f"{notes}, the list of what was done, had been cut short: every notebook runs again.", flush=True)
    except OSError as error:
        sys.exit(sentence(error) or str(error))
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
        sys.exit(f"{sentence(error) or error} The next build repeats what this one did.")


def stopped(kind, error, trace):
    """One sentence for Ctrl-C; the kernels end with this process."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("\nStopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
