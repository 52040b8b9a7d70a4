"""Files on disk: read only if they are ordinary ones, written whole or not at all, owned by one process at a time.

A name may come from data, and what lies there may be anything. A named pipe would block for ever and ``/dev/zero``
would never end, so a file is looked at before it is opened.
"""

import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from contextcir.errors import InputError, MissingFileError, printable, shown

if TYPE_CHECKING:
    import numpy as np

LEASE = 60.0  # seconds without a sign of life after which an owner on another machine counts as dead


MOST_TEXT = 4_000_000_000  # bytes of a text that is read at once
MOST_DIGITS = 40  # of a number in JSON: no id, count or coordinate has more

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def ordinary_file(path: str | Path, setting: str | None = None, most: int | None = None) -> Path:
    """Return the path of an ordinary file that can be read, links followed.

    Args:
        path: of the file.
        setting: dotted path of the argument that names it.
        most: the largest size in bytes.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is a folder, a pipe, a device or a socket, too large, or not to be read by this user.
    """
    path = Path(path)
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"no file {path}", setting=setting) from None
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a folder without access; a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"can't be read: {reason}", file=path, setting=setting) from None
    kind = stat.S_IFMT(state.st_mode)
    if kind != stat.S_IFREG:
        raise InputError(f"expected a file, found {_KINDS.get(kind, 'something else')}", file=path, setting=setting)
    if most is not None and state.st_size > most:
        limit = f"expected at most {most:,} bytes, found {state.st_size:,}"
        raise InputError(limit, file=path, setting=setting)
    if not os.access(path, os.R_OK):
        raise InputError("can't be read: no permission", file=path, setting=setting)
    return path


def read_text(path: str | Path, setting: str | None = None, most: int = MOST_TEXT) -> str:
    """Return the content of an ordinary file in UTF-8; a byte order mark is left out.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is no ordinary file, too large, or holds other bytes than UTF-8.
    """
    path = ordinary_file(path, setting, most)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"expected text in UTF-8, found byte 0x{error.object[error.start]:02x} at {error.start}"
        raise InputError(problem, file=path, setting=setting) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", file=path, setting=setting) from None


def parse_json(text: str, file: str | Path | None = None, setting: str | None = None) -> Any:
    """Return the value of a JSON text.

    Raises:
        InputError: if it is no JSON, an object has a key twice (Python would keep the last one), a number has more than
            `MOST_DIGITS` digits or is not finite, a text holds half a surrogate pair, or lists are nested too deeply.
    """
    try:
        value = _strict(text)
        if _HALVES.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        problem = "lists or objects are nested too deeply"
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
    except UnicodeEncodeError as error:
        problem = f"half a surrogate pair: {shown(error.object[error.start])}"
    except ValueError as error:
        problem = str(error)
    raise InputError(problem, file=file, setting=setting)


_HALVES = re.compile(r"\\u[dD][89a-fA-F]")  # halves of surrogate pairs, whole pairs among them


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _decimal(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {shown(digits)[1:-1]} is too large")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


_strict = json.JSONDecoder(
    object_pairs_hook=_fields, parse_int=_integer, parse_float=_decimal, parse_constant=_constant
).decode


class Inside:
    """Paths that data name, below a folder that they must not leave.

    Args:
        root: the folder.
        links: let links lead out of it, for data sets that are farms of links.
        setting: dotted path of the argument that would allow links, for the message.
    """

    def __init__(self, root: str | Path, links: bool = False, setting: str | None = None) -> None:
        self.root = Path(root)
        self.links = links
        self.setting = setting
        self._good: set[str] = set()  # folders whose links were followed

    def path(self, name: str) -> Path:
        """Return the path of a file below the folder, whether it exists or not.

        Raises:
            InputError: if the name is empty, absolute or has ``..``, or a link leads out of the folder.
        """
        if leads_out(name):
            raise InputError(f"expected a path below {self.root}, without '..', got {shown(name)}")
        path = self.root / name
        self.check(path, name)
        return path

    def check(self, path: Path, name: str = "", linked: bool | None = None) -> None:
        """Raise `InputError` if a link leads out of the folder.

        Args:
            path: of a file below the folder.
            name: how data call it, for the message; the path itself if it is empty.
            linked: whether the file itself is a link, if that is known.
        """
        if self.links:
            return
        folder = os.path.dirname(path)
        followed = os.path.islink(path) if linked is None else linked
        if not followed and folder in self._good:
            return
        real, root = os.path.realpath(path if followed else folder), os.path.realpath(self.root)
        if real != root and not real.startswith(os.path.join(root, "")):
            given = shown(name or str(path))
            problem = f"{given} is reached by a link that leads out of {self.root}, to {real}"
            raise InputError(problem, setting=self.setting)
        if not followed:
            self._good.add(folder)


def leads_out(name: str) -> bool:
    """Tell whether a name in data is no path below a folder: empty, absolute, with ``..`` or a NUL."""
    if ".." in name or "\\" in name:  # most names need no closer look, and there are hundreds of thousands of them
        parts = name.replace("\\", "/").split("/")
        if parts[0] == "" or ".." in parts:
            return True
    return name[:1] in ("", "/") or "\0" in name or name.isspace()


def _beside(path: Path) -> Path:
    """Return an unused name in the same folder; containers that share a disk may share process ids."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")


@contextmanager
def writing(path: Path, setting: str | None = None) -> Iterator[None]:
    """Name the file, and the argument that names it, where the disk refuses what the block writes.

    Raises:
        InputError: in the place of an `OSError`: a full disk, a folder without permission, a file in its place.
    """
    try:
        yield
    except InputError:  # some are OSErrors
        raise
    except OSError as error:
        raise InputError(f"can't be written: {error.strerror or error}", file=path, setting=setting) from None


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it takes its name when the block ends without an error.

    Raises:
        InputError: if a folder, a named pipe, a device or a socket has that name: it would be replaced.
    """
    _refuse_odd(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path)
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
    """Give an array on disk to fill; it takes its name when the block ends without an error; raises as `whole_file`."""
    import numpy as np  # here, so that whoever only writes text starts without it

    _refuse_odd(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path)
    try:
        array = np.lib.format.open_memmap(new, "w+", kind, shape)
        with new.open("r+b") as file:  # through a mapping, a full disk would kill the process without a message
            os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
        yield array
        array.flush()
        del array
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _refuse_odd(path: Path) -> None:
    """Raise InputError if something else than a file would be replaced: for root, that may be /dev/null."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):  # nothing is there, or whoever writes will say what is wrong
        return
    if kind != stat.S_IFREG:
        raise InputError(f"expected a file, found {_KINDS.get(kind, 'something else')}", file=path)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; readers see the old content or the new one."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a JSON file; readers see the old content or the new one."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file that this project wrote, None where there is no file.

    Raises:
        InputError: if it is no ordinary file, or no JSON.
    """
    if not os.path.lexists(path):
        return None
    try:
        return json.loads(read_text(path))
    except (RecursionError, json.JSONDecodeError):
        raise InputError(
            "damaged: not valid JSON; delete it, and run the command that made it again", file=path
        ) from None


@contextmanager
def one_writer(folder: Path, work: str, lease: str = ".lock", patience: float = 0) -> Iterator[None]:
    """Be the only process that writes in a folder, on this machine or another one that shares the disk.

    The lease of a dead process is taken over: at once if it ran on the same machine, otherwise after `LEASE` seconds in
    which this process saw no heartbeat. It waits for these only if the lease is older than that already.

    Args:
        folder: made if it is new; the lease is a file in it.
        work: what the processes would do at once, for the message.
        lease: name of that file; processes with leases of different names may write beside each other.
        patience: seconds to wait for a living process that holds it.

    Raises:
        InputError: if a living process still holds the lease.
    """
    from filelock import SoftFileLease, Timeout  # as above

    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / lease
    _drop_unwritten(marker)
    held = SoftFileLease(marker, lease_duration=LEASE)
    expired = marker.exists() and time.time() - marker.stat().st_mtime > LEASE
    try:
        held.acquire(timeout=max(patience, 1.5 * LEASE if expired else 0))
    except Timeout:
        problem = f"another process {work} here already{_owner(marker)}: wait for it, or choose another folder"
        raise InputError(problem, file=folder) from None
    try:
        yield
    finally:
        held.release()


def _drop_unwritten(marker: Path) -> None:
    """Remove a lease that stays empty: its process was killed after it made the file, before it wrote its name."""
    for _ in range(20):  # a living one needs microseconds
        try:
            if marker.stat().st_size:
                return
        except OSError:
            return
        time.sleep(0.05)
    marker.unlink(missing_ok=True)


def _owner(marker: Path) -> str:
    """Return which process and machine the file of a lease names, as a part of a message."""
    try:
        record = dict(line.split("=", 1) for line in marker.read_text(encoding="utf-8").splitlines() if "=" in line)
        return printable(f", process {record['pid']} on {record['host']}")
    except (OSError, ValueError, KeyError):  # released since, or half written
        return ""


def stable_hash(text: str | bytes, size: int = 8) -> int:
    """Return an unsigned integer of ``size`` bytes for a text, the same on every machine and in every run."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(blake2b(content, digest_size=size).digest(), "big")


def in_shard(key: str | bytes, index: int, count: int) -> bool:
    """Tell whether a key belongs to shard ``index`` of ``count``."""
    return stable_hash(key) % count == index
