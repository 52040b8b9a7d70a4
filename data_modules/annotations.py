"""Annotation files, read strictly: whatever is wrong is told in one line that names file, record and field."""

import json
import math
from collections.abc import Container
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from open_clip.tokenizer import get_clean_fn

from data_modules.survey import active_survey
from data_modules.triplets import PhraseRecord, Source

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
