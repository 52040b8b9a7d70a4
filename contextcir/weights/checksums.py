"""Checksums of weights: those in files of ``torch.save``, and a digest of tensors for what has none."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

MOST_PACKED = 64_000_000  # bytes of compressed entries: weights are stored as they are, only code is compressed

_intact: set[tuple[str, int, int, int]] = set()  # files that were read whole by this process


def state_digest(state: Mapping[str, Tensor], settings: str = "") -> str:
    """Return the SHA-256 over the names, types, shapes and contents of tensors, and over ``settings``.

    All weights are read, which takes about a second per gigabyte. A cheaper test (version counters, addresses) would
    miss weights that were replaced in place, as weight averaging does.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, None if it is intact.

    The whole file is read to compare it with its checksums, once in a process; torch itself does not compare them.
    """
    try:
        state = path.stat()
        seen = (os.fspath(path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns)
        if seen in _intact:
            return None
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
            if packed > MOST_PACKED or sum(entry.file_size for entry in entries) - packed > state.st_size:
                return "its entries are larger than the file"
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        return "it is cut off" if "not a zip file" in str(error) else str(error)
    except (OSError, ValueError, EOFError, zlib.error, NotImplementedError, OverflowError) as error:
        return str(error) or type(error).__name__
    if broken is not None:
        return f"wrong checksum of {broken}"
    _intact.add(seen)
    return None
