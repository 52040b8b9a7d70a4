"""Noun phrases and clauses for records that bring none: looked up when an item is loaded, checked before training."""

import itertools
import shlex
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from contextcir.errors import LONGEST, InputError
from contextcir.phrases.sources import PhraseSource
from data_modules.columns import blocks, filled, first_without
from data_modules.records import Evaluation, Origin, PhraseRecord, QueryRecord, TrainingSet


class RecordsWithPhrases(Sequence[QueryRecord]):
    """Records whose phrases and clauses are looked up when a record is taken, unless it has some.

    A caption that the source lacks is an error for a record without phrases; one with phrases stays without clauses.

    Args:
        records: of a training set or an evaluation.
        phrases: where to look.
        clauses: whether clauses are needed; without, nothing is looked up for records that bring phrases.
    """

    def __init__(self, records: Sequence[QueryRecord], phrases: PhraseSource, clauses: bool = True) -> None:
        self.records = records
        self.phrases = phrases
        self.clauses = clauses
        self._last: tuple[int, QueryRecord] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> QueryRecord:
        """Return a record with phrases and clauses. The last one is cached, as loading an item takes it several times.

        Raises:
            InputError: if its phrases can't be had.
        """
        if self._last is None or self._last[0] != index:
            self._last = (index, self._look_up(index))
        return self._last[1]

    def _look_up(self, index: int) -> QueryRecord:
        record = self.records[index]
        if record.phrases and (record.clauses or not self.clauses or not self.phrases.has(record.caption)):
            return record
        try:
            found = self.phrases.find([record.caption])[0]
        except InputError as error:
            raise record.origin.error(error.without_setting(), setting=error.setting) from None
        except ValueError as error:  # of a parser
            raise record.origin.error(str(error)) from None
        phrases = record.phrases or tuple(PhraseRecord(*span) for span in found.phrases)
        return record._replace(phrases=phrases, clauses=record.clauses or found.clauses)


def with_phrases(
    records: Sequence[QueryRecord], phrases: PhraseSource | None, clauses: bool = True
) -> Sequence[QueryRecord]:
    """Return the records with phrases and clauses where they have none; as they are if there is nowhere to look."""
    return records if phrases is None else RecordsWithPhrases(records, phrases, clauses)


def phrases_to_train_on(training: TrainingSet, scored: Sequence[Evaluation], loss: Any | None) -> None:
    """Make sure that a concept loss has phrases, where the records are their only source; warn if only some have any.

    Args:
        training: what is trained on.
        scored: what is evaluated in between; a bank for the training has to hold its captions too.
        loss: the concept loss of the model; None, or one of weight 0 or on composed queries, needs no phrases.

    Raises:
        InputError: if no record has a phrase; the message has the commands that make a bank and train with it.
    """
    if loss is None or not loss.weight or not loss.needs_phrases:
        return
    total = len(training.records)
    without = total - filled(training.records, "phrases")
    if without and without == total:
        parts = [training.records, *(part.records for part in scored)]
        files = dict.fromkeys(record.origin.file for records in parts for record in records[:1] if record.origin.file)
        raise _nothing_to_compare(without, list(files), type(loss).__name__)
    if without:
        rank_zero_warn(
            f"{without:,} of {total:,} training captions have no noun phrases, the first is that "
            f"of {first_without(training.records, 'phrases').origin}: {type(loss).__name__} does not see them"
        )


def _nothing_to_compare(count: int, files: Sequence[str], loss: str) -> InputError:
    prefix, suffix = _common(files), _common([file[::-1] for file in files])[::-1]
    several = f"{shlex.quote(prefix)}*{suffix and shlex.quote(suffix)}"
    if len(files) == 1 or "/" in suffix:
        several = "FILE..."
    # Two commands with long paths might not fit into a message.
    for captions in (" ".join(map(shlex.quote, files)), several, "FILE..."):
        error = InputError(
            f"none of {count:,} captions has noun phrases for {loss}: `python -m experiments.phrases --captions "
            f"{captions} --parser stanza --out datasets/phrases.bank`, then fit with `--config overlays/phrase_bank`",
            setting="data.phrases",
        )
        if len(f"error: {error.describe()}") + 2 <= LONGEST:
            break
    return error


def _common(texts: Sequence[str]) -> str:
    """Return what texts have in common at their beginnings."""
    equal = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in equal)


def reads_clauses(model: Any) -> bool:
    """Tell whether a model composes, or is trained, with the clauses of captions."""
    reads = getattr(getattr(model, "fusion", None), "reads_clauses", False)
    concept = getattr(model, "concept", None)
    return bool(reads or getattr(concept, "reads_clauses", not getattr(concept, "needs_phrases", True)))


def clauses_to_read(parts: Sequence[TrainingSet | Evaluation], phrases: PhraseSource | None) -> None:
    """Make sure that a model that reads clauses gets some; warn if nothing gives any.

    Args:
        parts: what is trained on or evaluated.
        phrases: where clauses are looked up.

    Raises:
        InputError: if the source has phrases only.
    """
    if phrases is not None:
        phrases.check_clauses()
        return
    total = sum(len(part.records) for part in parts)
    without = total - sum(filled(part.records, "clauses") for part in parts)
    if without:
        first = next(filter(None, (first_without(part.records, "clauses") for part in parts)))
        rank_zero_warn(
            f"the fusion reads clauses, but {without:,} of {total:,} captions have none, the first is that "
            f"of {first.origin}: each is one clause as a whole; data.phrases says where to find them "
            "(docs/phrase_bank.md)"
        )


def check_phrases(part: TrainingSet | Evaluation, phrases: PhraseSource | None, clauses: bool = False) -> None:
    """Make sure that the phrases of all captions can be had, of which a training set may have hundreds of thousands.

    Args:
        part: what is trained on or evaluated.
        phrases: where to look.
        clauses: whether the clauses of all captions are needed, too.

    Raises:
        InputError: if some can't; the message says how many, the first, and the command that adds them.
        MissingFileError: if there is no bank.
    """
    if phrases is None:
        return
    count, missing = 0, dict[str, Origin]()
    for block in blocks(part.records):
        lacking = [record for record in block if not record.phrases or (clauses and not record.clauses)]
        origins = {record.caption: record.origin for record in lacking}
        count += len(origins)
        missing |= {caption: origins[caption] for caption in (phrases.missing(origins) if origins else ())}
    if missing:
        files = list(dict.fromkeys(origin.file for origin in missing.values()))
        what = "phrases or clauses" if clauses else "phrases"
        first = next(iter(missing))
        raise InputError(
            f"{len(missing):,} of {count:,} captions without {what}, the first in {missing[first]}: "
            f"{phrases.complaint(first, files)}"
        )
