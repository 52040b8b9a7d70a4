"""Files by address: paths of this machine, and addresses of object stores (s3://, gs://, https://) through fsspec.

Keys of a store are never part of an address or a setting: each store reads them from its usual place (environment,
configuration file, role of the machine). Nothing is held open, so that objects can go to other threads and processes.
"""

import glob
import os
import re
import time
from typing import IO, Any

from contextcir.errors import InputError, MissingFileError, printable, shown
from contextcir.files import ordinary_file

ATTEMPTS = 4  # readings of an object before its store counts as gone
FIRST = 1.0  # seconds before the second one; they double
WORDS = 200  # of a store that are told
MARKS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "created")  # of a content, in many stores

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRETS = re.compile(r"[^:]+://[^/]*@|[^:]+://[^#]*\?")


class StoreError(ConnectionError):
    """A store that gives no answer: the run has to stop, because its images are neither missing nor damaged."""


def is_address(text: str) -> bool:
    """Tell whether a text is an address of a store rather than a path."""
    return _ADDRESS.match(text) is not None


def find_files(pattern: str, setting: str) -> list[str]:
    """Return the paths or addresses that match a pattern with ``*``, ``?`` and ``[...]``, sorted; one list request.

    Args:
        pattern: a path, a pattern, or an address of a store.
        setting: dotted path of the argument that holds it.

    Raises:
        MissingFileError: if there are none.
        InputError: if it is an address with a user, a password or a query, or of a store that is not known.
    """
    if is_address(pattern):
        system, path = _system(pattern, setting)
        found = [str(system.unstrip_protocol(name)) for name in _asked(pattern, lambda: system.glob(path))]
    else:
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
    if not found:
        raise MissingFileError(f"no file matches {shown(pattern, 200)}", setting=setting)
    return sorted(found)


def find_below(address: str, setting: str) -> list[str]:
    """Return the paths of all objects below an address, in the order of their names; one list request for many.

    Raises:
        MissingFileError: if there are none.
        InputError: as `find_files`.
    """
    system, path = _system(address, setting)
    above = path.rstrip("/") + "/"
    found = [str(name).removeprefix(above) for name in _asked(address, lambda: system.find(path))]
    if not found:
        raise MissingFileError(f"no object below {shown(address, 200)}", setting=setting)
    return sorted(found)


def file_name(address: str) -> str:
    """Return the last part of a path or an address."""
    return address.rstrip("/").rpartition("/")[2]


class StoredFile:
    """A file of this machine or of a store: its size and state, and any range of its bytes.

    Args:
        address: path, or address of a store.
        setting: dotted path of the argument that led to it.
    """

    def __init__(self, address: str, setting: str = "images") -> None:
        self.address = address
        self.setting = setting

    def state(self) -> tuple[int, str]:
        """Return the size in bytes, and what changes with the content: time of the last change, or the store's tag.

        Raises:
            MissingFileError: if there is no such file.
            InputError: if it is no ordinary file.
            StoreError: if its store does not answer.
        """
        if not is_address(self.address):
            status = ordinary_file(self.address, self.setting).stat()
            return status.st_size, str(status.st_mtime_ns)
        system, path = _system(self.address, self.setting)
        about = _asked(self.address, lambda: system.info(path))
        marks = [
            about.get(name) for name in ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "created")
        ]
        return int(about["size"] or 0), next((str(mark) for mark in marks if mark), "")

    def read(self, start: int, size: int) -> bytes:
        """Return ``size`` bytes from the byte ``start`` on; raises as `state`, and InputError if they are not there."""
        if is_address(self.address):
            system, path = _system(self.address, self.setting)
            content = bytes(_asked(self.address, lambda: system.cat_file(path, start=start, end=start + size)))
        else:
            content = self._local(start, size)
        if len(content) != size:
            problem = f"ends after {start + len(content):,} bytes, expected {start + size:,}: was it changed?"
            raise InputError(problem, file=self.address, setting=self.setting)
        return content

    def read_all(self, most: int) -> bytes:
        """Return the whole content; raises as `state`, and InputError if it has more than ``most`` bytes."""
        size, _ = self.state()
        if size > most:
            raise InputError(
                f"expected at most {most:,} bytes, found {size:,}", file=self.address, setting=self.setting
            )
        return self.read(0, size)

    def open(self) -> IO[bytes]:
        """Open it to be read and sought in; raises as `state`."""
        if is_address(self.address):
            system, path = _system(self.address, self.setting)
            return _asked(self.address, lambda: system.open(path, "rb"))
        return ordinary_file(self.address, self.setting).open("rb")

    def _local(self, start: int, size: int) -> bytes:
        path = ordinary_file(self.address, self.setting)
        try:
            with path.open("rb", buffering=0) as file:
                parts, left = [], size
                while left and (part := os.pread(file.fileno(), left, start + size - left)):
                    parts.append(part)
                    left -= len(part)
        except OSError as error:
            raise InputError(f"can't be read: {error.strerror}", file=path, setting=self.setting) from None
        return b"".join(parts)


def _system(address: str, setting: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path there.

    It is asked for anew each time: fsspec keeps one for each process, and those of other processes must not be used.
    """
    if _SECRETS.match(address):
        problem = "expected an address without user, password or ?parameters: a store reads its keys from its own place"
        raise InputError(problem, setting=setting)
    try:
        from fsspec.core import url_to_fs  # of the extra `objects`
    except ImportError:
        problem = "an address of a store needs the extra `objects`: pip install -e '.[objects]'"
        raise InputError(problem, setting=setting) from None
    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:  # the package of this store is missing; nobody knows the scheme
        reason = printable(" ".join(str(error).split()))[:WORDS]
        raise InputError(f"{shown(address, 200)} can't be opened: {reason}", setting=setting) from None


def _asked(address: str, ask: Any) -> Any:
    """Return what a store answers; what may pass is asked for again, as their own clients do not always do so."""
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except FileNotFoundError:
            raise MissingFileError(f"no object {address}") from None
        except (PermissionError, IsADirectoryError, NotImplementedError) as error:
            reason = printable(" ".join(str(error).split()))[:WORDS]
            raise StoreError(f"{address} can't be read: {type(error).__name__} {reason}".rstrip()) from None
        except Exception as error:  # each store has errors of its own
            if attempt + 1 == ATTEMPTS:
                reason = printable(" ".join(str(error).split()))[:WORDS]
                told = f"{address} can't be read after {ATTEMPTS} attempts: {type(error).__name__} {reason}".rstrip()
                raise StoreError(f"{told}; the same command goes on") from None
            time.sleep(FIRST * 2**attempt)
    raise AssertionError("not reached")
