"""Duplicate images: of those that are the same, the first is kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from contextcir.checks import whole
from contextcir.synthesis.mining.images import Bytes
from contextcir.synthesis.mining.search import load_faiss

BITS = 64
BLOCK = 8192


class DuplicateRule(ABC):
    """Decides which images are duplicates of earlier ones."""

    @abstractmethod
    def originals(self, digests: Bytes, prints: Bytes) -> NDArray[np.int64]:
        """Return for every image the position of its original, its own where it is kept.

        Args:
            digests: (n, 16) hashes of the files.
            prints: (n, 8) perceptual hashes.
        """


class SameFile(DuplicateRule):
    """Files with the same bytes."""

    def originals(self, digests: Bytes, prints: Bytes) -> NDArray[np.int64]:
        return _first_equal(digests)


class NearDuplicates(DuplicateRule):
    """Files with the same bytes, and images whose perceptual hashes of 64 bits differ in a few bits.

    In order, an image is kept if its hash is far enough from the hashes of all images kept before it. Hashes within n
    bits of each other agree in one of n + 1 parts (faiss: IndexBinaryMultiHash): only those are compared.

    Args:
        bits: in which the hashes of near-duplicates differ at most, 0 to 15.
    """

    def __init__(self, bits: int = 4) -> None:
        self.bits = whole(bits, 0, "pairs.duplicates.bits", 15)

    def originals(self, digests: Bytes, prints: Bytes) -> NDArray[np.int64]:
        same = _first_equal(prints)  # files with the same bytes are among them
        if not self.bits:
            return same
        distinct = np.flatnonzero(same == np.arange(len(same)))  # (m,) positions of hashes that come for the first time
        original = np.arange(len(distinct))
        for position, near in _neighbourhoods(prints[distinct], self.bits):
            kept = [other for other in near if other < position and original[other] == other]
            if kept:
                original[position] = min(kept)
        rank = np.searchsorted(distinct, same)  # of every image's hash among the distinct ones
        return distinct[original[rank]]


def _first_equal(rows: Bytes) -> NDArray[np.int64]:
    """Return for each row (n, W) the position of the first row with the same bytes."""
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()  # (n,)
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    return first[inverse]


def _neighbourhoods(prints: Bytes, bits: int) -> Iterator[tuple[int, list[int]]]:
    """Yield, in order, each position and those of hashes within so many bits of its own, where there are any."""
    faiss = load_faiss("a search for near-duplicates", "pairs.duplicates", "SameFile")
    index = faiss.IndexBinaryMultiHash(BITS, bits + 1, BITS // (bits + 1))
    index.nflip = 0
    index.add(prints)
    for start in range(0, len(prints), BLOCK):
        limits, _, neighbours = index.range_search(prints[start : start + BLOCK], bits + 1)
        for row in np.flatnonzero(np.diff(limits) > 1):
            yield start + int(row), neighbours[limits[row] : limits[row + 1]].tolist()
