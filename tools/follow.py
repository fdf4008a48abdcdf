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


# Large tensors come and go: glibc keeps their pages for the next one instead of asking the system each time, which
# takes a fifth of the time of a training.  It reads these where a process begins, so in every one that is started here.
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}

if __name__ == "__main__":
    os.environ.update(KEEP | os.environ)
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    command = Path(sys.executable).with_name(sys.argv[1])  # a script of this environment
    sys.path[0] = str(command.parent)
    sys.argv[:2] = [str(command)]
    runpy.run_path(str(command), run_name="__main__")
