"""One process at a time: lock files that also work on network disks, and that a dead owner does not keep for ever."""

import contextlib
import json
import os
import socket
import tempfile
import time
import uuid
from pathlib import Path

SILENT = 600.0  # seconds after which an owner on another machine counts as dead
KEEP = 30.0  # seconds between two signs of life
TAKEOVER = 60.0  # seconds after which nobody can still be taking over


def write_at_once(path: Path, text: str) -> None:
    """Write a file beside ``path`` and move it there: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, suffix=".part", delete=False) as part:
        part.write(text)
        part.flush()
        os.fsync(part.fileno())
    os.chmod(part.name, 0o644)
    os.replace(part.name, path)


class Lock:
    """A file that exactly one process can create; it names its owner.

    An owner on this machine is dead if its process is; one on another machine if it has not touched the file for
    ``silent`` seconds.
    """

    def __init__(self, path: Path, silent: float = SILENT) -> None:
        self.path = path
        self.silent = silent
        self._mine: str | None = None
        self._kept = 0.0

    def acquire(self) -> bool:
        """Try to become the owner, in the place of a dead one if need be; return whether that worked."""
        if self._create():
            return True
        if self._left_by_the_dead() is None:
            return False
        # Two that find the same dead owner must not both remove its file: the second might remove that of the first.
        guard = self.path.with_name(self.path.name + ".takeover")
        if not _create(guard, ""):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - guard.stat().st_mtime > TAKEOVER:
                    guard.unlink()
            return False
        try:
            if self._left_by_the_dead() is not None:
                self.path.unlink(missing_ok=True)
            return self._create()
        finally:
            guard.unlink(missing_ok=True)

    def keep(self) -> None:
        """Give a sign of life, now and then; the owner calls this often."""
        if self._mine is not None and time.time() - self._kept > KEEP:
            self._kept = time.time()
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path)

    def release(self) -> None:
        """Remove the file, if it is still this one's."""
        if self._mine is not None and _read(self.path) == self._mine:
            self.path.unlink(missing_ok=True)
        self._mine = None

    def _create(self) -> bool:
        pid = os.getpid()
        owner = {"host": socket.gethostname(), "pid": pid, "started": started(pid), "id": uuid.uuid4().hex}
        text = json.dumps(owner)
        if not _create(self.path, text):
            return False
        self._mine, self._kept = text, time.time()
        return True

    def _left_by_the_dead(self) -> str | None:
        """Return the content of a file whose owner is dead, None otherwise."""
        try:
            text, age = self.path.read_text(), time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        try:
            owner = json.loads(text)
            here = owner["host"] == socket.gethostname()
            dead = here and started(owner["pid"]) != owner["started"]
        except (ValueError, KeyError, TypeError):  # the owner was cut while it wrote, or is just about to write
            here, dead = False, False
        return text if dead or (not here and age > self.silent) else None


def started(pid: int) -> str | None:
    """Return when a process on this machine was started, None if there is none: its number alone may be reused.

    Where there is no ``/proc``, all living processes look alike.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]  # 22nd of all; a zombie has ended
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def _create(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(descriptor, "w") as file:
        file.write(text)
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
