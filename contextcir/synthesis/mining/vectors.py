"""Embeddings on the disk, read in blocks, so that memory does not grow with their number."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK = 16_384  # rows that are in memory at a time

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Vectors:
    """Rows of a matrix (N, D) of normalised half-precision vectors in a ``.npy`` file, or some of them.

    The file is mapped anew for every block: pages of a mapping that stays count as memory of the process.

    Args:
        path: the file.
        rows: which rows, in rising order; None for all.
    """

    def __init__(self, path: Path, rows: Rows | None = None) -> None:
        self.path = path
        total, self.dim = np.load(path, mmap_mode="r").shape
        self.rows = np.arange(total) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Rows | slice) -> Floats:
        """Return the vectors at some places, (n, D), in single precision."""
        return np.load(self.path, mmap_mode="r")[self.rows[places]].astype(np.float32)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """Yield all vectors in order: where a block begins, and the block (n, D)."""
        for start in range(0, len(self), size):
            yield start, self.take(slice(start, start + size))
