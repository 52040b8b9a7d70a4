"""A stand-in for a GPU: tensors that say that they are elsewhere, and a record of all that would make the host wait.

They say "meta", which autograd works with, and have real numbers on the CPU. What would wait on a GPU: reading a
number, copies that are not asynchronous, and all operations whose result has a size that depends on numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

FAR = torch.device("meta")
SIZED_BY_NUMBERS = ("nonzero", "unique", "masked_select", "isin", "bincount", "repeat_interleave", "local_scalar_dense")


class FarTensor(Tensor):
    """A tensor that says that it is on the far device."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> "FarTensor":
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        return Tensor._make_wrapper_subclass(cls, near.shape, device=FAR, requires_grad=near.requires_grad, **layout)

    def __init__(self, near: Tensor) -> None:
        self.near = near

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return computed(func, args, kwargs or {})


def is_far(value: Any) -> bool:
    return isinstance(value, FarTensor)


def near_of(value: Any) -> Any:
    return value.near if is_far(value) else value


def far(value: Any) -> Any:
    return FarTensor(value) if isinstance(value, Tensor) and not is_far(value) else value


def computed(func: Any, args: tuple, kwargs: dict) -> Any:
    """Compute on the CPU what is asked of the far device, and of it alone."""
    wanted = kwargs.get("device")
    there = any(map(is_far, tree_leaves((args, kwargs)))) if wanted is None else torch.device(wanted) == FAR
    given = tree_map(near_of, kwargs)
    if wanted is not None:
        given["device"] = torch.device("cpu")
    out = func(*tree_map(near_of, args), **given)
    return return_and_correct_aliasing(func, args, kwargs, tree_map(far, out)) if there else out


class Waits(TorchDispatchMode):
    """Records what would make the host wait for the far device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name, tensors = func.overloadpacket.__name__, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(map(is_far, tensors))
        wanted = kwargs.get("device")
        if there and name.lstrip("_").startswith(SIZED_BY_NUMBERS):
            self.found.append(name)
        elif name in ("_to_copy", "copy_") and wanted is not None and tensors[0].device != torch.device(wanted):
            if not kwargs.get("non_blocking") or torch.device(wanted) != FAR:
                self.found.append(f"copy to {wanted}")
        elif name == "copy_" and is_far(args[0]) != is_far(args[1]) and args[1].ndim:
            self.found.append("copy_")
        elif there and name.startswith(("index", "_index", "_unsafe_index")):
            indices = [x for x in tree_leaves(args[1:2]) if isinstance(x, Tensor)]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                self.found.append(f"{name} by a mask")
        if any(x.device == FAR and not is_far(x) for x in tensors):
            self.found.append(f"{name} of a tensor that was made of Python's numbers on the device")
        if there and wanted is None and any(not is_far(x) and x.ndim for x in tensors):
            self.found.append(f"{name} of tensors on both sides")
        return computed(func, args, kwargs)


@contextmanager
def waits() -> Iterator[list[str]]:
    """Record what would wait, within the block. Autocast, which knows no such device, does nothing there."""
    autocast, enabled, kind = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    def known(device: str, *args: Any, **options: Any) -> Any:
        return nullcontext() if device == FAR.type else autocast(device, *args, **options)

    torch.autocast = known
    torch.is_autocast_enabled = lambda *device: device != (FAR.type,) and enabled(*device)
    torch.get_autocast_dtype = lambda device: torch.bfloat16 if device == FAR.type else kind(device)
    try:
        with Waits() as mode:
            yield mode.found
    finally:
        torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype = autocast, enabled, kind


def move_there(module: torch.nn.Module) -> torch.nn.Module:
    """Move the weights and buffers of a module to the far device, in place."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(FarTensor(value.detach()), value.requires_grad)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = FarTensor(value)
    return module


def as_far(function: Callable[[Tensor], Tensor] = far) -> Callable[[Any], Any]:
    """Return a function that moves all tensors of nested tuples."""
    return lambda nested: tree_map(lambda x: function(x) if isinstance(x, Tensor) else x, nested)
