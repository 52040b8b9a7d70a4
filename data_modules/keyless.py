"""Annotation files whose records have no key of their own: their positions take its place."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.annotations import AnnotationFile


class KeylessSource(NamedTuple):
    """Where records without a key were read; stands in for a `Source`.

    The id of a record (`QueryRecord.id`) is its position in the file, counted through all files where there are
    several. So a record is found again wherever, and however often, it is listed.

    ``file``: the file, or a name for all. ``parts``: every file and its number of records.
    """

    file: str
    parts: tuple[tuple[str, int], ...]

    def name(self, position: int, identity: int | None) -> str:
        """Return the words by which a user finds a record again, by its ``identity`` if that is known."""
        ends = list(accumulate(size for _, size in self.parts))
        number = position if identity is None else identity
        part = next(part for part, end in enumerate(ends) if number < end)
        return f"record {number - (ends[part] - self.parts[part][1])} of {self.parts[part][0]}"


class KeylessFile(AnnotationFile):
    """A JSON list of records without a key, known by their position in it.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no list, or an empty one.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        super().__init__(path, "position")
        self.source = KeylessSource(str(path), ((str(path), self.size),))

    def read_records(self) -> list[Any]:
        """Return all records of the file."""
        records = super().read_records()
        self.size = len(records)
        return records

    def identify(self, position: int) -> int:
        """Return the position of a record in the file."""
        return self.positions[position]


def join_sources(name: str, files: Sequence[KeylessFile]) -> KeylessSource:
    """Return the source of the records of several files, whose ids count through all of them in turn."""
    return KeylessSource(name, tuple(part for file in files for part in file.source.parts))
