"""Records of a benchmark: what its annotation files say, before any image is read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from contextcir.errors import InputError
from contextcir.evaluation.protocol import Protocol
from contextcir.phrases.parser import Span

Box = tuple[float, float, float, float]


class Origin(NamedTuple):
    """Where a record was read, in the words by which a user finds it again.

    ``position``: in the file, from 0. ``identity``: its key there, e.g. ``pairid 5``; None for records without a key.
    """

    file: str = ""
    position: int = 0
    identity: str | None = None

    def __str__(self) -> str:
        known = "" if self.identity is None else f" ({self.identity})"
        return f"record {self.position}{known} of {self.file}"

    def error(self, problem: str, field: str | None = None, setting: str | None = None) -> InputError:
        """Return the error that something is wrong with the record."""
        return InputError(
            problem, file=self.file, record=self.position, identity=self.identity, field=field, setting=setting
        )


class PhraseRecord(NamedTuple):
    """A noun phrase: characters ``[start, end)`` of the caption as the tokenizer sees it (`Tokenizer.clean`).

    ``box``: where its object is in the reference image, ``x0, y0, x1, y1`` in pixels of the original, if known.
    """

    start: int
    end: int
    box: Box | None = None


class QueryRecord(NamedTuple):
    """A query of a benchmark, and its target where there is one to train on.

    ``id``: the benchmark's own key, or the position in the file where records have none. ``image_set``: images of one
    set look alike. ``image_size``: width and height of the image that the boxes refer to; None for that of the file.
    ``clauses``: the parts of the caption that ask for one change each, as those of a `Parse`; () where not known.
    ``negatives``: images that look like answers and are none, to train against.
    """

    reference: str
    caption: str
    phrases: tuple[PhraseRecord, ...] = ()
    target: str | None = None
    id: int = 0
    image_set: int | None = None
    image_size: tuple[int, int] | None = None
    origin: Origin = Origin()
    clauses: tuple[Span, ...] = ()
    negatives: tuple[str, ...] = ()


class TrainingSet(NamedTuple):
    """Triplets to train on. ``image_paths``: listed path of every image by name. ``file``: where they come from.

    ``records`` are a tuple, or made when they are taken (`data_modules.columns.LazyRecords`).
    ``image_sets``: the names of the images of each set that the annotations tell; a set's images look alike.
    """

    records: Sequence[QueryRecord]
    image_paths: Mapping[str, str]
    file: str
    image_sets: tuple[tuple[str, ...], ...] = ()


class Evaluation(NamedTuple):
    """A protocol and the queries that it scores, in its order. ``image_paths``: listed path of every image by name."""

    protocol: Protocol
    records: tuple[QueryRecord, ...]
    image_paths: Mapping[str, str]
