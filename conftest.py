"""What every run of pytest here loads, of the tests and of the notebooks alike."""

import nbval.kernel
import pytest

from tools import kernels

pytest_plugins = ["tests.held"]

# Notebooks that are compared race for no port either.
nbval.kernel.KernelManager = kernels.Manager
nbval.kernel.start_new_kernel = kernels.patient(nbval.kernel.start_new_kernel)

# What takes long begins first, the longest at the top, so that no worker waits for another at the end.
LONG = (
    "notebooks/real_fine_tune.ipynb visits tests/test_build.py notebooks/mallada_weights.ipynb tests/test_site.py "
    "notebooks/mallada_network.ipynb notebooks/lora_one_alignment.ipynb notebooks/mallada_two_phase.ipynb "
    "notebooks/kim_landscape.ipynb tests/test_explore.py notebooks/one_dynamics.ipynb notebooks/rushka_low_rank.ipynb "
    "notebooks/lora_one_convergence.ipynb notebooks/kim_networks.ipynb tests/test_kim.py tests/test_mallada.py"
).split()


def group(item):
    """What stays together on one worker: the cells of a notebook, a file of tests, all that asks for one long visit."""
    return "visits" if "visits" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Deal the tests out by groups, the long ones first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: LONG.index(group(item)) if group(item) in LONG else len(LONG))
