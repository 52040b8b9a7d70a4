"""The photos below a folder: which files are read, which are skipped and why, and which may only seem to be gone."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from contextcir.errors import InputError, MissingFileError
from contextcir.images import MOST_BYTES
from contextcir.search.photos import heic_is_read, why_not_read


class LeftOut(NamedTuple):
    """A file that is not in the index, and why: its path below the folder, escaped where it is no UTF-8."""

    path: str
    reason: str


@dataclass
class Listing:
    """The content of a folder.

    ``photos``: size in bytes and modification time in nanoseconds, by path below the folder, with "/". ``skipped``:
    files that are not read. ``unknown``: folders that could not be listed, and photos that can't be read on this
    machine; what the index holds of them is kept.
    """

    photos: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: list[LeftOut] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def may_hold(self, path: str) -> bool:
        """Tell whether a path may be there, although it is not among the photos."""
        if not self.unknown:
            return False
        parts = path.split("/")
        return any("/".join(parts[:end]) in self.unknown for end in range(1, len(parts) + 1))


def list_photos(folder: Path, leave_out: Path | None = None) -> Listing:
    """Return the photos below a folder, by their suffixes; no file is opened.

    Links are not followed, neither to files nor to folders: what they lead to inside the folder has a path of its own,
    and nothing outside of it belongs to it. Hidden files and folders, whose names begin with a dot, are ignored.

    Args:
        folder: the folder, which itself may be a link.
        leave_out: a folder that may lie in it and is ignored: the index.

    Raises:
        MissingFileError: if there is no such folder.
        InputError: if it can't be read.
    """
    check_folder(folder)
    listing, heic = Listing(), heic_is_read()
    ignored = None if leave_out is None else os.path.realpath(leave_out)
    todo = [""]
    while todo:
        below = todo.pop()
        try:
            with os.scandir(folder / below) as found:
                entries = list(found)
        except OSError as error:
            if not below:
                raise InputError(f"can't be read: {error.strerror}", file=folder, setting="folder") from None
            listing.unknown.add(below)
            listing.skipped.append(LeftOut(_escaped(below), f"a folder that can't be read: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{below}/{entry.name}" if below else entry.name
            if _is_folder(entry):
                if ignored is None or os.path.realpath(entry.path) != ignored:
                    todo.append(path)
            else:
                _add(listing, path, entry, heic)
    listing.skipped.sort()
    return listing


def check_folder(folder: Path) -> None:
    """Raise MissingFileError unless there is such a folder."""
    if not folder.is_dir():
        what = "not a folder" if os.path.lexists(folder) else "no folder"
        raise MissingFileError(f"{what}: {folder}; expected the folder of the photos", setting="folder")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _add(listing: Listing, path: str, entry: os.DirEntry[str], heic: bool) -> None:
    suffix = os.path.splitext(entry.name)[1].lower()
    reason = why_not_read(suffix, heic)
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            reason = "a link: links are not followed" if reason != "" or entry.is_dir() else ""
        elif reason is None and not stat.S_ISREG(status.st_mode):
            reason = "no ordinary file"
        elif reason is None and status.st_size > MOST_BYTES:
            reason = f"{status.st_size:,} bytes, expected at most {MOST_BYTES:,}"
        elif reason is not None and heic is False and why_not_read(suffix, True) is None:
            listing.unknown.add(path)
    except OSError as error:
        reason = reason if reason == "" else f"can't be read: {error.strerror}"
    if reason == "":
        return
    if path != _escaped(path):
        path, reason = _escaped(path), "its name is not UTF-8: rename it"
    if reason is None:
        listing.photos[path] = (status.st_size, status.st_mtime_ns)
    else:
        listing.skipped.append(LeftOut(path, reason))


def _escaped(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
