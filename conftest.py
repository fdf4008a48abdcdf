"""What every run of pytest here loads, of the tests and of the notebooks alike."""

import nbval.kernel
import pytest
from xdist.scheduler import LoadScopeScheduling

from tools import guard, kernels

pytest_plugins = ["tests.held"]

# Notebooks that are compared race for no port either.
nbval.kernel.KernelManager = kernels.Manager
nbval.kernel.start_new_kernel = kernels.patient(nbval.kernel.start_new_kernel)

# What takes long begins first, the longest at the top, so that no worker waits for another at the end.
LONG = (
    "tests/test_site.py visits notebooks/real_fine_tune.ipynb tests/test_build.py tests/test_adapter_page.py "
    "notebooks/maps.ipynb notebooks/mallada_weights.ipynb notebooks/kim_networks.ipynb notebooks/kim_landscape.ipynb "
    "notebooks/mallada_network.ipynb notebooks/lora_one_alignment.ipynb tests/test_explore.py "
    "notebooks/lora_one_convergence.ipynb notebooks/one_dynamics.ipynb notebooks/practice.ipynb "
    "notebooks/mallada_two_phase.ipynb tests/test_certify_folder.py tests/test_kim.py tests/test_mallada.py"
).split()


def group(nodeid):
    """What stays together on one worker: the cells of a notebook, a file of tests, all that asks for one long visit."""
    return "visits" if "::test_no_page_has_a_fault_of_this_kind[" in nodeid else nodeid.partition("::")[0]


def pytest_configure(config):
    """The notebooks' kernels import what the environment has, wherever pytest stands."""
    other = guard.package()
    if other:
        raise pytest.UsageError(other)


class Groups(LoadScopeScheduling):
    """Tests are dealt out by groups, in the order in which they were collected."""

    def _split_scope(self, nodeid):
        return group(nodeid)


def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items):
    """The long groups first."""
    items.sort(key=lambda item: LONG.index(group(item.nodeid)) if group(item.nodeid) in LONG else len(LONG))
