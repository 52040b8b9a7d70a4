"""Shards are read in ranges: from a folder, or from any store that fsspec knows the address of."""

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.errors import InputError, MissingFileError, shown
from data_modules.shards.index import ABOUT, ENTRY, TABLE, find, shard_names

SETTING = "data.shards"
AGAIN = "index them again: `python -m experiments.shards --shards FOLDER`"


class Shards:
    """The images of tar shards, by their paths in these.

    Nothing is opened before it is needed, and then once in every process; a pickled object is no more than its address.

    Args:
        at: the folder of shards and index, or its address: ``s3://bucket/set``, ``memory://set``, ...

    Raises:
        InputError: for no address.
    """

    def __init__(self, at: str | Path) -> None:
        if not isinstance(at, str | Path) or not str(at).strip():
            raise InputError(f"expected null, a folder or an address, got {shown(at)}", setting=SETTING)
        self.at = str(at).rstrip("/")
        self._process = 0
        self._open: Folder | Store | None = None
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
            InputError: if the store can't be read, or what is there is not what was indexed.
        """
        entries, shards = self._entries()
        entry = find(entries, path)
        if entry is None:
            raise MissingFileError(f"no image {shown(path)} in the shards of {self.at}", setting=SETTING)
        number, start, size = int(entry["shard"]), int(entry["offset"]), int(entry["size"])
        name, length = shards[number]
        if number not in self._checked:
            found = self._store().size(name)
            if found != length:
                raise self._changed(name, f"expected {length:,} bytes, found {found:,}")
            self._checked.add(number)
        content = self._store().read(name, start, start + size)
        if len(content) != size or zlib.crc32(content) != entry["checksum"]:
            raise self._changed(name, f"the bytes of {shown(path)} are others")
        return content

    def _changed(self, name: str, problem: str) -> InputError:
        return InputError(f"has changed since it was indexed ({problem}); {AGAIN}", file=self._named(name))

    def _named(self, name: str) -> str:
        return f"{self.at}/{name}"

    def _store(self) -> "Folder | Store":
        if self._open is None or self._process != os.getpid():  # connections are not shared among processes
            self._open = Store(self.at) if "://" in self.at else Folder(Path(os.path.expanduser(self.at)))
            self._process = os.getpid()
        return self._open

    def _entries(self) -> tuple[np.ndarray, Any]:
        """Return entries, and name and size of each shard."""
        if self._index is None:
            store, problem = self._store(), f"is no index of tar shards; {AGAIN}"
            try:
                about, entries = json.loads(store.read(ABOUT)), store.array(TABLE)
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


class Folder:
    """A folder of this machine.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, int] = {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return some bytes of a file, to its end where ``stop`` is None; errors as of `Shards.read`."""
        try:
            if name not in self._files:
                self._files[name] = os.open(self.root / name, os.O_RDONLY)
            stop = os.fstat(self._files[name]).st_size if stop is None else stop
            return os.pread(self._files[name], stop - start, start)
        except OSError as error:
            raise _unreadable(f"{self.root / name}", error) from None

    def array(self, name: str) -> np.ndarray:
        """Return an array of a file, memory-mapped; raises ValueError if it is none."""
        try:
            return np.load(self.root / name, mmap_mode="r")
        except OSError as error:
            raise _unreadable(f"{self.root / name}", error) from None

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        try:
            return os.stat(self.root / name).st_size
        except OSError as error:
            raise _unreadable(f"{self.root / name}", error) from None

    def __del__(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)


class Store:
    """A folder of any store that fsspec knows; all of them have the methods of `Folder`.

    Args:
        address: with ``://`` in it.

    Raises:
        InputError: if fsspec, or the package for this kind of address, is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self.system, self.root = url_to_fs(address)
        except (ImportError, ValueError) as error:
            told = " ".join(str(error).split())[:150]
            problem = f"{shown(address)} can't be opened: {told} (install the extra objects and that package)"
            raise InputError(problem, setting=SETTING) from None
        self.address = address

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return some bytes of a file, to its end where ``stop`` is None."""
        return self._ask(name, lambda path: self.system.cat_file(path, start=start or None, end=stop))

    def array(self, name: str) -> np.ndarray:
        """Return an array of a file, in memory; raises ValueError if it is none."""
        return np.load(io.BytesIO(self.read(name)))

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return int(self._ask(name, self.system.size))

    def _ask(self, name: str, question: Any) -> Any:
        try:
            return question(f"{self.root}/{name}")
        except Exception as error:  # each store has errors of its own
            raise _unreadable(f"{self.address}/{name}", error) from None


def _unreadable(name: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"no file {name}", setting=SETTING)
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return InputError(f"can't be read: {' '.join(str(reason).split())[:150]}", file=name, setting=SETTING)


def shards_at(given: str | None) -> Shards | None:
    """Return the shards that a user names, None for image files."""
    return None if given is None else Shards(given)
