"""Generated code, run where it can do no harm, or not at all.

A program is a process in namespaces of its own (``unshare`` of util-linux): no network, no sight of other processes,
and a file system in memory that holds Python and the system's libraries, which cannot be written, and an empty /tmp.
It has no capabilities, and limits of CPU time, memory, processes and the size of its files.  When its time is over it
is killed with all that it began.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lorabook.experiments import ExperimentError

SECONDS, MEMORY = 10.0, 2**30  # of a program: wall clock, and bytes
TOOLS = ("unshare", "setpriv", "mount", "chroot")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
APART = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--ipc", "--uts", "--mount", "--fork"]

# Without capabilities nothing leads out of a changed root, and no namespace of users can be made in one.
# $1 is an empty folder, $2 the interpreter, $3 what it runs, the rest the folders it needs.
_ROOM = """set -e
root=$1 python=$2 first=$3; shift 3
mount -t tmpfs -o size=64m,mode=755 tmpfs "$root"
for place in "$@"; do
    if [ -L "$place" ]; then cp -P "$place" "$root$place"; continue; fi
    mkdir -p "$root$place"
    mount --rbind "$place" "$root$place"
    mount -o remount,bind,ro "$root$place"
done
mkdir -p "$root/tmp"
exec chroot "$root" setpriv --bounding-set=-all --no-new-privs "$python" -I -S -c "$first"
"""
# It reads limits and a program, and tells the word that it was given once the program came to its end; one that merely
# exits has not.
_FIRST = """import os, resource, sys
told, word, seconds, memory = sys.stdin.buffer.readline().split()
for limit, most in (
    (resource.RLIMIT_CPU, int(seconds)),
    (resource.RLIMIT_AS, int(memory)),
    (resource.RLIMIT_FSIZE, 2**24),
    (resource.RLIMIT_NPROC, 16),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (most, most))
text = sys.stdin.buffer.read().decode()
os.chdir("/tmp")
exec(compile(text, "program", "exec"), {"__name__": "__main__"})
os.write(int(told), word)
"""


def passes(program: str, seconds: float = SECONDS, memory: int = MEMORY) -> bool:
    """Whether a Python program comes to its end, in time and without an error.

    Args:
        program: its text; it has the standard library and nothing else.
        seconds: until it is killed, and of CPU time.
        memory: bytes of each of its processes.

    Raises:
        ExperimentError: this system cannot shut a program in, see :func:`needed`.
    """
    needed()
    return _passes(program, seconds, memory)


@functools.cache
def needed() -> None:
    """Raise ExperimentError, in one sentence, where this system cannot shut a program in."""
    refuse = lambda why: ExperimentError(f"Generated code is not run here: {why}.")
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if not sys.platform.startswith("linux") or missing:
        raise refuse(f"it takes Linux with {', '.join(missing or TOOLS)}")
    if not _passes("pass", SECONDS, MEMORY):
        raise refuse("this system does not let a process have namespaces of its own")


def _passes(program: str, seconds: float, memory: int) -> bool:
    word = secrets.token_hex(16).encode()
    read, told = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="generated-") as folder:
            words = [*APART, "--kill-child", "sh", "-c", _ROOM, "sh", folder, _python(), _FIRST, *_places()]
            head = b"%d %s %d %d\n" % (told, word, max(1, round(seconds)), memory)
            try:
                subprocess.run(
                    words,
                    input=head + program.encode(errors="replace"),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": PATH},
                    pass_fds=[told],
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return False
        os.set_blocking(read, False)
        try:
            return os.read(read, len(word)) == word
        except BlockingIOError:  # nothing was told
            return False
    finally:
        os.close(read)
        os.close(told)


def _python() -> str:
    """The interpreter itself, behind the links of an environment."""
    return str(Path(sys.executable).resolve())


def _places() -> list[str]:
    """The folders that an interpreter needs, the outer ones first and none inside another."""
    wanted = {Path("/usr"), Path("/lib"), Path("/lib64"), Path("/bin"), Path(sys.base_prefix).resolve()}
    wanted |= {Path(_python()).parent}
    there = sorted(one for one in wanted if one.exists())
    return [str(one) for one in there if not set(one.parents) & set(there)]
