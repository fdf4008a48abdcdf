"""The command ``lorabook``; ``python -m lorabook`` is the same one.

Exit code 0: it was done.  1: something could not be read, one sentence on stderr.  2: wrong options.
"""

from __future__ import annotations

import argparse
import os
import sys

import lorabook
from lorabook.commands import compare, inspect, run, sweep, truncate

#: Each has ``add(commands)``; see :mod:`lorabook.commands`.
COMMANDS = (inspect, truncate, compare, sweep, run)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="lorabook", description="Tools of the lorabook package.")
    parser.add_argument("--version", action="version", version=f"lorabook {lorabook.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add(commands)
    options = parser.parse_args(arguments)
    if hasattr(options, "check"):
        options.check(options)
    try:
        done = options.run(options)
        if isinstance(done, int):
            return done
        print(done)
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains again at exit
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"lorabook: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
