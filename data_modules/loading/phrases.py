"""Noun phrases for records that bring none: looked up when an item is loaded, made sure of before."""

from collections.abc import Sequence

from contextcir.phrases.sources import PhraseSource
from data_modules.records import Evaluation, PhraseRecord, QueryRecord, Source, TrainingSet


class FilledRecords(Sequence[QueryRecord]):
    """Records whose phrases are looked up when a record is asked for, unless it has some.

    Args:
        records: of a training set or an evaluation.
        phrases: where to look.
        source: where the records come from, for error messages.
    """

    def __init__(self, records: Sequence[QueryRecord], phrases: PhraseSource, source: Source) -> None:
        self.records = records
        self.phrases = phrases
        self.source = source
        self._last: tuple[int, QueryRecord] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> QueryRecord:
        """Return a record with phrases. The last one is kept, as loading an item asks for it several times.

        Raises:
            ValueError, FileNotFoundError: if its phrases can't be had.
        """
        if self._last is None or self._last[0] != index:
            self._last = (index, self._filled(index))
        return self._last[1]

    def _filled(self, index: int) -> QueryRecord:
        record = self.records[index]
        if record.phrases:
            return record
        try:
            spans = self.phrases.find([record.caption])[0]
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{self.source.name(index, record.id)}: {error}") from None
        return record._replace(phrases=tuple(PhraseRecord(*span) for span in spans))


def with_phrases(records: Sequence[QueryRecord], phrases: PhraseSource | None, source: Source) -> Sequence[QueryRecord]:
    """Return the records with phrases where they have none; as they are if there is nowhere to look."""
    return records if phrases is None else FilledRecords(records, phrases, source)


def check_phrases(part: TrainingSet | Evaluation, phrases: PhraseSource | None) -> None:
    """Make sure that the phrases of all captions can be had, of which a training set may have hundreds of thousands.

    Raises:
        ValueError: if some can't; the message says how many, the first, and the command that adds them.
        FileNotFoundError: if there is no bank.
    """
    records = () if phrases is None else part.records
    places = {record.caption: position for position, record in enumerate(records) if not record.phrases}
    missing = phrases.missing(places) if places else []
    if missing:
        names = [part.source.name(places[caption], records[places[caption]].id) for caption in missing]
        files = list(dict.fromkeys(name.partition(" of ")[2] for name in names))
        raise ValueError(
            f"{len(missing):,} of {len(places):,} captions without phrases, the first in {names[0]}: "
            f"{phrases.complaint(missing[0], files)}"
        )
