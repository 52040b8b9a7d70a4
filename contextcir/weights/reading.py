"""Reading a file of weights: safetensors, a file of ``torch.save``, or a TorchScript archive.

A pickle can run any code when it is loaded, and so can a TorchScript archive (its ``__setstate__``). Here no file does:
whatever its name, and wherever it is given, only tensors and plain values are read, and only from this machine.
"""

import argparse
import codecs
import importlib
import os
import pickle  # for the name of its error
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from contextcir.errors import InputError, one_line, shown
from contextcir.files import ordinary_file
from contextcir.weights.checksums import damage, state_digest
from contextcir.weights.torchscript import is_torchscript, read_torchscript

DIGEST = "sha256"  # of our own safetensors files: its `state_digest`, in the header

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:")
# What is no weights, by its first bytes.
_KINDS = (
    (rb"version https://git-lfs", "is a Git LFS pointer and not the file itself: run `git lfs pull`"),
    (rb"\s*<(!doctype|html|\?xml|head)", "is a web page: the download went wrong"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "is a compressed archive: unpack it first"),
    (rb"\x89HDF", "is an HDF5 file, as Keras writes it: convert it to safetensors"),
    (rb"GGUF", "is a GGUF file: convert it to safetensors"),
    (rb"\x93NUMPY", "is an array of NumPy: convert it to safetensors"),
)


class WeightsFile(NamedTuple):
    """What a file holds. ``kind``: in words. ``quick_gelu``: whether its model has this activation, None if unknown."""

    path: Path
    kind: str
    content: Any
    quick_gelu: bool | None = None


def local_file(path: str | Path, setting: str | None = None) -> Path:
    """Return the path of an ordinary file on this machine.

    Raises:
        MissingFileError: if there is none.
        InputError: for an address (http:, s3:, hdfs:, registry:, ...), a folder, a pipe or a device.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text) and ("://" in text or "::" in text or not os.path.lexists(text)):
        problem = f"expected a file on this machine, got the address {shown(text)}: download it, and give the file"
        raise InputError(problem, setting=setting)
    return ordinary_file(path, setting)


@contextmanager
def harmless() -> Iterator[None]:
    """Let ``torch.load`` take values that are no weights and run no code: NumPy's numbers and arguments of commands."""
    multiarray = importlib.import_module("numpy._core.multiarray")
    names = [(getattr(multiarray, name), f"numpy.core.multiarray.{name}") for name in ("scalar", "_reconstruct")]
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSU"}
    allowed = [multiarray.scalar, multiarray._reconstruct, np.ndarray, np.dtype, codecs.encode, argparse.Namespace]
    with torch.serialization.safe_globals([*allowed, *names, *kinds]):
        yield


def read_weights(path: str | Path, setting: str | None = None, mapped: bool = True) -> WeightsFile:
    """Return what a file of weights holds; its checksums are compared, where it has any.

    Args:
        path: of the file.
        setting: dotted path of the argument that names it.
        mapped: leave tensors on the disk until they are used, where the kind of file allows it.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no ordinary file on this machine, of another kind, damaged, or holds more than weights.
    """
    file = local_file(path, setting)
    try:
        return _read(file, mapped)
    except InputError as error:
        reason = error.problem
    except RecursionError:
        reason = "it is nested too deeply"
    except MemoryError:
        reason = "it takes more memory than there is"
    except Exception as error:  # pickle's, zip's, safetensors' and torch's own
        reason = _reason(error)
    raise InputError(f"can't be read as a checkpoint of weights: {reason}", file=file, setting=setting)


def _read(file: Path, mapped: bool) -> WeightsFile:
    with file.open("rb") as opened:
        start = opened.read(512)
    if start[:2] == b"PK":
        return _zipped(file, mapped)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return WeightsFile(file, "a safetensors file", _safetensors(file))
    if start[:1] == b"\x80":  # torch.save before version 1.6
        with harmless():
            return WeightsFile(file, "a file of torch.save", torch.load(file, map_location="cpu", weights_only=True))
    raise InputError(_foreign(start))


def _zipped(file: Path, mapped: bool) -> WeightsFile:
    reason = damage(file)
    if reason is not None:
        raise InputError(f"it is damaged: {reason}")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if is_torchscript(names):
            return WeightsFile(file, "a TorchScript archive", *read_torchscript(archive))
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        npz = any(name.endswith(".npy") for name in names)
        raise InputError("it is a file of NumPy" if npz else "it is a zip archive, but not one of torch.save")
    with harmless(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return WeightsFile(file, "a file of torch.save", content)


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, "pt", device="cpu") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
        expected = (opened.metadata() or {}).get(DIGEST)
    if expected is not None and expected != state_digest(state):
        raise InputError("it is damaged: its weights differ from its checksum")
    return state


def _foreign(start: bytes) -> str:
    """Return what a file is that is no kind of weights."""
    if not start:
        return "it is empty"
    for pattern, words in _KINDS:
        if re.match(pattern, start, re.IGNORECASE):
            return f"it {words}"
    try:
        text = start[:200].decode("utf-8", "strict" if len(start) <= 200 else "ignore")
    except UnicodeDecodeError:
        text = ""
    if text.strip() and all(letter.isprintable() or letter.isspace() for letter in text):
        return f"it is a text that begins with {shown(' '.join(text.split()), 40)}"
    return f"it begins with the bytes {start[:6].hex(' ')}, as no kind of weights file does"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if match := re.search(r"(?:GLOBAL|[Uu]nsupported class|function)\W+(?:built-in function )?(\w[\w.]+)", text):
        return f"it holds {shown(match[1])}, which could run code; only weights are read: save the state_dict alone"
    if isinstance(error, pickle.UnpicklingError):
        return "it is a pickle of something else than weights: save the state_dict alone with torch.save"
    if isinstance(error, SafetensorError):
        cut = "incomplete" in text.lower() or "InvalidOffset" in text
        return f"it is {'cut off' if cut else 'damaged'} ({one_line(text, 80)})"
    return one_line(text, 120) or type(error).__name__
