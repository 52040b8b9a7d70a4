"""The nearest neighbours of every image: exactly, approximately for very many, or whichever fits the number."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contextcir.synthesis.mining.encoder import Floats, Vectors

NONE = -1


class Neighbours(NamedTuple):
    """Neighbours of the vectors from ``start`` on, the most similar first, of equally similar ones the earlier.

    ``places``: (B, K) of the neighbours, `NONE` where there are fewer. ``similarities``: (B, K) cosines.
    """

    start: int
    places: NDArray[np.int32]
    similarities: Floats


class NeighbourSearch(ABC):
    """Finds for each of many vectors those that are most similar to it."""

    @abstractmethod
    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        """Yield the ``count`` nearest neighbours of every vector, itself left out, block by block in order.

        Raises:
            ValueError: if that can't be done.
        """


class ExactSearch(NeighbourSearch):
    """Compares each vector with each: seconds for 20,000 images, hours for a million.

    Args:
        block: vectors that are compared with all at a time; memory grows with block times images.
    """

    def __init__(self, block: int = 512) -> None:
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}: change --pairs.search.block")
        self.block = block

    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        for start, queries in vectors.blocks(self.block):
            similarities = np.empty((len(queries), len(vectors)), np.float32)
            for begin, others in vectors.blocks():
                similarities[:, begin : begin + len(others)] = queries @ others.T
            own = np.arange(len(queries))
            similarities[own, start + own] = -np.inf
            places = np.full((len(queries), count), NONE, np.int64)
            found = min(count, len(vectors) - 1)
            if found:
                for row, values in enumerate(similarities):
                    places[row, :found] = _largest(values, found)
            best = np.take_along_axis(similarities, np.maximum(places, 0), axis=1)  # (B, K)
            yield _ordered(start, places, best)


class ApproximateSearch(NeighbourSearch):
    """Compares each vector with those in the lists nearest to it (faiss: inverted lists of half-precision vectors).

    Memory: 2 D bytes for each image, and up to twice that while lists grow, 8 bytes for its number, and 4 D bytes for
    each of the vectors that the lists are made from.

    Args:
        lists: into which the vectors are divided; None for 4 times the root of their number.
        probes: lists that a vector is compared with; more of them find more, and take longer.
        sample: vectors for each list, from which the lists are made.
        threads: of faiss; None for its own choice.
    """

    def __init__(
        self, lists: int | None = None, probes: int = 16, sample: int = 40, threads: int | None = None
    ) -> None:
        given = [number for number in (lists, probes, sample, threads) if number is not None]
        if min(given) < 1:
            raise ValueError("lists, probes, sample and threads must be at least 1: change --pairs.search")
        self.lists = lists
        self.probes = probes
        self.sample = sample
        self.threads = threads

    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        index = self._index(vectors, seed)
        for _, block in vectors.blocks():
            index.add(block)
        for start, queries in vectors.blocks():
            similarities, places = index.search(queries, count + 1)  # (B, K + 1)
            own = start + np.arange(len(queries))[:, None]
            similarities[(places == own) | (places == NONE)] = -np.inf
            places[places == own] = NONE
            yield _ordered(start, places, similarities, count)

    def _index(self, vectors: Vectors, seed: int) -> Any:
        faiss = _faiss()
        if self.threads is not None:
            faiss.omp_set_num_threads(self.threads)
        wanted = self.lists or round(4 * len(vectors) ** 0.5)
        lists = max(1, min(wanted, len(vectors) // self.sample))
        quantiser = faiss.IndexFlatIP(vectors.dim)
        half = faiss.ScalarQuantizer.QT_fp16  # what the vectors are in already: nothing is lost
        index = faiss.IndexIVFScalarQuantizer(quantiser, vectors.dim, lists, half, faiss.METRIC_INNER_PRODUCT, False)
        index.nprobe = min(self.probes, lists)
        index.cp.seed, index.cp.spherical = seed % 2**31, True
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = self.sample
        chosen = np.random.default_rng(seed).choice(len(vectors), min(len(vectors), lists * self.sample), replace=False)
        index.train(vectors.take(np.sort(chosen)))
        return index


class SearchBySize(NeighbourSearch):
    """Searches exactly while there are few images, and approximately beyond.

    Args:
        most: images that are searched exactly.
        exact: how few are searched.
        approximate: how many are searched.
    """

    def __init__(
        self,
        most: int = 20_000,
        exact: ExactSearch | None = None,
        approximate: ApproximateSearch | None = None,
    ) -> None:
        self.most = most
        self.exact = exact or ExactSearch()
        self.approximate = approximate or ApproximateSearch()

    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        chosen = self.exact if len(vectors) <= self.most else self.approximate
        return chosen.search(vectors, count, seed)


def _largest(values: Floats, count: int) -> NDArray[np.int64]:
    """Return the places of the largest values; of equal ones at the border the first."""
    least = -np.partition(-values, count - 1)[count - 1]
    places = np.flatnonzero(values >= least)
    return places[np.argsort(-values[places], kind="stable")][:count]


def _ordered(start: int, places: NDArray[np.int64], similarities: Floats, count: int | None = None) -> Neighbours:
    similarities = np.where(places == NONE, -np.inf, similarities).astype(np.float32)
    order = np.lexsort((places, -similarities), axis=1)[:, :count]  # (B, K)
    return Neighbours(
        start,
        np.take_along_axis(places, order, axis=1).astype(np.int32),
        np.take_along_axis(similarities, order, axis=1),
    )


def _faiss() -> Any:
    try:
        import faiss  # of the extra `synthesis`
    except ImportError:
        raise ValueError(
            "the approximate search needs faiss: pip install -e '.[synthesis]', or set --pairs.search=ExactSearch"
        ) from None
    return faiss
