"""Filters of repetition: texts that came before, and texts that describe what does not change.

Words about unchanged things fit the reference as well as the target, so they tell a retriever nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextcir.checks import whole
from contextcir.files import stable_hash
from contextcir.shards.rows import RowSorter, SortedRows
from contextcir.synthesis.filters.base import Candidate, Filter, Finding
from contextcir.synthesis.records import Description, Instruction

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
HASH = 8  # bytes of the hashes of texts and keys
Words = tuple[str, ...]


class LeaksNothing(Filter):
    """Rejects texts that repeat descriptors of objects which are the same in both descriptions.

    A descriptor counts if one of its words is in no name or descriptor of the objects that change. A descriptor of
    several words is a leak by itself; of those of a single word, which may be needed to tell two objects apart, two of
    the same object are. The bare name of an object is no leak.
    """

    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        return [
            Finding("leaks unchanged" if leaked(candidate.instruction.caption, candidate.description) else None)
            for candidate in candidates
        ]


def leaked(caption: str, description: Description) -> list[str]:
    """Return the descriptors of unchanged objects that a text repeats, if they are enough to reject it."""
    caption_words = words(caption)
    same, changed = _same_and_changed(description)
    texts = [text for entry in changed for text in (entry["object"], *entry["descriptors"])]
    changed_words = {word for text in texts for word in words(text)}
    for entry in same:
        single = []
        for descriptor in entry["descriptors"]:
            parts = words(descriptor)
            if not set(parts) - changed_words or not contains(caption_words, parts):
                continue
            if len(parts) > 1:
                return [descriptor]
            single.append(descriptor)
        if len(single) > 1:
            return single
    return []


def words(text: str) -> Words:
    """Return the words of a text in lower case, without punctuation."""
    return tuple(WORD.findall(text.lower()))


def contains(text: Words, part: Words) -> bool:
    """Tell whether a text has these words in a row."""
    return any(text[start : start + len(part)] == part for start in range(len(text) - len(part) + 1))


def _same_and_changed(description: Description) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the objects that look the same on both images, and all others of either image."""
    left = Counter(map(_look, description.target))
    same: list[Mapping[str, Any]] = []
    changed: list[Mapping[str, Any]] = []
    for entry in description.reference:
        alike = left[_look(entry)] > 0
        left[_look(entry)] -= alike
        (same if alike else changed).append(entry)
    for entry in description.target:
        if left[_look(entry)] > 0:
            left[_look(entry)] -= 1
            changed.append(entry)
    return same, changed


def _look(entry: Mapping[str, Any]) -> tuple[Words, frozenset[Words]]:
    return words(entry["object"]), frozenset(map(words, entry["descriptors"]))


@dataclass(frozen=True)
class Duplicates:
    """How often a text may occur; texts are compared by their words in lower case.

    Args:
        per_run: How many pairs may have the same text; null for any number. The hashes of their keys decide which
            pairs keep it, so that neither the order of answers nor shards matter.
    """

    per_run: int | None = 10

    def __post_init__(self) -> None:
        if self.per_run is not None:
            whole(self.per_run, 1, "duplicates.per_run")

    def find(self, instructions: Iterable[Instruction]) -> "Repeated":
        """Return which instructions occur too often.

        Args:
            instructions: all of a run, those of a pair one after the other.
        """
        again, all_texts = RowSorter(HASH), RowSorter(2 * HASH)
        for instruction, repeated in _marked(instructions):
            key = stable_hash(instruction.key).to_bytes(HASH, "big")
            if repeated:
                again.add(key)
            elif self.per_run is not None:
                all_texts.add(stable_hash(" ".join(words(instruction.caption))).to_bytes(HASH, "big") + key)
        return Repeated(again.sorted(), _beyond(all_texts.sorted(), self.per_run or 0))


@dataclass(frozen=True)
class Repeated:
    """Instructions that occur too often, in a pair or in a run: sorted hashes of their keys, on the disk if many."""

    in_pair: SortedRows
    in_run: SortedRows

    def reason(self, key: str) -> str | None:
        """Return why the instruction with this key is rejected, or None."""
        name = stable_hash(key).to_bytes(HASH, "big")
        if _holds(self.in_pair, name):
            return "duplicate in pair"
        return "duplicate in run" if _holds(self.in_run, name) else None


def _holds(rows: SortedRows, row: bytes) -> bool:
    start = rows.first(row) if len(rows) else 0
    return rows.part(start, start + 1).tobytes() == row


def _beyond(table: SortedRows, most: int) -> SortedRows:
    """Return all but the ``most`` lowest key hashes of each text; ``table``: hashes of texts, each with its key's."""
    beyond = RowSorter(HASH)
    text, rank = b"", 0
    for _, block in table.blocks():
        content = block.tobytes()
        for start in range(0, len(content), 2 * HASH):
            now = content[start : start + HASH]
            text, rank = (text, rank + 1) if now == text else (now, 0)
            if rank >= most:
                beyond.add(content[start + HASH : start + 2 * HASH])
    return beyond.sorted()


def _marked(instructions: Iterable[Instruction]) -> Iterator[tuple[Instruction, bool]]:
    """Yield instructions, and whether their pair had the same text before."""
    pair: str | None = None
    known: set[Words] = set()
    for instruction in instructions:
        if instruction.pair != pair:
            pair, known = instruction.pair, set()
        text = words(instruction.caption)
        yield instruction, text in known
        known.add(text)
