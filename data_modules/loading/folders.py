"""The files of a folder of images, found by the names that a benchmark lists, whatever their endings are."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from contextcir.errors import InputError

# Of images, in the order in which another file may stand for a listed one.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def split_ending(name: str) -> tuple[str, str]:
    """Return a file name without the ending of an image, and the ending, which is empty for any other name."""
    stem, ending = os.path.splitext(name)
    return (stem, ending) if ending.lower() in ENDINGS else (name, "")


def spellings(stem: str) -> tuple[str, ...]:
    """Return a file name without its ending as it may be written: as listed, or else all small, or all in capitals."""
    return tuple(dict.fromkeys((stem, stem.lower(), stem.upper())))


def stand_ins(listed: Collection[str], present: Collection[str]) -> dict[str, str | None]:
    """Return, for each listed file name that is not in a folder, the file that stands for it; None if there is none.

    It has the same name but for the ending: the listed ending in another case, or else the first of `ENDINGS`. A name
    that is written in capitals, or without any, may stand for the same one in mixed case, as file systems that do not
    tell them apart make it. A file stands for one listed name alone, and not if it is listed itself.

    Args:
        listed: names that a benchmark lists, all of one folder.
        present: names of the files in that folder.
    """
    absent = [name for name in listed if name not in present]
    if not absent:
        return {}
    own, by_stem = set(listed), dict[str, list[str]]()
    for name in present:
        stem, ending = split_ending(name)
        if ending and name not in own:
            by_stem.setdefault(stem, []).append(name)
    found: dict[str, str | None] = {}
    for name in absent:
        stem, wanted = split_ending(name)
        order = {ending: place for place, ending in enumerate(dict.fromkeys((wanted.lower(), *ENDINGS)))}
        found[name] = None
        for written in spellings(stem):
            if files := by_stem.get(written):
                found[name] = min(files, key=lambda file: (order[split_ending(file)[1].lower()], file))
                files.remove(found[name])
                break
    return found


def entries_of(folder: Path, setting: str = "data.root") -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder; none if there is no such folder.

    Raises:
        InputError: if it can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # no permission, a loop of links, too long a name; a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"can't be read: {reason}", file=folder, setting=setting) from None


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is an ordinary file, links followed; only links are looked at by themselves."""
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False


def is_there(path: Path) -> bool:
    """Return whether there is anything of this name, be it unreadable: then reading it will say why."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def first_there(paths: Sequence[Path]) -> Path | None:
    """Return the first path of which there is anything."""
    return next((path for path in paths if is_there(path)), None)
