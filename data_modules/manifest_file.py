"""Manifest files: a list of triplets, as a JSON list or one JSON object per line."""

import json
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.annotations import MISSING, AnnotationFile
from data_modules.triplets import Source


class ManifestFile(AnnotationFile):
    """A manifest: a JSON list of records, or a file ``.jsonl`` with one record per line.

    Records are known by their integer ``id`` if they have one, else by their position in the file, from 0.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "id")

    def read_records(self) -> list[Any]:
        """Return all records of the file; blank lines between them do not count."""
        if self.path.suffix != ".jsonl":
            return super().read_records()
        records, broken = [], []
        for number, line in enumerate(read_text(self.path).split("\n"), start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except ValueError:
                    broken.append(number)
        if broken:
            raise ValueError(f"{self.path}: not valid JSON in line {', '.join(str(number) for number in broken)}")
        return records

    def identify(self, position: int) -> int:
        """Return the integer that a record is known by."""
        if self.find(0, "id") not in (MISSING, None):
            return self.get(position, "id", int)
        if self.find(position, "id") not in (MISSING, None):
            self.fail(position, "id", "is given, but other records have none: number all of them, or none")
        return self.positions[position]

    def of_split(self, split: str) -> Sequence[int] | None:
        """Return which records name this ``split``; None if no record names any."""
        names = [self.get_optional(position, "split", str) for position in range(len(self))]
        if not any(names):
            return None
        for position, name in enumerate(names):
            if not name:
                self.fail(position, "split", "is missing, but other records have it")
        return [position for position, name in enumerate(names) if name == split]

    def get_path(self, position: int, field: str) -> str:
        """Return the path of an image, in its shortest form: an image has one name, however its path is written."""
        listed = self.get(position, field, str)
        if not listed.strip():
            self.fail(position, field, "is empty: it must be the path of an image")
        return posixpath.normpath(listed)


class SplitSource(NamedTuple):
    """`Source` of those records of a file that belong to one split."""

    file: str
    key: str
    positions: Sequence[int]

    def name(self, position: int, identity: int | None) -> str:
        """Return the words by which a user finds a record of the split again."""
        return Source(self.file, self.key).name(self.positions[position], identity)


def read_text(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it can't be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: can't be read as UTF-8 text ({error})") from None
