"""Kernels that start: each talks through sockets in a folder of its own, so that no two race for a port.

Where ZeroMQ has no such sockets (Windows) a kernel listens on TCP, and a start that lost the race is tried again.
"""

from __future__ import annotations

import functools
import tempfile

TRIES = 3
ENDING = len("/k-1") + 2  # what a socket's name adds to the folder's


def folder() -> tempfile.TemporaryDirectory:
    """A new folder for sockets, with a path that the system takes; it goes when it is cleaned up or forgotten."""
    import zmq

    made = tempfile.TemporaryDirectory(prefix="kernel-")
    if len(made.name.encode()) + ENDING > zmq.IPC_PATH_MAX_LEN:
        made.cleanup()
        made = tempfile.TemporaryDirectory(prefix="kernel-", dir="/tmp")
    return made


class OwnSockets:
    """What makes a kernel manager's sockets files in a folder that lives as long as the kernel; it stands first."""

    transport: str

    def __init__(self, **settings):
        import zmq

        if zmq.has("ipc"):
            self.sockets = folder()
            settings |= {"transport": "ipc", "ip": f"{self.sockets.name}/k"}
        super().__init__(**settings)

    async def _async_cleanup_resources(self, restart=False):
        await super()._async_cleanup_resources(restart)  # type: ignore[misc]  # of the manager that stands second
        if not restart and self.transport == "ipc":
            self.sockets.cleanup()


@functools.cache
def manager() -> type:
    """The kernel manager that papermill and nbclient take."""
    from jupyter_client.manager import AsyncKernelManager

    return type(
        "AsyncManager", (OwnSockets, AsyncKernelManager), {"cleanup_resources": OwnSockets._async_cleanup_resources}
    )


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
