"""Noun phrases for records that bring none: looked up when an item is loaded, checked before training."""

from collections.abc import Sequence

from contextcir.errors import InputError
from contextcir.phrases.sources import PhraseSource
from data_modules.records import Evaluation, PhraseRecord, QueryRecord, TrainingSet


class RecordsWithPhrases(Sequence[QueryRecord]):
    """Records whose phrases are looked up when a record is taken, unless it has some.

    Args:
        records: of a training set or an evaluation.
        phrases: where to look.
    """

    def __init__(self, records: Sequence[QueryRecord], phrases: PhraseSource) -> None:
        self.records = records
        self.phrases = phrases
        self._last: tuple[int, QueryRecord] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> QueryRecord:
        """Return a record with phrases. The last one is cached, as loading an item takes it several times.

        Raises:
            InputError: if its phrases can't be had.
        """
        if self._last is None or self._last[0] != index:
            self._last = (index, self._look_up(index))
        return self._last[1]

    def _look_up(self, index: int) -> QueryRecord:
        record = self.records[index]
        if record.phrases:
            return record
        try:
            spans = self.phrases.find([record.caption])[0]
        except InputError as error:
            raise record.origin.error(error.without_setting(), setting=error.setting) from None
        except ValueError as error:  # of a parser
            raise record.origin.error(str(error)) from None
        return record._replace(phrases=tuple(PhraseRecord(*span) for span in spans))


def with_phrases(records: Sequence[QueryRecord], phrases: PhraseSource | None) -> Sequence[QueryRecord]:
    """Return the records with phrases where they have none; as they are if there is nowhere to look."""
    return records if phrases is None else RecordsWithPhrases(records, phrases)


def check_phrases(part: TrainingSet | Evaluation, phrases: PhraseSource | None) -> None:
    """Make sure that the phrases of all captions can be had, of which a training set may have hundreds of thousands.

    Raises:
        InputError: if some can't; the message says how many, the first, and the command that adds them.
        MissingFileError: if there is no bank.
    """
    records = () if phrases is None else part.records
    origins = {record.caption: record.origin for record in records if not record.phrases}
    missing = phrases.missing(origins) if phrases is not None and origins else []
    if phrases is not None and missing:
        files = list(dict.fromkeys(origins[caption].file for caption in missing))
        raise InputError(
            f"{len(missing):,} of {len(origins):,} captions without phrases, the first in {origins[missing[0]]}: "
            f"{phrases.complaint(missing[0], files)}"
        )
