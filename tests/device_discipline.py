"""A guard for tests: real computations run under it and fail where a tensor would slip to another device.

On a machine without a GPU every tensor lives on the CPU, so a result on the wrong device cannot be seen.
The two ways to get there can be: a tensor made without saying where, and a transfer to the host.

    with no_hidden_host_transfers():
        solution = integrate(velocity, start, times)

Where no loop looks at data, fake tensors of a GPU say more: they know where they are and refuse to be mixed.

    with fake_gpu():
        assert trace_limit(1.0, B.to("cuda"), A.to("cuda")).device.type == "cuda"
"""

from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
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


@contextmanager
def fake_gpu():
    """A context in which tensors have no data and may live on "cuda", although this machine has none."""
    with FakeTensorMode(), _WithoutDriver():
        yield


class _WithoutDriver(TorchFunctionMode):
    """Indexing and .to() ask for the GPU's driver before fake tensors see them: say both in operators that do not."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.__getitem__:
            return _indexed(*args)
        if function is torch.Tensor.__setitem__:
            return _indexed(*args[:2]).copy_(args[2])
        if function is torch.Tensor.to and not any(isinstance(arg, torch.Tensor) for arg in args[1:]):
            words = [*args[1:], *kwargs.values()]
            dtype = next((word for word in words if isinstance(word, torch.dtype)), args[0].dtype)
            device = next((word for word in words if isinstance(word, (str, torch.device))), args[0].device)
            return torch.ops.aten._to_copy(args[0], dtype=dtype, device=torch.device(device))
        return function(*args, **kwargs)


def _indexed(tensor, index):
    """tensor[index] for numbers, slices, None and the ellipsis, one dimension after the other."""
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, (torch.Tensor, list)) for part in index):
        return torch.ops.aten.index(tensor, list(index))
    given = sum(part is not None and part is not Ellipsis for part in index)
    dim = 0
    for part in index:
        if part is Ellipsis:
            dim += tensor.ndim - dim - given
        elif part is None:
            tensor, dim = tensor.unsqueeze(dim), dim + 1
        elif isinstance(part, slice):
            stop = tensor.shape[dim] if part.stop is None else part.stop
            tensor = torch.ops.aten.slice(tensor, dim, part.start or 0, stop, part.step or 1)
            dim, given = dim + 1, given - 1
        else:
            tensor, given = tensor.select(dim, part), given - 1
    return tensor
