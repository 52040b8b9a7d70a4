"""The file of a bundle: a zip of few, known names. Nothing in one is ever unpacked to the disk."""

import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file, whole_file

HEAD = "bundle.json"
NAMES = re.compile(r"bundle\.json|config(?:\.\w{1,20})?\.yaml|ranks/\w{1,80}\.json|submission/[\w-]{1,80}\.json")
MOST_PACKED = 200_000_000  # bytes
MOST_UNPACKED = 500_000_000  # bytes of all files
MOST_FILES = 200
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_archive(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a zip: the same files give the same bytes; readers see the old file or the new one.

    Raises:
        InputError: if there are more bytes than `read_archive` takes.
    """
    total = sum(map(len, files.values()))
    if total > MOST_UNPACKED or len(files) > MOST_FILES:
        raise InputError(f"the bundle would hold {len(files):,} files of {total:,} bytes: too many", file=path)
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files, key=lambda name: (name != HEAD, name)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[name])


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of a zip.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no zip, or one that no command of this project writes: too large, with doubled or other
            names, links or passwords.
    """
    ordinary_file(path, "bundle", MOST_PACKED)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _refuse_odd(path, entries)
            files, left = {}, MOST_UNPACKED
            for entry in entries:
                with archive.open(entry) as opened:
                    content = opened.read(min(left, entry.file_size) + 1)
                left -= len(content)
                if len(content) > entry.file_size or left < 0:
                    raise InputError(f"{entry.filename} holds more than it says", file=path)
                files[entry.filename] = content
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is no bundle: {shown(str(error), 100)[1:-1]}", file=path) from None
    if HEAD not in files:
        raise InputError(f"is no bundle: it has no {HEAD}", file=path)
    return files


def _refuse_odd(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    def refuse(problem: str) -> None:
        raise InputError(f"is no bundle of this project: {problem}", file=path)

    if len(entries) > MOST_FILES:
        refuse(f"{len(entries):,} files, expected at most {MOST_FILES}")
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        if not NAMES.fullmatch(name) or name != entry.filename:
            refuse(f"unknown name {shown(name)}")
        if name in seen:
            refuse(f"{name} stands in it twice")
        seen.add(name)
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            refuse(f"{name} is a link or something else than a file")
        if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            refuse(f"{name} is encrypted, or packed in another way than deflate")
    total = sum(entry.file_size for entry in entries)
    if total > MOST_UNPACKED:
        refuse(f"{total:,} bytes unpacked, expected at most {MOST_UNPACKED:,}")
