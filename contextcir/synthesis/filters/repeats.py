"""A filter for texts that describe what does not change: such words fit the reference as well as the target.

Texts that came more than once: for the same pair, or too often over the whole run.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from contextcir.synthesis.filters.base import Candidate, Filter, Finding
from contextcir.synthesis.records import Description, Instruction

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
Words = tuple[str, ...]


class LeaksNothing(Filter):
    """Rejects texts that repeat descriptors of things that are the same in both descriptions.

    A descriptor counts if some word of it is nowhere in the names and descriptors of the things that do change. One of
    several words is a leak by itself; of those of a single word, which may be there to tell two things apart, two of
    the same thing are. The bare name of a thing is none.
    """

    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        return [
            Finding("leaks unchanged" if leaked(candidate.instruction.caption, candidate.description) else None)
            for candidate in candidates
        ]


def leaked(caption: str, description: Description) -> list[str]:
    """Return the descriptors of unchanged things that a text repeats, if they are enough to reject it."""
    said = words(caption)
    same, changed = _parts(description)
    texts = [text for entry in changed for text in (entry["object"], *entry["descriptors"])]
    of_changed = {word for text in texts for word in words(text)}
    for entry in same:
        single = []
        for descriptor in entry["descriptors"]:
            wanted = words(descriptor)
            if not set(wanted) - of_changed or not contains(said, wanted):
                continue
            if len(wanted) > 1:
                return [descriptor]
            single.append(descriptor)
        if len(single) > 1:
            return single
    return []


def words(text: str) -> Words:
    """Return the words of a text in lower case, without punctuation."""
    return tuple(WORD.findall(text.lower()))


def contains(text: Words, part: Words) -> bool:
    """Whether words stand in a text, one after the other."""
    return any(text[start : start + len(part)] == part for start in range(len(text) - len(part) + 1))


def _parts(description: Description) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the things that both images have alike, and all others of either image."""
    left = Counter(map(_look, description.target))
    same, changed = [], []
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
    return words(entry["object"]), frozenset(_all_words(entry["descriptors"]))


def _all_words(texts: Iterable[str]) -> Iterable[Words]:
    return map(words, texts)


CHUNK = 65_536


@dataclass(frozen=True)
class Duplicates:
    """How often a text may come; texts are compared by their words, in lower case.

    Args:
        per_run: How many pairs may have the same text; null for any number. Which of them keep it is drawn by their
            keys, so it does not depend on the order in which they were answered, or on shards.
    """

    per_run: int | None = 10

    def __post_init__(self) -> None:
        if self.per_run is not None and self.per_run < 1:
            raise ValueError(f"--duplicates.per_run must be at least 1, or null, got {self.per_run}")

    def find(self, instructions: Iterable[Instruction]) -> "Found":
        """Return which instructions come too often.

        Args:
            instructions: all of a run, those of a pair one after the other.
        """
        repeated = set()
        rows: list[np.ndarray] = []  # (2, up to CHUNK): digests of texts and keys, for millions of them
        texts: list[int] = []
        keys: list[int] = []
        for instruction, again in _marked(instructions):
            if again:
                repeated.add(instruction.key)
                continue
            texts.append(digest(" ".join(words(instruction.caption))))
            keys.append(digest(instruction.key))
            if len(texts) == CHUNK:
                rows.append(np.array([texts, keys], np.uint64))
                texts, keys = [], []
        rows.append(np.array([texts, keys], np.uint64))
        table = np.concatenate(rows, axis=1)  # (2, N)
        return Found(repeated, set() if self.per_run is None else _beyond(table, self.per_run))


@dataclass(frozen=True)
class Found:
    """Instructions that come too often: keys, and digests of keys."""

    in_pair: set[str]
    in_run: set[int]

    def reason(self, key: str) -> str | None:
        """Return why the instruction with this key is rejected, or None."""
        if key in self.in_pair:
            return "duplicate in pair"
        return "duplicate in run" if self.in_run and digest(key) in self.in_run else None


def digest(text: str) -> int:
    """Return a number below 2**64 for a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _beyond(table: np.ndarray, most: int) -> set[int]:
    """Return the key digests of all but the ``most`` lowest ones of each text; ``table`` (2, N): texts, keys."""
    texts, keys = table[:, np.lexsort((table[1], table[0]))]  # (N,) each, sorted by text, then by key
    first = np.flatnonzero(np.r_[True, texts[1:] != texts[:-1]]) if len(texts) else np.zeros(0, int)
    sizes = np.diff(np.r_[first, len(texts)])
    rank = np.arange(len(texts)) - np.repeat(first, sizes)  # (N,) place among those of the same text
    return set(map(int, keys[rank >= most]))


def _marked(instructions: Iterable[Instruction]) -> Iterator[tuple[Instruction, bool]]:
    """Yield instructions, and whether their pair had the same text before."""
    pair, known = None, set()
    for instruction in instructions:
        if instruction.pair != pair:
            pair, known = instruction.pair, set()
        text = words(instruction.caption)
        yield instruction, text in known
        known.add(text)
