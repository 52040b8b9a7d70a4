"""The nearest neighbours of every image: exact, approximate for very many images, or chosen by their number."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.synthesis.clip import Floats
from contextcir.synthesis.mining.encoder import Vectors

NONE = -1


class Neighbours(NamedTuple):
    """Neighbours of the vectors from ``start`` on, the most similar first; of equally similar ones the earlier first.

    ``places``: (B, K) of the neighbours, `NONE` where there are fewer. ``similarities``: (B, K) cosines.
    """

    start: int
    places: NDArray[np.int32]
    similarities: Floats


class NeighbourSearch(ABC):
    """Finds the most similar vectors of each vector."""

    @abstractmethod
    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        """Yield the ``count`` nearest neighbours of every vector, without itself, block by block in order.

        Raises:
            InputError: if faiss is needed and not installed.
        """


class ExactSearch(NeighbourSearch):
    """Compares all pairs of vectors: seconds for 20,000 images, hours for a million.

    Args:
        block: vectors that are compared with all at a time; memory grows with block times images.
    """

    def __init__(self, block: int = 512) -> None:
        self.block = whole(block, 1, "pairs.search.block")

    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        for start, queries in vectors.blocks(self.block):
            similarities = np.empty((len(queries), len(vectors)), np.float32)
            for begin, others in vectors.blocks():
                similarities[:, begin : begin + len(others)] = queries @ others.T
            own = np.arange(len(queries))
            similarities[own, start + own] = -np.inf
            places = np.full((len(queries), count), NONE, np.int64)
            available = min(count, len(vectors) - 1)
            if available:
                for row, values in enumerate(similarities):
                    places[row, :available] = _largest(values, available)
            best = np.take_along_axis(similarities, np.maximum(places, 0), axis=1)  # (B, K)
            yield _ordered(start, places, best)


class ApproximateSearch(NeighbourSearch):
    """Compares each vector with those in the lists nearest to it (faiss: inverted lists of half-precision vectors).

    Memory: 2 D bytes for each image, and up to twice that while lists grow, 8 bytes for its number, and 4 D bytes for
    each of the vectors that the lists are trained on.

    Args:
        lists: number of inverted lists; None for 4 times the square root of the number of vectors.
        probes: lists that a vector is compared with; more of them raise recall and time.
        sample: training vectors for each list.
        threads: of faiss; None for its own choice.
    """

    def __init__(
        self, lists: int | None = None, probes: int = 16, sample: int = 40, threads: int | None = None
    ) -> None:
        for name, number in (("lists", lists), ("probes", probes), ("sample", sample), ("threads", threads)):
            if number is not None:
                whole(number, 1, f"pairs.search.{name}")
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
        faiss = load_faiss("the approximate search", "pairs.search", "ExactSearch")
        if self.threads is not None:
            faiss.omp_set_num_threads(self.threads)
        wanted = self.lists or round(4 * len(vectors) ** 0.5)
        lists = max(1, min(wanted, len(vectors) // self.sample))
        quantiser = faiss.IndexFlatIP(vectors.dim)
        half = faiss.ScalarQuantizer.QT_fp16  # the precision that the vectors have already
        index = faiss.IndexIVFScalarQuantizer(quantiser, vectors.dim, lists, half, faiss.METRIC_INNER_PRODUCT, False)
        index.nprobe = min(self.probes, lists)
        index.cp.seed, index.cp.spherical = seed % 2**31, True
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = self.sample
        chosen = np.random.default_rng(seed).choice(len(vectors), min(len(vectors), lists * self.sample), replace=False)
        index.train(vectors.take(np.sort(chosen)))
        return index


class SearchBySize(NeighbourSearch):
    """Exact search of few images, approximate search of many.

    Args:
        most: images of an exact search.
        exact: the search of few images.
        approximate: the search of many.
    """

    def __init__(
        self,
        most: int = 20_000,
        exact: ExactSearch | None = None,
        approximate: ApproximateSearch | None = None,
    ) -> None:
        self.most = whole(most, 0, "pairs.search.most")
        self.exact = exact or ExactSearch()
        self.approximate = approximate or ApproximateSearch()

    def search(self, vectors: Vectors, count: int, seed: int) -> Iterator[Neighbours]:
        chosen = self.exact if len(vectors) <= self.most else self.approximate
        return chosen.search(vectors, count, seed)


def _largest(values: Floats, count: int) -> NDArray[np.int64]:
    """Return the positions of the largest values; of equal ones at the border the first."""
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


def load_faiss(purpose: str, setting: str, instead: str) -> Any:
    """Return faiss; raises InputError, which names the class that does without it, if it is not installed."""
    try:
        import faiss  # of the extra `mining`
    except ImportError:
        raise InputError(
            f"{purpose} needs faiss, of the extra `mining`: pip install -e '.[mining]', or choose {instead}",
            setting=setting,
        ) from None
    return faiss
