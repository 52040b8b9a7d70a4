"""The records that stages of a synthesis hand on: plain values, written to shards as JSON and read back equal."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from contextcir.errors import InputError, shown

Record = TypeVar("Record", bound="Stored")


class Stored:
    """A record with a ``key`` that is unique in its stage."""

    key: str

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: type[Record], values: dict[str, Any]) -> Record:
        """Return the record that `to_json` made the values of."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class Pair(Stored):
    """A reference and a target image.

    ``key``: names the pair. ``reference``, ``target``: image paths below the image folder, with "/". ``image_set``:
    up to 6 images that look alike, both among them; the others serve as hard negatives. ``similarity``: cosine of the
    two images' embeddings, None where it is unknown. ``source``: where the pair is from ("mined", "cirr", ...).
    """

    key: str
    reference: str
    target: str
    image_set: tuple[str, ...] = ()
    similarity: float | None = None
    source: str = "mined"


@dataclass(frozen=True)
class ReferenceObjects(Stored):
    """What is on a reference image, described once however many pairs it is in. ``key``: its path."""

    key: str
    objects: tuple[dict[str, Any], ...]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description(Stored):
    """The objects on the two images of a pair, each with its descriptors.

    Objects are ``{"object": str, "descriptors": [str, ...]}``, most prominent first. What looks the same on both has
    the identical descriptors in both. ``provenance``: model, prompt digests, seed, tokens, cost.
    """

    key: str  # of the pair
    reference: tuple[dict[str, Any], ...]
    target: tuple[dict[str, Any], ...]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Instruction(Stored):
    """A modification text for a pair.

    ``key``: that of the pair, "#" and a number. ``concepts``: how many changes the text asks for. ``edits``: the
    changes as a model stated them, for the data card and for scoring; may be empty.
    """

    key: str
    pair: str
    caption: str
    concepts: int
    edits: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict(Stored):
    """The verdict of the filters on an instruction: ``reason`` is None if it is kept."""

    key: str  # of the instruction
    reason: str | None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure(Stored):
    """An item without a usable answer after all retries; it is not tried again unless the user wants that."""

    key: str  # of the pair
    stage: str
    reason: str  # a word or two, counted in the data card
    detail: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)  # model, tokens, cost: failures cost money too


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _path(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not value.startswith("/") and ".." not in value.split("/")


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _list_of(member: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(member, value))


def _object(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"object", "descriptors"}
        and _text(value["object"])
        and _list_of(_text)(value["descriptors"])
    )


def _provenance(value: Any) -> bool:
    used = value.get("usage", {}) if isinstance(value, dict) else None
    return isinstance(used, dict) and all(map(_number, used.values()))


def _optional(member: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or member(value)


Shape = Mapping[str, Callable[[Any], bool]]
_ABOUT: Shape = {"provenance": _provenance}
_FAILURE: Shape = {"key": _text, "stage": _text, "reason": _text, "detail": _text, **_ABOUT}
_OBJECTS = _list_of(_object)
_SHAPES: dict[str, Shape] = {  # of the records of a stage: a test for each field
    "pairs": {
        "key": _text,
        "reference": _path,
        "target": _path,
        "image_set": _list_of(_path),
        "similarity": _optional(_number),
        "source": _text,
    },
    "describe-reference": {"key": _path, "objects": _OBJECTS, **_ABOUT},
    "describe": {"key": _text, "reference": _OBJECTS, "target": _OBJECTS, **_ABOUT},
    "instruct": {
        "key": lambda value: isinstance(value, str) and bool(re.search(r"#\d+\Z", value)),
        "pair": _text,
        "caption": _text,
        "concepts": lambda value: type(value) is int,
        "edits": _list_of(_text),
        **_ABOUT,
    },
    "filter": {
        "key": _text,
        "reason": _optional(_text),
        "scores": lambda value: isinstance(value, dict) and all(map(_number, value.values())),
    },
    **{f"{stage}-failures": _FAILURE for stage in ("describe-reference", "describe", "instruct")},
}


def check_record(name: str, record: Any) -> None:
    """Check that a stored record is one of a stage: its fields, and what they hold.

    Args:
        name: of the stage's records; of a name that is not known, only the key is checked.
        record: the values.

    Raises:
        InputError: if it is none, as where a file of something else lies in the folder.
    """
    shape = _SHAPES.get(name)
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise InputError(f"expected a record with a key, got {shown(record)}")
    if shape is None:
        return
    if foreign := sorted(set(record) - set(shape)):
        raise InputError(f"no record of the stage {name}: it has a field {shown(foreign[0])}")
    for field_name, good in shape.items():
        if field_name not in record:
            raise InputError(f"no record of the stage {name}: it has no field {field_name!r}")
        if not good(record[field_name]):
            raise InputError(f"no record of the stage {name}: its {field_name} is {shown(record[field_name])}")
