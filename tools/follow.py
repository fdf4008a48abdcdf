"""`python tools/follow.py doit ...` is `doit ...`, and ends with the process that started it.

A process that was killed can stop nobody, so the started one looks for itself.
"""

import os
import runpy
import sys
import threading
import time
from pathlib import Path


def watch(parent):
    """End as soon as the parent is another one."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    command = Path(sys.executable).with_name(sys.argv[1])  # a script of this environment
    sys.path[0] = str(command.parent)
    sys.argv[:2] = [str(command)]
    runpy.run_path(str(command), run_name="__main__")
