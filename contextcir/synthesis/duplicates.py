"""Texts that came more than once: for the same pair, or too often over the whole run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from contextcir.synthesis.leaks import words
from contextcir.synthesis.records import Instruction

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
