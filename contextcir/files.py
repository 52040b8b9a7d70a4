"""Files on disk: written whole or not at all, owned by one process at a time, divided among processes by a hash."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from contextcir.errors import InputError

if TYPE_CHECKING:
    import numpy as np

LEASE = 60.0  # seconds without a sign of life after which an owner on another machine counts as dead


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def whole_array(path: Path, shape: tuple[int, ...], kind: "type[np.generic]") -> "Iterator[np.ndarray]":
    """Give an array on disk to fill; it takes its name when the block ends without an error."""
    import numpy as np  # here, so that whoever only writes text starts without it

    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        array = np.lib.format.open_memmap(new, "w+", kind, shape)
        yield array
        array.flush()
        del array
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; readers see the old content or the new one."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """Write a JSON file; readers see the old content or the new one."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, None where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@contextmanager
def one_writer(folder: Path, work: str, lease: str = ".lock") -> Iterator[None]:
    """Be the only process that writes in a folder, on this machine or another one that shares the disk.

    The lease of a dead process is taken over: at once if it ran on the same machine, otherwise after `LEASE` seconds in
    which this process saw no heartbeat. It waits for these only if the lease is older than that already.

    Args:
        folder: made if it is new; the lease is a file in it.
        work: what the processes would do at once, for the message.
        lease: name of that file; processes with leases of different names may write beside each other.

    Raises:
        InputError: if a living process holds the lease.
    """
    from filelock import SoftFileLease, Timeout  # as above

    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / lease
    held = SoftFileLease(marker, lease_duration=LEASE)
    expired = marker.exists() and time.time() - marker.stat().st_mtime > LEASE
    try:
        held.acquire(timeout=1.5 * LEASE if expired else 0)
    except Timeout:
        raise InputError(
            f"another process {work} here already: wait for it, or choose another folder", file=folder
        ) from None
    try:
        yield
    finally:
        held.release()


def stable_hash(text: str | bytes, size: int = 8) -> int:
    """Return an unsigned integer of ``size`` bytes for a text, the same on every machine and in every run."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(blake2b(content, digest_size=size).digest(), "big")


def in_shard(key: str | bytes, index: int, count: int) -> bool:
    """Tell whether a key belongs to shard ``index`` of ``count``."""
    return stable_hash(key) % count == index
