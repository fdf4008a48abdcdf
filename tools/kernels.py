"""Kernels that start: each talks through sockets in a folder of its own, so that no two race for a port.

papermill and nbclient take `AsyncManager`, nbval takes `Manager` (conftest.py).  Where ZeroMQ has no such sockets
(Windows) a kernel listens on TCP, and a start that lost the race is tried again.
"""

import functools
import tempfile

import zmq
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_core.utils import run_sync

TRIES = 3
ENDING = len("/k-1") + 2  # what a socket's name adds to the folder's


def folder():
    """A new folder for sockets, with a path that the system takes; it goes when it is cleaned up or forgotten."""
    made = tempfile.TemporaryDirectory(prefix="kernel-")
    if len(made.name.encode()) + ENDING > zmq.IPC_PATH_MAX_LEN:
        made.cleanup()
        made = tempfile.TemporaryDirectory(prefix="kernel-", dir="/tmp")
    return made


class OwnSockets:
    """A kernel manager whose sockets are files in a folder that lives as long as the kernel."""

    def __init__(self, **settings):
        if zmq.has("ipc"):
            self.sockets = folder()
            settings |= {"transport": "ipc", "ip": f"{self.sockets.name}/k"}
        super().__init__(**settings)

    async def _async_cleanup_resources(self, restart=False):
        await super()._async_cleanup_resources(restart)
        if not restart and self.transport == "ipc":
            self.sockets.cleanup()


class Manager(OwnSockets, KernelManager):
    """For nbval."""

    cleanup_resources = run_sync(OwnSockets._async_cleanup_resources)


class AsyncManager(OwnSockets, AsyncKernelManager):
    """For papermill and nbclient."""

    cleanup_resources = OwnSockets._async_cleanup_resources


def patient(start):
    """Try a start again when the kernel died before it spoke."""

    @functools.wraps(start)
    def again(*args, **kwargs):
        for left in reversed(range(TRIES)):
            try:
                return start(*args, **kwargs)
            except RuntimeError as error:
                if not left or "Kernel d" not in str(error):  # "Kernel died before", "Kernel didn't respond"
                    raise

    return again
