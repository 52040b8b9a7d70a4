"""Annotation files, read strictly: whatever is wrong is told in one line that names file, record and field.

Annotation files whose records have no key of their own: their positions take its place.


Manifest files: a list of triplets, as a JSON list or one JSON object per line.


Reading annotation files again and again, around records that are broken, until all of these are known.
"""

import json
import math
import posixpath
import re
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from open_clip.tokenizer import get_clean_fn

from data_modules.records import PhraseRecord, Source

Value = TypeVar("Value")

KINDS = {str: "a string", int: "an integer", list: "a list", dict: "an object"}
# What every CLIP tokenizer does to a text before it cuts it into tokens: phrase spans refer to the result.
clean = get_clean_fn("lower")


MISSING = object()  # differs from a field that is null


def shorten(value: object) -> str:
    """Return ``value`` as it would be typed, cut to fit into one line of an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_kind(value: object, kind: type) -> bool:
    """Tell whether ``value`` is of ``kind``; true and false are no integers here, as they are none in JSON."""
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def read_json(path: Path, kind: type[Value]) -> Value:
    """Return the content of a JSON file whose outermost value is of ``kind`` (list or dict).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it can't be read, is not JSON, or holds something else.
    """
    survey = active_survey()

    def load() -> object:
        return json.loads(path.read_text(encoding="utf-8"))

    try:
        content = load() if survey is None else survey.parse(path, load)
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation file {path}: check --data.root") from None
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:  # also of the wrong encoding
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not is_kind(content, kind):
        raise ValueError(f"{path}: expected {KINDS[kind]}, got {shorten(content)}")
    return content


class AnnotationFile:
    """A JSON list of records, each with a distinct integer under ``key``.

    Args:
        path: the file.
        key: field that identifies a record, e.g. ``pairid``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no list of such records, or two records have the same key.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.source = Source(str(path), key)
        records = self.read_records()
        survey = active_survey()
        # where the records are in the file: a check reads it without those that it has found broken
        self.positions = range(len(records)) if survey is None else survey.choose(path, len(records))
        self.records = [records[position] for position in self.positions]
        if not self.records:
            raise ValueError(f"{path}: holds no records")
        self.ids: tuple[int, ...] = ()
        self.ids = tuple(self.identify(position) for position in range(len(self)))
        first: dict[int, int] = {}
        for position, identity in enumerate(self.ids):
            if first.setdefault(identity, position) != position:
                before = self.positions[first[identity]]
                self.fail(position, key, f"is {identity}, as in record {before}: every record needs its own")

    def __len__(self) -> int:
        return len(self.records)

    def read_records(self) -> list[Any]:
        """Return all records of the file."""
        return read_json(self.path, list)

    def identify(self, position: int) -> int:
        """Return the integer that a record is known by."""
        return self.get(position, self.source.key, int)

    def fail(self, position: int, field: str, problem: str) -> NoReturn:
        """Raise the ValueError that names file, record and field."""
        identity = self.ids[position] if self.ids else None
        raise ValueError(f"{self.source.name(self.positions[position], identity)}: field {field} {problem}")

    def find(self, position: int, field: str) -> Any:
        """Return the value at a dotted path (``img_set.id``, ``phrases.0.start``), or MISSING."""
        value = self.records[position]
        for part in field.split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return MISSING
        return value

    def get(self, position: int, field: str, kind: type[Value]) -> Value:
        """Return a field that must be there and be of ``kind``."""
        value = self.find(position, field)
        if value is MISSING:
            self.fail(position, field, "is missing")
        if not is_kind(value, kind):
            self.fail(position, field, f"must be {KINDS[kind]}, got {shorten(value)}")
        return value

    def get_optional(self, position: int, field: str, kind: type[Value]) -> Value | None:
        """Return a field of ``kind``, or None where it is missing or null."""
        return None if self.find(position, field) in (MISSING, None) else self.get(position, field, kind)

    def get_image(self, position: int, field: str, known: Container[str], listed_in: Path, kind: type = str) -> str:
        """Return the name of an image, which must be among the ``known`` ones, those that ``listed_in`` lists."""
        name = str(self.get(position, field, kind))
        if name not in known:
            self.fail(position, field, f"names image {shorten(name)}, which is not in {listed_in}")
        return name

    def get_images(
        self, position: int, field: str, known: Container[str], listed_in: Path, kind: type = str
    ) -> list[str]:
        """Return the names in a list of different images, as `get_image` does."""
        count = len(self.get(position, field, list))
        names = [self.get_image(position, f"{field}.{number}", known, listed_in, kind) for number in range(count)]
        if len(set(names)) < count:
            self.fail(position, field, f"names an image twice: {shorten(names)}")
        return names

    def get_image_size(self, position: int) -> tuple[int, int] | None:
        """Return the optional ``image_size``: width and height in pixels of the image that boxes refer to."""
        size = self.get_optional(position, "image_size", list)
        if size is None:
            return None
        if len(size) != 2 or not all(is_kind(side, int) and side > 0 for side in size):
            self.fail(position, "image_size", f"must be [width, height] in pixels, got {shorten(size)}")
        return size[0], size[1]

    def get_phrases(self, position: int, caption: str, offset: int = 0) -> tuple[PhraseRecord, ...]:
        """Return the optional ``phrases`` of a caption.

        Args:
            position: of the record.
            caption: the whole text that is shown to the model.
            offset: where the text that the spans count from begins in the cleaned caption.
        """
        listed = self.get_optional(position, "phrases", list)
        if not listed:
            return ()
        seen = clean(caption)
        phrases = []
        for number in range(len(listed)):
            field = f"phrases.{number}"
            start = self.get(position, f"{field}.start", int) + offset
            end = self.get(position, f"{field}.end", int) + offset
            if not offset <= start < end <= len(seen):
                span = f"[{start - offset}, {end - offset})"
                self.fail(position, field, f"has span {span} outside the caption {shorten(seen[offset:])}")
            text = self.get_optional(position, f"{field}.text", str)
            if text is not None and clean(text) != seen[start:end]:
                self.fail(position, field, f"is {shorten(text)}, but its span holds {shorten(seen[start:end])}")
            phrases.append(PhraseRecord(start, end, self._get_box(position, f"{field}.box")))
        return tuple(phrases)

    def _get_box(self, position: int, field: str) -> tuple[float, float, float, float] | None:
        box = self.get_optional(position, field, list)
        if box is None:
            return None
        numbers = all(type(side) in (int, float) and math.isfinite(side) for side in box)
        if len(box) != 4 or not numbers or box[0] >= box[2] or box[1] >= box[3]:
            self.fail(position, field, f"must be [x0, y0, x1, y1] in pixels, x0 < x1 and y0 < y1, got {shorten(box)}")
        return box[0], box[1], box[2], box[3]


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


Read = TypeVar("Read")
Complain = Callable[[str, object], None]  # takes the kind of a problem and what it is

# How an annotation reader names a record that it can't use.
RECORD = re.compile(r"record (\d+)(?: \(\w+ -?\d+\))? of (.+?): field ")
MOST = 10_000  # broken records that are listed
PIECE = 1000  # records that are read once more for each broken one among them


class Survey:
    """What a check knows of the annotation files while it reads them; they are parsed once.

    ``aside``: positions of broken records by file, which readers do not get to see. ``sizes``: number of records by
    file. ``window``: a file and some of its positions; if there is one, readers see only the first good record of every
    file, which others are compared with, and these.
    """

    def __init__(self) -> None:
        self.aside: dict[str, set[int]] = {}
        self.sizes: dict[str, int] = {}
        self.window: tuple[str, range] | None = None
        self._parsed: dict[Path, Any] = {}

    def parse(self, path: Path, load: Callable[[], Any]) -> Any:
        """Return the content of a file, by ``load`` the first time."""
        if path not in self._parsed:
            self._parsed[path] = load()
        return self._parsed[path]

    def choose(self, path: Path, size: int) -> Sequence[int]:
        """Return the positions, of ``size`` in the file, that a reader gets to see."""
        file = str(path)
        aside = self.aside.get(file, set())
        self.sizes[file] = size
        if self.window is None:
            return [position for position in range(size) if position not in aside]
        first = next((position for position in range(size) if position not in aside), size)
        shown = self.window[1] if self.window[0] == file else range(0)
        return [*range(first, min(first + 1, size)), *(p for p in shown if p > first and p not in aside)]


_active: ContextVar[Survey | None] = ContextVar("survey", default=None)


def active_survey() -> Survey | None:
    """Return the survey that is going on, None outside of any."""
    return _active.get()


@contextmanager
def surveying() -> Iterator[Survey]:
    """Let all annotation files that are read inside be read through one survey."""
    survey = Survey()
    token = _active.set(survey)
    try:
        yield survey
    finally:
        _active.reset(token)


def read_around(read: Callable[[], Read], complain: Complain) -> Read | None:
    """Return what ``read`` makes of the good records of annotation files, None if it can't make anything of them.

    Args:
        read: reads the files by `AnnotationFile`.
        complain: is told every problem: of kind ``record``, of kind ``layout`` if a file is missing, or else ``file``.
    """
    swept: set[str] = set()
    with surveying() as survey:
        while True:
            try:
                return read()
            except FileNotFoundError as error:
                complain("layout", error)
                return None
            except ValueError as error:
                file = _set_aside(error, survey, complain)
                if file is None:
                    complain("file", error)
                    return None
            if file not in swept:  # where one record is broken, others are
                swept.add(file)
                _sweep(read, file, survey, complain)
            if _count(survey) >= MOST:
                complain("file", f"{MOST:,} records are broken: the others were not looked at")
                return None


def _sweep(read: Callable[[], object], file: str, survey: Survey, complain: Complain) -> None:
    """Find what is broken in a file piece by piece, so that each broken record costs reading a piece, not the file."""
    size = survey.sizes.get(file, 0)
    for start in range(0, size, PIECE):
        survey.window = (file, range(start, min(start + PIECE, size)))
        while _count(survey) < MOST:
            try:
                read()
                break
            except (ValueError, FileNotFoundError) as error:
                if _set_aside(error, survey, complain) is None:
                    break  # due to the piece; or it is met again when the whole file is read
    survey.window = None


def _set_aside(error: Exception, survey: Survey, complain: Complain) -> str | None:
    """Put aside the record that an error names, and return its file; None if it names none, or one put aside before."""
    record = RECORD.match(str(error))
    if record is None or int(record[1]) in survey.aside.setdefault(record[2], set()):
        return None
    complain("record", error)
    survey.aside[record[2]].add(int(record[1]))
    return record[2]


def _count(survey: Survey) -> int:
    return sum(map(len, survey.aside.values()))
