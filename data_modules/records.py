"""Records of a benchmark: what its annotation files say, before any image is read."""

from collections.abc import Mapping
from typing import NamedTuple

from contextcir.evaluation.protocol import Protocol

Box = tuple[float, float, float, float]


class Source(NamedTuple):
    """Where records were read: the file, and the field that identifies them there."""

    file: str
    key: str

    def name(self, position: int, identity: int | None) -> str:
        """Return the words by which a user finds a record again."""
        known = "" if identity is None else f" ({self.key} {identity})"
        return f"record {position}{known} of {self.file}"


class PhraseRecord(NamedTuple):
    """A noun phrase: characters ``[start, end)`` of the caption as the tokenizer sees it (`Tokenizer.clean`).

    ``box``: where its object is in the reference image, ``x0, y0, x1, y1`` in pixels of the original, if known.
    """

    start: int
    end: int
    box: Box | None = None


class QueryRecord(NamedTuple):
    """A query of a benchmark, and its target where there is one to train on.

    ``id``: the benchmark's own key. ``image_set``: images of one set look alike. ``image_size``: width and height of
    the image that the boxes refer to; None for that of the file.
    """

    reference: str
    caption: str
    phrases: tuple[PhraseRecord, ...] = ()
    target: str | None = None
    id: int = 0
    image_set: int | None = None
    image_size: tuple[int, int] | None = None


class TrainingSet(NamedTuple):
    """Triplets to train on. ``image_paths``: listed path of every image by name."""

    records: tuple[QueryRecord, ...]
    image_paths: Mapping[str, str]
    source: Source


class Evaluation(NamedTuple):
    """A protocol and the queries that it scores, in its order. ``image_paths``: listed path of every image by name."""

    protocol: Protocol
    records: tuple[QueryRecord, ...]
    image_paths: Mapping[str, str]
    source: Source
