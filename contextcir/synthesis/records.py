"""The records that stages of a synthesis hand on: plain values, written to shards as JSON and read back equal."""

from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

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
