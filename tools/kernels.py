"""Kernels that start, for nbval, papermill and nbclient: lorabook/sweep/kernels.py says how.

papermill and nbclient take `AsyncManager`, nbval takes `Manager` (conftest.py).
"""

from jupyter_client.manager import KernelManager
from jupyter_core.utils import run_sync

from lorabook.sweep.kernels import OwnSockets, folder, manager, patient

__all__ = ["AsyncManager", "Manager", "folder", "patient"]
AsyncManager = manager()


class Manager(OwnSockets, KernelManager):
    """For nbval."""

    cleanup_resources = run_sync(OwnSockets._async_cleanup_resources)
