"""Renew requirements.lock: the newest versions within pyproject.toml that resolve together, for every system.

`make lock`; `make lock HOLD="torch==2.13.0"` keeps a package where it is. Linux, macOS and Windows get the same
versions, with the few packages that only one of them needs behind a marker. torch's own GPU libraries stay out:
torch pins them itself, where there are any.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker, default_environment

ROOT = Path(__file__).resolve().parent.parent
LOCK, CONDA = ROOT / "requirements.lock", ROOT / "environment.yml"
HEAD = """\
# Every package of the book's environment, for Linux, macOS and Windows, made by `make lock`.
# torch brings its own GPU libraries where there are any.
"""
OF_TORCH = re.compile(r"(cuda|nvidia|triton)\b")
HERE = default_environment()
SERVED = [
    HERE
    | {"sys_platform": system, "platform_system": name, "os_name": kind, "platform_machine": machine}
    | {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    | {"python_version": python, "python_full_version": f"{python}.9"}
    for system, name, kind, machine in (
        ("linux", "Linux", "posix", "x86_64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
    )
    for python in ("3.11", "3.12", "3.13", "3.14")
]


def resolve(hold):
    """The lines of the lock, with ``hold`` as further requirements."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv"]
        if subprocess.run(install, capture_output=True).returncode:
            sys.exit("The lock was not renewed: uv could not be installed; is there a network connection?")
        command = [python, "-m", "uv", "pip", "compile", "--universal", "--fork-strategy", "fewest", "--all-extras"]
        command += ["--prerelease", "disallow"]
        command += ["--python-version", "3.11", "--no-header", "--no-annotate", "-q", "pyproject.toml", "-"]
        wanted = "\n".join(["setuptools", "wheel", *hold])
        made = subprocess.run(command, cwd=ROOT, input=wanted, capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"The lock was not renewed: {' '.join(made.stderr.split())}")
    return [line for line in map(plain, made.stdout.splitlines()) if line and not OF_TORCH.match(line)]


def plain(line):
    """The line without a marker that every served system meets; nothing where none does."""
    pin, _, marker = line.partition(" ; ")
    met = [Marker(marker).evaluate(system) for system in SERVED] if marker else [True]
    return pin if all(met) else line if any(met) else ""


def versions(lines):
    """Name -> its pins, with their markers."""
    found = {}
    for line in lines:
        name, equal, pin = line.partition("==")
        if equal and not line.startswith("#"):
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), []).append(pin)
    return found


def main(hold):
    """Write the lock and say what moved."""
    before, lines = versions(LOCK.read_text().splitlines()), resolve(hold)
    after = versions(lines)
    for name in sorted(before.keys() | after.keys()):
        old, new = (", ".join(pins.get(name, ["-"])) for pins in (before, after))
        if old != new:
            print(f"{name}: {old} -> {new}")
    LOCK.write_text(HEAD + "\n".join(lines) + "\n")
    # conda brings a CPU build of torch, which has to be the one that pip then looks for.
    CONDA.write_text(re.sub(r"(?<=pytorch-cpu=)\S+", after["torch"][0], CONDA.read_text()))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]).split())
