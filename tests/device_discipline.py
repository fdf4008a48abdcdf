"""A guard for tests: real computations run under it and fail where a tensor would slip to another device.

On a machine without a GPU every tensor lives on the CPU, so a result on the wrong device cannot be seen.
The two ways to get there can be: a tensor made without saying where, and a transfer to the host.

    with no_hidden_host_transfers():
        solution = integrate(velocity, start, times)
"""

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = {
    getattr(torch, name): name
    for name in (
        "arange as_tensor empty eye from_numpy full linspace logspace normal ones rand randint randn randperm "
        "range scalar_tensor tensor tril_indices triu_indices zeros"
    ).split()
}
_TRANSFERS = {getattr(torch.Tensor, name): name for name in ("cpu", "numpy", "tolist", "__array__")}


class _NoHiddenHostTransfers(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _TRANSFERS:
            raise AssertionError(f"Tensor.{_TRANSFERS[function]} moves the data to the host.")
        if function in _FACTORIES and kwargs.get("device") is None and not _stays(function, args):
            raise AssertionError(f"torch.{_FACTORIES[function]} without a device uses the default device.")
        return function(*args, **kwargs)


def _stays(function, args):
    """as_tensor and normal of a tensor stay on the device of that tensor."""
    return function in (torch.as_tensor, torch.normal) and any(isinstance(arg, torch.Tensor) for arg in args)


def no_hidden_host_transfers():
    """A context in which factory calls without a device, and .cpu(), .numpy() and .tolist(), raise AssertionError.

    Deciding on a value (``bool(x.any())``, ``float(x)``, ``x.item()``) is allowed: it moves a number, not data.
    """
    return _NoHiddenHostTransfers()
