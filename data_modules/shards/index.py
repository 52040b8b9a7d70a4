"""The index of tar shards: where in which shard the bytes of each image lie, found by the hash of its path.

``index.npy`` has 36 bytes an image, sorted by hash: a look-up reads a few of them, and no path is held in memory.
``index.json``, written after it, names the shards with their sizes. The tars themselves are plain ones, and hold the
paths.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

TABLE, ABOUT = "index.npy", "index.json"
FORMAT = 1
ENTRY = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("offset", "<u8"), ("size", "<u4"), ("shard", "<u4"), ("checksum", "<u4")]
)


class Member(NamedTuple):
    """An image in a shard: its path there, the bytes that it has from ``offset`` on, and their CRC-32."""

    path: str
    shard: int
    offset: int
    size: int
    checksum: int


def path_hash(path: str) -> tuple[int, int]:
    """Return two numbers of 64 bits that no other path has."""
    digest = blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def sorted_entries(members: Iterable[Member]) -> np.ndarray:
    """Return the entries (N,) of an index; of a path that is there twice, the last one, as tar extracts it."""
    entries = np.array([(*path_hash(m.path), m.offset, m.size, m.shard, m.checksum) for m in members], ENTRY)
    entries = entries[np.lexsort((entries["low"], entries["high"]))]
    same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
    return entries[np.append(~same, True)[: len(entries)]]


def find(entries: np.ndarray, path: str) -> np.void | None:
    """Return the entry of a path, None if there is none."""
    high, low = path_hash(path)
    column = entries["high"]
    for row in range(int(np.searchsorted(column, np.uint64(high))), len(entries)):
        if column[row] != high:
            return None
        if entries[row]["low"] == low:
            return entries[row]
    return None


def shard_names(about: dict, count: int) -> Sequence[tuple[str, int]] | None:
    """Return name and size of each shard, None if what was read is no description of an index of ``count`` images."""
    try:
        if about["format"] != FORMAT or about["images"] != count:
            return None
        return [(str(name), int(size)) for name, size in about["shards"]]
    except (KeyError, TypeError, ValueError):
        return None
