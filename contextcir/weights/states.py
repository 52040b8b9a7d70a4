"""The weights in what a file holds: out of their wrappers, without the prefixes of other libraries, finite."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contextcir.errors import InputError, one_line, shown
from contextcir.weights.reading import WeightsFile

# Keys under which training programs keep the weights, the first one that a file has being taken.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params",
    "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "shadow_params", "shadow",
)  # fmt: skip
# Parts of names that torch.compile and wrappers of distributed training put in, anywhere.
INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
MASKS = ("attn_mask",)  # hold -inf on purpose, and are computed anew


def state_of(found: WeightsFile, setting: str | None = None) -> dict[str, Tensor]:
    """Return the weights in a file, by name; wrappers around them are taken off.

    Raises:
        InputError: if there is anything else than weights, or a weight that is not finite.
    """
    value: Any = found.content
    for _ in range(4):  # wrappers within wrappers
        inner = next((key for key in WRAPPERS if isinstance(value, Mapping) and _is_state(value.get(key))), None)
        if inner is None:
            break
        value = value[inner]
    if not isinstance(value, Mapping):
        problem = f"is {found.kind} that holds {_article(value)}: expected weights by name, as a state_dict has them"
        raise InputError(problem, file=found.path, setting=setting)
    return checked(value, found, setting)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def checked(state: Mapping[Any, Any], found: WeightsFile, setting: str | None = None) -> dict[str, Tensor]:
    """Return a state whose values are dense tensors of finite numbers, without masks and torch.compile's names.

    Raises:
        InputError: with the name of the first one that is not.
    """
    if not any(isinstance(value, Tensor) for value in state.values()):
        problem = f"is {found.kind} without weights: it has {listed(state)}; expected tensors by name"
        raise InputError(problem, file=found.path, setting=setting)
    weights = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            problem = f"{shown(name)} in it is {_article(value)}: expected weights only"
            raise InputError(problem, file=found.path, setting=setting)
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "without numbers" if value.is_meta else "sparse or quantized"
            raise InputError(f"the weight {shown(name)} is {kind}", file=found.path, setting=setting)
        if name.rpartition(".")[2] in MASKS:
            continue
        if not is_finite(value):
            raise InputError(f"the weight {shown(name)} is not finite", file=found.path, setting=setting)
        for part in INNER:
            name = name.replace(part, "")
        weights[name] = value
    return weights


def is_finite(value: Tensor) -> bool:
    """Tell whether all numbers of a tensor are finite, in single precision too."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(torch.isfinite(value.float() if value.dtype == torch.float64 else value).all())


def under(
    state: Mapping[str, Tensor], anchor: str, found: WeightsFile, setting: str | None = None
) -> dict[str, Tensor]:
    """Return the weights of one model without the prefix that its wrapper gave it (``module.``, ``model.``, ...).

    Args:
        state: all weights.
        anchor: a weight that the model has: whatever stands before it in ``state`` is the prefix.
        found: the file that they are from.
        setting: dotted path of the argument that names the file.

    Raises:
        InputError: if there are several such models.
    """
    prefixes = [name[: -len(anchor)] for name in state if name == anchor or name.endswith(f".{anchor}")]
    if len(prefixes) > 1:
        problem = f"holds several models ({listed(prefixes)}): save one of them alone"
        raise InputError(problem, file=found.path, setting=setting)
    prefix = prefixes[0] if prefixes else ""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def misfits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return what keeps weights from being loaded into those of a model: names, shapes, kinds of numbers."""
    odd = [f"{name} is missing" for name in own if name not in state]
    odd += [f"{shown(name)[1:-1]} is unknown" for name in state if name not in own]
    for name in (name for name in own if name in state):  # in the order of the model, as messages name the first
        given, wanted = state[name], own[name]
        if given.shape != wanted.shape:
            odd.append(f"{name} has shape {tuple(given.shape)}, not {tuple(wanted.shape)}")
        elif wanted.is_floating_point() and not given.is_floating_point():
            odd.append(f"{name} has whole or complex numbers ({str(given.dtype).removeprefix('torch.')})")
    return odd


def listed(names: Any, count: int = 3) -> str:
    """Return the first of some names, for a message."""
    names = list(names)
    more = f" and {len(names) - count:,} more" if len(names) > count else ""
    return one_line(", ".join(shown(name, 50) for name in names[:count]), 120) + more if names else "no names"


def _article(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
