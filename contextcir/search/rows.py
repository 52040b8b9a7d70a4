"""The embeddings of an index on disk, in half precision, and the exact search among them.

The file is read in blocks, not mapped. A file that shrinks would end a process that maps it, and mapped pages count as
memory of the process: a million embeddings of 512 numbers are 1 GB. What was read lately is in the system's cache, so
a search costs a copy of it, in pieces that fit into the processor's cache.
"""

import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from contextcir.embeddings import reserve, write_rows
from contextcir.errors import InputError

BLOCK = 2**20  # bytes that are read at a time
BLOCKS = 32  # after which the best rows are picked
QUERIES = 64  # of a pass over the file
SPARSE = 16  # a row that is read by itself costs as much as this many rows of a block
LEAST = torch.finfo(torch.float32).min
ROUNDING = 2.0**-24  # of a number in single precision, relative

REMEDY = "delete the folder of the index, and index the images again"

Rows = np.ndarray  # (N,) int64


class Best(NamedTuple):
    """A row that was found, its score, and the CRC-32 of its bytes as they were read."""

    row: int
    score: float
    crc: int


class HalfRows:
    """A file of vectors (E,) in half precision, one after the other.

    Reading is safe in several threads, and while rows are written that the readers don't ask for.

    Args:
        path: of the file; it may not be there yet.
        width: E.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width, self.size = path, width, 2 * width
        self._lock = threading.Lock()
        self._open: int | None = None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._open is not None:
                os.close(self._open)
                self._open = None

    def require(self, count: int) -> None:
        """Raise InputError if the file has fewer than ``count`` rows."""
        if count and os.fstat(self._file()).st_size < count * self.size:
            raise self._cut_off()

    def write(self, rows: Rows, vectors: np.ndarray) -> None:
        """Store vectors (N, E) float16 in these rows, and wait until they are on disk.

        Raises:
            InputError: if there is no room for them.
        """
        if len(rows):
            reserve(self.path, (int(rows.max()) + 1) * self.size)
            write_rows(self.path, rows, vectors)

    def read(self, rows: Rows) -> np.ndarray:
        """Return vectors (N, E) float16.

        Raises:
            InputError: if the file was cut off.
        """
        found = np.empty((len(rows), self.width), np.float16)
        for place, row in enumerate(rows.tolist()):
            self._read(found[place : place + 1], row)
        return found

    def best(self, queries: Tensor, wanted: np.ndarray, count: int) -> Iterator[list["Best"]]:
        """Yield for each query (Q, E) the rows of its ``count`` best vectors.

        The best one comes first. All vectors whose score equals the last one's are there, so they may be more than
        ``count``. A score is the product with the stored vector, computed in double precision and rounded to single: it
        depends neither on the other queries nor on the place of the row, and equal vectors have equal scores. Half
        precision changes it by 2^-11 of itself at most.

        Args:
            queries: in single precision, L2-normalised.
            wanted: (N,) bool, rows that are looked at.
            count: at least 1.

        Raises:
            InputError: if the file was cut off.
        """
        for part in queries.split(QUERIES) if len(queries) else ():
            for query, rows in zip(part, self._candidates(part, wanted, count), strict=True):
                found = sorted(self._exact(query, rows), key=lambda one: -one.score)
                yield [one for one in found if len(found) <= count or one.score >= found[count - 1].score]

    def _candidates(self, queries: Tensor, wanted: np.ndarray, count: int) -> list[Rows]:
        """Return for each query the rows among which its best are: by scores in single precision, with a margin.

        The margin is twice the largest error of a product of unit vectors: Higham, Accuracy and Stability of Numerical
        Algorithms, equation 3.5.
        """
        margin = 2.01 * self.width * ROUNDING
        pools = [(torch.empty(0), torch.empty(0, dtype=torch.int64)) for _ in queries]
        floors = [LEAST] * len(queries)
        for begin, scores in self._scores(queries, wanted):
            if min(floors) == LEAST and scores.shape[1] > count:
                floors = (scores.topk(count).values[:, -1] - margin).clamp(min=LEAST).tolist()
            for place, (values, rows) in enumerate(pools):
                chosen = (scores[place] >= floors[place]).nonzero().squeeze(1)
                if not len(chosen):
                    continue
                values, rows = torch.cat((values, scores[place, chosen])), torch.cat((rows, chosen + begin))
                if len(values) > count:
                    floors[place] = float(values.topk(count).values[-1]) - margin
                    good = values >= floors[place]
                    values, rows = values[good], rows[good]
                pools[place] = values, rows
        return [rows.numpy() for _, rows in pools]

    def _scores(self, queries: Tensor, wanted: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        """Yield a row and the scores (Q, R) of it and those after it; rows that are not wanted have -inf."""
        length = max(1, BLOCK // self.size)
        halves, floats = torch.empty(length, self.width, dtype=torch.half), torch.empty(length, self.width)
        content, columns = halves.numpy(), queries.T.contiguous()
        everything = bool(wanted.all())
        for begin in range(0, len(wanted), BLOCKS * length):
            end = min(begin + BLOCKS * length, len(wanted))
            scores = torch.full((len(queries), end - begin), -torch.inf)
            for start in range(begin, end, length):
                first, number = start, min(length, end - start)
                if not everything:
                    places = wanted[start : start + length].nonzero()[0]
                    if not len(places):
                        continue
                    first, number = start + int(places[0]), int(places[-1] - places[0]) + 1
                    if len(places) * SPARSE < number:
                        vectors = torch.from_numpy(self.read(start + places)).float()
                        scores[:, torch.from_numpy(start - begin + places)] = (vectors @ columns).T
                        continue
                self._read(content[:number], first)
                vectors = floats[:number].copy_(halves[:number])
                target = scores[:, first - begin : first - begin + number]
                if len(queries) == 1:
                    torch.mv(vectors, queries[0], out=target[0])
                else:
                    target.copy_((vectors @ columns).T)
            if not everything:
                scores.masked_fill_(torch.from_numpy(~wanted[begin:end]), -torch.inf)
            # What is no number is damaged: as the best of all, it is found, and its checksum is looked at.
            yield begin, scores.nan_to_num_(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _exact(self, query: Tensor, rows: Rows) -> Iterator["Best"]:
        wide = query.double().numpy()
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096]
            vectors = self.read(part)
            scores = np.nan_to_num((vectors * wide).sum(1).astype(np.float32), nan=np.inf, posinf=np.inf)
            yield from map(Best, part.tolist(), scores.tolist(), map(zlib.crc32, vectors))

    def _read(self, target: np.ndarray, row: int) -> None:
        if os.preadv(self._file(), [target.view(np.uint8).data], row * self.size) < target.nbytes:
            raise self._cut_off()

    def _file(self) -> int:
        with self._lock:
            if self._open is None:
                try:
                    self._open = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise InputError(f"can't be read: {error.strerror}; {REMEDY}", file=self.path) from None
            return self._open

    def _cut_off(self) -> InputError:
        return InputError(f"was cut off; {REMEDY}", file=self.path)
