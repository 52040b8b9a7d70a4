"""Count floating-point operations exactly without executing them: seconds for a training step of ViT-H/14."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import FlopCounterMode


class ShapesOnly(TorchDispatchMode):
    """Compute only the shapes of floating-point results: they are zeros, expanded from one element.

    Integers and masks are computed as usual, so that code that branches on them takes its usual path (on torch's meta
    device it could not).
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or not any(is_float(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func._schema.is_mutable:  # in place: only the content changes
            return args[0] if is_float(args[0]) else func(*args, **kwargs)
        try:
            shapes = func(*tree_map(on_meta, args), **tree_map(on_meta, kwargs))
        except (NotImplementedError, RuntimeError):  # the shape depends on content, e.g. a mask's
            return func(*args, **kwargs)
        if not all(is_float(leaf) for leaf in tree_leaves(shapes) if leaf is not None):
            return func(*args, **kwargs)  # comparisons, and Python numbers
        return tree_map_only(Tensor, empty_of, shapes)


def is_float(value: Any) -> bool:
    """Whether this is a tensor of floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def on_meta(value: Any) -> Any:
    """Move a tensor without its content to the meta device; replace a device by it; return anything else unchanged."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def empty_of(shape: Tensor) -> Tensor:
    """Return zeros of this shape that take the memory of one element."""
    return torch.zeros((), dtype=shape.dtype).expand(shape.shape)


class NoModules(AbstractContextManager[None]):
    """Attribute all operations to one module: torch's tracker of modules fails in passes without gradients."""

    parents = frozenset({"Global"})

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""


def count_flops(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> int:
    """Return the floating-point operations of a loss and its gradients; a multiply-add counts as 2.

    Attention is counted as its two matrix products: the caller has to be on a CPU, where the backbone computes them
    separately (torch counts the fused kernel of a CPU as nothing).
    """
    return _count(lambda: torch.autograd.grad(loss(), parameters, allow_unused=True))


def forward_flops(function: Callable[[], object]) -> int:
    """Return the floating-point operations of a pass without gradients."""
    with torch.no_grad():
        return _count(function)


def _count(function: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with ShapesOnly(), counter:
        function()
    return counter.get_total_flops()
