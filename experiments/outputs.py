"""Places that a command will write to, looked at before it begins: an hour of work must not end at a typing mistake."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from contextcir.errors import InputError, shown


def runs_folder(name: str) -> Path:
    """Return the folder where a command leaves its results if none is given: below CIR_RUNS, else below ``runs``."""
    return Path(os.environ.get("CIR_RUNS") or "runs") / name


def output_file(path: Path | None, setting: str) -> None:
    """Make sure that a file can be written there, over an ordinary one at most; None is no place and so no mistake.

    Raises:
        InputError: if a folder, a named pipe, a device or a socket is there, or its folder can't be made or written to.
    """
    if path is None:
        return
    if not path.name:
        raise InputError(f"expected the name of a file, got {shown(str(path))}", setting=setting)
    if not _is(path, stat.S_ISREG, "a file", setting):
        _writable(path.parent, path, setting)


def output_folder(path: Path | None, setting: str) -> None:
    """Make sure that a folder is there that can be written to, or can be made; None is no place and so no mistake.

    Raises:
        InputError: if a file is there or on the way to it, or this user may not write there.
    """
    if path is not None:
        _is(path, stat.S_ISDIR, "a folder", setting)
        _writable(path, path, setting)


@contextmanager
def scratch(folder: Path | None) -> Iterator[str]:
    """Yield a temporary folder inside a folder, which is made if it is missing; None for the system's place."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as place:
        yield place


def _is(path: Path, kind: Callable[[int], bool], expected: str, setting: str) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError("is a link to nowhere", file=path, setting=setting) from None
        return False
    except (OSError, ValueError) as error:  # a file on the way, a loop of links, no access, a name too long; a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"can't be written: {reason}", file=path, setting=setting) from None
    if not kind(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a pipe, device or socket"
        raise InputError(f"expected {expected} to write, found {found}", file=path, setting=setting)
    if not os.access(path, os.W_OK):
        raise InputError("can't be written: no permission", file=path, setting=setting)
    return True


def _writable(folder: Path, path: Path, setting: str) -> None:
    """Look at the deepest folder that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"can't be written: {folder} is no folder", file=path, setting=setting)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"can't be written: no permission in {folder}", file=path, setting=setting)
