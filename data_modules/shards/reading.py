"""Images are read from tar shards in ranges of bytes, wherever the shards are."""

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.shards.places import StoredFile, is_address
from data_modules.shards.index import ABOUT, ENTRY, TABLE, find, shard_names

SETTING = "data.shards"
MOST_ABOUT = 1 << 28  # bytes: a line for each shard
AGAIN = "index them again: `python -m experiments.shards --shards FOLDER`"


class Shards:
    """The images of tar shards, by their paths in these.

    The index is opened when it is needed, once in every process; a pickled object is no more than its address.

    Args:
        at: the folder of shards and index, or its address: ``s3://bucket/set``, ``memory://set``, ...

    Raises:
        InputError: for no address.
    """

    def __init__(self, at: str | Path) -> None:
        if not isinstance(at, str | Path) or not str(at).strip():
            raise InputError(f"expected null, a folder or an address, got {shown(at)}", setting=SETTING)
        self.at = (str(at) if is_address(str(at)) else os.path.expanduser(str(at))).rstrip("/")
        self._index: tuple[np.ndarray, Any] | None = None
        self._checked: set[int] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.at,)

    def has(self, path: str) -> bool:
        """Tell whether there is an image of this path; errors as of `read`."""
        return find(self._entries()[0], path) is not None

    def state(self, path: str) -> tuple[int, int] | None:
        """Return size and checksum of an image, None if it is not there; errors as of `read`."""
        entry = find(self._entries()[0], path)
        return None if entry is None else (int(entry["size"]), int(entry["checksum"]))

    def where(self, path: str) -> str:
        """Return the address of an image: that of its shard, and its path there."""
        entries, shards = self._entries()
        entry = find(entries, path)
        return f"{self.at}/{path}" if entry is None else f"{self.at}/{shards[entry['shard']][0]}/{path}"

    def read(self, path: str) -> bytes:
        """Return the bytes of an image.

        Raises:
            MissingFileError: if there is no index, shard or image of this name.
            InputError: if what is there is not what was indexed.
            StoreError: if the store does not answer.
        """
        entries, shards = self._entries()
        entry = find(entries, path)
        if entry is None:
            raise MissingFileError(f"no image {shown(path)} in the shards of {self.at}", setting=SETTING)
        number, start, size = int(entry["shard"]), int(entry["offset"]), int(entry["size"])
        name, length = shards[number]
        if number not in self._checked:
            found, _ = self._file(name).state()
            if found != length:
                raise self._changed(name, f"expected {length:,} bytes, found {found:,}")
            self._checked.add(number)
        content = self._file(name).read(start, size)
        if zlib.crc32(content) != entry["checksum"]:
            raise self._changed(name, f"the bytes of {shown(path)} are others")
        return content

    def _changed(self, name: str, problem: str) -> InputError:
        return InputError(f"has changed since it was indexed ({problem}); {AGAIN}", file=self._named(name))

    def _named(self, name: str) -> str:
        return f"{self.at}/{name}"

    def _file(self, name: str) -> StoredFile:
        return StoredFile(self._named(name), SETTING)

    def _table(self) -> np.ndarray:
        """Return the entries of the index, memory-mapped on this machine; ValueError if they are none."""
        file = self._file(TABLE)
        size, _ = file.state()
        return np.load(io.BytesIO(file.read(0, size))) if is_address(self.at) else np.load(file.address, mmap_mode="r")

    def _entries(self) -> tuple[np.ndarray, Any]:
        """Return entries, and name and size of each shard."""
        if self._index is None:
            problem = f"is no index of tar shards; {AGAIN}"
            try:
                about, entries = json.loads(self._file(ABOUT).read_all(MOST_ABOUT)), self._table()
            except MissingFileError as error:
                raise MissingFileError(f"{error.problem}; {AGAIN}", setting=SETTING) from None
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(problem, file=self._named(ABOUT), setting=SETTING) from None
            shards = shard_names(about, len(entries)) if entries.dtype == ENTRY else None
            if shards is None or (len(entries) and int(entries["shard"].max()) >= len(shards)):
                raise InputError(problem, file=self._named(ABOUT), setting=SETTING)
            self._index = entries, shards
        return self._index


def shards_at(given: str | None) -> Shards | None:
    """Return the shards that a user names, None for image files."""
    return None if given is None else Shards(given)
