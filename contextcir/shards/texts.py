"""Texts in order, however many: sorted in parts that lie on the disk, and merged while they are read."""

import os
import struct
import tempfile
from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import IO

from contextcir.files import writing

MOST = 1 << 18  # texts in memory, about 25 MB
BLOCK = 1 << 16  # bytes of a part that are read at a time
_LENGTH = struct.Struct("<I")


class SortedTexts:
    """Different texts in the order of their code points; `add` all of them, then iterate, any number of times.

    Args:
        scratch: folder on the disk for what does not fit; the system's for temporary files if it is None.
        most: texts in memory.
    """

    def __init__(self, scratch: Path | None = None, most: int = MOST) -> None:
        self._folder = Path(tempfile.gettempdir()) if scratch is None else scratch
        self._most = most
        self._recent: set[bytes] = set()
        self._parts: list[IO[bytes]] = []
        self._count: int | None = None

    def add(self, text: str) -> None:
        """Take a text; one that came before changes nothing. Raises InputError if the disk is full."""
        self._count = None
        self._recent.add(text.encode("utf-8", "surrogatepass"))  # bytes of UTF-8 sort as code points do
        if len(self._recent) >= self._most:
            with writing(self._folder):
                part = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  (read for as long as this object lives)
                for each in sorted(self._recent):
                    part.write(_LENGTH.pack(len(each)) + each)
                part.flush()
            self._parts.append(part)
            self._recent = set()

    def __iter__(self) -> Iterator[str]:
        last = None
        for each in merge(sorted(self._recent), *map(_texts, self._parts)):
            if each != last:
                yield each.decode("utf-8", "surrogatepass")
                last = each

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(1 for _ in self) if self._parts else len(self._recent)
        return self._count


def _texts(part: IO[bytes]) -> Iterator[bytes]:
    """Yield the texts of a part, whoever else reads it."""
    rest, place = b"", 0
    while block := os.pread(part.fileno(), BLOCK, place):
        place += len(block)
        rest, start = rest + block, 0
        while start + _LENGTH.size <= len(rest):
            stop = start + _LENGTH.size + _LENGTH.unpack_from(rest, start)[0]
            if stop > len(rest):
                break
            yield rest[start + _LENGTH.size : stop]
            start = stop
        rest = rest[start:]
