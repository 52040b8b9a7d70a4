"""Images that are there several times: which of them is kept, the first."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contextcir.synthesis.mining.images import Bytes

BITS = 64
BLOCK = 8192


class DuplicateRule(ABC):
    """Says which images are as good as one before them."""

    @abstractmethod
    def originals(self, digests: Bytes, prints: Bytes) -> NDArray[np.int64]:
        """Return for every image the place of the one that stands for it, its own where it is kept.

        Args:
            digests: (n, 16) hashes of the files.
            prints: (n, 8) perceptual hashes.
        """


class SameFile(DuplicateRule):
    """Files with the same bytes."""

    def originals(self, digests: Bytes, prints: Bytes) -> NDArray[np.int64]:
        return _first_equal(digests)


class NearDuplicates(DuplicateRule):
    """Files with the same bytes, and images whose perceptual hashes of 64 bits differ in few.

    In order, an image is kept if its hash is far enough from those of all that are kept before it. Hashes within n bits
    of each other have one of n + 1 parts in common (faiss: IndexBinaryMultiHash): only those are compared.

    Args:
        bits: in which the hashes of near-duplicates differ at most, 0 to 15.
    """

    def __init__(self, bits: int = 4) -> None:
        if not 0 <= bits <= 15:
            raise ValueError(f"bits must be from 0 to 15, got {bits}: change --pairs.duplicates.bits")
        self.bits = bits

    def originals(self, digests: Bytes, prints: Bytes) -> NDArray[np.int64]:
        same = _first_equal(prints)  # files with the same bytes are among them
        if not self.bits:
            return same
        distinct = np.flatnonzero(same == np.arange(len(same)))  # (m,) places whose hash comes for the first time
        stands = np.arange(len(distinct))
        for place, near in _neighbourhoods(prints[distinct], self.bits):
            kept = [other for other in near if other < place and stands[other] == other]
            if kept:
                stands[place] = min(kept)
        number = np.searchsorted(distinct, same)  # of every image's hash among the distinct ones
        return distinct[stands[number]]


def _first_equal(rows: Bytes) -> NDArray[np.int64]:
    """Return for each row (n, W) the place of the first row with the same bytes."""
    packed = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()  # (n,)
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    return first[inverse]


def _neighbourhoods(prints: Bytes, bits: int) -> Any:
    """Yield, in order, each place and those whose hashes are within so many bits of its own, where there are any."""
    try:
        import faiss  # of the extra `synthesis`
    except ImportError:
        raise ValueError(
            "near-duplicates need faiss: pip install -e '.[synthesis]', or set --pairs.duplicates=SameFile"
        ) from None
    index = faiss.IndexBinaryMultiHash(BITS, bits + 1, BITS // (bits + 1))
    index.nflip = 0
    index.add(prints)
    for start in range(0, len(prints), BLOCK):
        limits, _, found = index.range_search(prints[start : start + BLOCK], bits + 1)
        counts = np.diff(limits)
        for row in np.flatnonzero(counts > 1):
            yield start + int(row), found[limits[row] : limits[row + 1]].tolist()
