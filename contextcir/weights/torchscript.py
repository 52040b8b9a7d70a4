"""The tensors of a TorchScript archive, as OpenAI published its CLIPs, without running the code in it.

``torch.jit.load`` compiles the code of the archive and may run some of it (``__setstate__``, whose operators can write
files). An archive is a zip of a pickle of objects, of raw tensors, and of that code: the pickle is read with a table of
all names that it may use, none of which does more than to build a list, a dictionary or a tensor.
"""

import io
import math
import pickle  # only with the table below
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contextcir.errors import InputError, shown

QUICK_GELU = (b"QuickGELU", b"1.702")  # in the code of models with this activation
_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Object:
    """Stands for a module: its attributes, and nothing else."""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if math.prod(size) and not (min(*size, *stride, offset, 0) == 0 and last < len(storage)):
        raise InputError("a tensor lies outside of its data")
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _plain(values: Any = (), *_: Any) -> list[Any]:
    return list(values)


def _tagged(value: Any = None, *_: Any) -> Any:
    return value


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.jit._pickle", "restore_type_tag"): _tagged,
    **{("torch.jit._pickle", f"build_{kind}"): _plain for kind in ("intlist", "doublelist", "boollist", "tensorlist")},
    **{("torch", name): kind for name, kind in _TYPES.items()},
}


class _Reader(pickle.Unpickler):  # `find_class` lets nothing through but the table
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive = archive
        self.root = root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Object
        if (module, name) not in _ALLOWED:
            raise InputError(f"it holds {shown(f'{module}.{name}')}, which could run code")
        return _ALLOWED[module, name]

    def persistent_load(self, saved: Any) -> Tensor:
        word, kind, key, _, count = saved
        if word != "storage" or not isinstance(kind, torch.dtype) or not isinstance(key, str):
            raise InputError("it holds data of an unknown kind")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            with torch.device("cpu"):
                storage = torch.frombuffer(content, dtype=kind) if content else torch.empty(0, dtype=kind)
            if len(storage) < count:
                raise InputError("its data are cut off")
            self.storages[key] = storage
        return self.storages[key]


def is_torchscript(names: Sequence[str]) -> bool:
    """Tell whether these are the entries of a TorchScript archive."""
    return any(name.rpartition("/")[2] == "constants.pkl" for name in names)


def read_torchscript(archive: zipfile.ZipFile) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors of a TorchScript archive by name, and whether its code has QuickGELU.

    Raises:
        InputError: if it holds anything else than modules, tensors and plain values.
    """
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise InputError("it has no data")
    order = f"{roots[0]}byteorder"
    if order in names and archive.read(order) != b"little":
        raise InputError("it was written on a machine with another order of bytes")
    state: dict[str, Tensor] = {}
    _collect(_Reader(archive, roots[0]).load(), "", state)
    code = [name for name in names if "/code/" in f"/{name}" and name.endswith(".py")]
    return state, any(word in archive.read(name) for name in code for word in QUICK_GELU)


def _collect(value: Any, prefix: str, state: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        state[prefix.removesuffix(".")] = value
    elif isinstance(value, _Object):
        for name, inner in value.attributes.items():
            _collect(inner, f"{prefix}{name}.", state)
