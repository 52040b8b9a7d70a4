"""Rows of a fixed number of bytes, sorted in bounded memory: in runs on the disk, which are merged block by block.

The files have no names, so that a process that is killed leaves none behind.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from contextcir.files import writing

MOST = 1 << 20  # rows that are sorted at a time
BLOCK = 1 << 15  # rows that are read at a time
FENCE = 256  # rows between two that are kept in memory, by which a search begins

Rows = np.ndarray  # (n,) of the type "S<width>": numpy compares them byte by byte


class SortedRows:
    """Rows in order, in memory or in a file without a name.

    Args:
        rows: where they are in memory.
        file: where they are on the disk.
        width: bytes of a row.
    """

    def __init__(self, rows: Rows | None, file: IO[bytes] | None, width: int) -> None:
        self._rows = rows
        self._file = file
        self.width = width
        size = len(rows) if rows is not None else os.fstat(_number(file)).st_size // width
        self._length = size
        if rows is None:
            fences = [block[-start % FENCE :: FENCE].copy() for start, block in self.blocks()]  # a view keeps all
            self._fences = np.concatenate(fences) if fences else np.zeros(0, f"S{width}")

    def __len__(self) -> int:
        return self._length

    def part(self, start: int, stop: int) -> Rows:
        """Return the rows from one place up to another."""
        start, stop = max(0, start), min(stop, self._length)
        if self._rows is not None:
            return self._rows[start:stop]
        content = os.pread(_number(self._file), max(0, stop - start) * self.width, start * self.width)
        return np.frombuffer(content, f"S{self.width}")

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Rows]]:
        """Yield all rows as blocks, each with the place of its first row."""
        for start in range(0, self._length, size):
            yield start, self.part(start, start + size)

    def first(self, row: bytes) -> int:
        """Return the place of the first row that is not below ``row``."""
        wanted = np.bytes_(row)
        if self._rows is not None:
            return int(np.searchsorted(self._rows, wanted))
        fence = max(0, int(np.searchsorted(self._fences, wanted)) - 1) * FENCE
        return fence + int(np.searchsorted(self.part(fence, fence + FENCE), wanted))

    def close(self) -> None:
        """Give the disk's space back."""
        if self._file is not None:
            self._file.close()


def _number(file: IO[bytes] | None) -> int:
    if file is None:
        raise ValueError("these rows are in memory")
    return file.fileno()


class RowSorter:
    """Takes rows in any order, and gives them back sorted.

    Args:
        width: bytes of a row.
        scratch: folder on the disk for what does not fit; the system's for temporary files if it is None.
        most: rows in memory; beyond these the disk is used.
    """

    def __init__(self, width: int, scratch: Path | None = None, most: int = MOST) -> None:
        self.width = width
        self.most = most
        self._folder = Path(tempfile.gettempdir()) if scratch is None else scratch
        self._rows = bytearray()
        self._runs: list[IO[bytes]] = []

    def add(self, rows: bytes) -> None:
        """Take one row or several."""
        self._rows += rows
        if len(self._rows) >= self.most * self.width:
            self._write_run()

    def sorted(self) -> SortedRows:
        """Return all rows in order; the sorter is of no use afterwards.

        Raises:
            InputError: if the disk is full.
        """
        if not self._runs:
            return SortedRows(self._in_order(), None, self.width)
        self._write_run()
        merged = self._new_file()
        with writing(self._folder):
            for block in self._merged():
                merged.write(block.view(np.uint8).data)
            merged.flush()
        for run in self._runs:
            run.close()
        return SortedRows(None, merged, self.width)

    def _in_order(self) -> Rows:
        rows = np.frombuffer(self._rows, f"S{self.width}")  # in place: a copy would double the memory
        rows.sort()
        self._rows = bytearray()
        return rows

    def _write_run(self) -> None:
        if self._rows:
            run = self._new_file()
            with writing(self._folder):
                run.write(self._in_order().view(np.uint8).data)
                run.flush()
            self._runs.append(run)

    def _new_file(self) -> IO[bytes]:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self._folder)

    def _merged(self) -> Iterator[Rows]:
        """Yield the rows of all runs in order: those up to the least last row of the blocks at hand, and so on."""
        size = max(1, self.most // len(self._runs))
        runs = [SortedRows.blocks(_Run(run, self.width), size) for run in self._runs]
        hand = [next(run)[1] for run in runs]
        while hand:
            bound = min(block[-1] for block in hand)
            cuts = [int(np.searchsorted(block, bound, "right")) for block in hand]
            out = np.concatenate([block[:cut] for block, cut in zip(hand, cuts, strict=True)])
            out.sort()
            yield out
            for place, cut in enumerate(cuts):
                hand[place] = hand[place][cut:]
                if not len(hand[place]):
                    with suppress(StopIteration):
                        hand[place] = next(runs[place])[1]
            left = [place for place, block in enumerate(hand) if len(block)]
            hand, runs = [hand[place] for place in left], [runs[place] for place in left]


class _Run(SortedRows):
    """A run on its way into a merge: nothing is searched in it, so it keeps no rows in memory."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        self._rows = None
        self._file = file
        self.width = width
        self._length = os.fstat(file.fileno()).st_size // width
