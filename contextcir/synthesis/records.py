"""What travels between the stages of a synthesis: plain records that go to shards as JSON and come back equal."""

from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

Record = TypeVar("Record", bound="Stored")


class Stored:
    """A record with a ``key`` that no other record of its stage has."""

    key: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
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
    two images' embeddings, None where nobody computed it. ``source``: where the pair is from ("mined", "cirr", ...).
    """

    key: str
    reference: str
    target: str
    image_set: tuple[str, ...] = ()
    similarity: float | None = None
    source: str = "mined"


@dataclass(frozen=True)
class Description(Stored):
    """What is on the two images of a pair: for each object, by its name, its descriptors.

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
    """What the filters found for an instruction: ``reason`` is None for those that are kept."""

    key: str  # of the instruction
    reason: str | None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure(Stored):
    """A request that got no usable answer, after all retries: it is not asked again, unless the user asks for that."""

    key: str  # of the pair
    stage: str
    reason: str  # a word or two, counted in the data card
    detail: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)  # model, tokens, cost: failures are paid for
