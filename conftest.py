"""What every run of pytest here loads, of the tests and of the notebooks alike."""

import nbval.kernel

from tools import kernels

pytest_plugins = ["tests.held"]

# Notebooks that are compared race for no port either.
nbval.kernel.KernelManager = kernels.Manager
nbval.kernel.start_new_kernel = kernels.patient(nbval.kernel.start_new_kernel)
