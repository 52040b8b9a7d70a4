"""Counting floating-point operations exactly, without doing them: a training step of ViT-H/14 takes seconds."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import FlopCounterMode


class ShapesOnly(TorchDispatchMode):
    """Inside of it, floating-point tensors have shapes and no content: their results are zeros that take no memory.

    Integers and masks are computed as ever, so that code that looks at them takes the way it always takes (which it
    can't on torch's meta device).
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or not any(is_float(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func._schema.is_mutable:  # in place: the same tensor, with other content
            return args[0] if is_float(args[0]) else func(*args, **kwargs)
        try:
            shapes = func(*tree_map(on_meta, args), **tree_map(on_meta, kwargs))
        except (NotImplementedError, RuntimeError):  # its shape depends on content, e.g. that of a mask
            return func(*args, **kwargs)
        if not all(is_float(leaf) for leaf in tree_leaves(shapes) if leaf is not None):
            return func(*args, **kwargs)  # comparisons, and numbers for Python
        return tree_map_only(Tensor, empty_of, shapes)


def is_float(value: Any) -> bool:
    """Whether this is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def on_meta(value: Any) -> Any:
    """Return a tensor's shape as a tensor, a device as torch's meta device, and anything else as it is."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def empty_of(shape: Tensor) -> Tensor:
    """Return zeros of this shape in the memory of one."""
    return torch.zeros((), dtype=shape.dtype).expand(shape.shape)


class NoModules(AbstractContextManager[None]):
    """Counts for all modules together: torch's tracker of modules fails in passes without gradients."""

    parents = frozenset({"Global"})

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""


def count_flops(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> int:
    """Return the operations of a loss and of its gradients, counted by torch; 2 for a multiplication and addition.

    Attention is counted as the two matrix products that it consists of: the caller has to be on a CPU, where the
    backbone asks for them (torch counts the fused kernel of a CPU as nothing).
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with ShapesOnly(), counter:
        torch.autograd.grad(loss(), parameters, allow_unused=True)
    return counter.get_total_flops()
