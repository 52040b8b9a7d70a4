"""The neighbours of all images on the disk: found once, read by whatever chooses pairs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from contextcir.synthesis.mining.search import NeighbourSearch
from contextcir.synthesis.mining.vectors import Vectors
from contextcir.synthesis.mining.whole_files import read_json, whole_array, whole_file, write_json


class NeighbourTable:
    """Neighbours of those images that are kept, in files of a folder.

    Args:
        work: the folder.
        vectors: of all images.
    """

    def __init__(self, work: Path, vectors: Vectors) -> None:
        self.work = work
        self.all = vectors

    def make(
        self, about: Any, distinct: Callable[[], NDArray[np.int64]], search: NeighbourSearch, count: int
    ) -> NDArray[np.int64]:
        """Find the neighbours, unless they are there with the same settings; return which images are kept.

        Args:
            about: plain values that say how they are found.
            distinct: returns the places of the images that are kept, in rising order.
            search: finds neighbours.
            count: for each image.

        Raises:
            ValueError: if fewer than two images are kept, or the search fails.
        """
        if read_json(self.work / "neighbours.json") == about:
            return np.load(self.work / "kept.npy")
        (self.work / "neighbours.json").unlink(missing_ok=True)
        kept = distinct()
        if len(kept) < 2:
            raise ValueError(f"{len(self.all):,} images hold no two that differ: see {self.work}/duplicates.jsonl")
        with whole_file(self.work / "kept.npy") as file:
            np.save(file, kept)
        self._search(self.vectors(kept), search, count, about["seed"])
        write_json(self.work / "neighbours.json", about)
        return kept

    def vectors(self, kept: NDArray[np.int64]) -> Vectors:
        """Return the vectors of the images that are kept."""
        return Vectors(self.all.path, kept)

    def read(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return places (n, K) among those that are kept, and similarities (n, K), both mapped from the disk."""
        places, similarities = (np.load(self.work / f"{name}.npy", mmap_mode="r") for name in ("places_of", "cosines"))
        return places, similarities

    def _search(self, vectors: Vectors, search: NeighbourSearch, count: int, seed: int) -> None:
        shape = (len(vectors), count)
        seconds = 0.5 if sys.stderr.isatty() else 30
        with (
            whole_array(self.work / "places_of.npy", shape, np.int32) as places,
            whole_array(self.work / "cosines.npy", shape, np.float32) as similarities,
            tqdm(desc="search", total=len(vectors), unit=" images", mininterval=seconds, maxinterval=seconds) as bar,
        ):
            for found in search.search(vectors, count, seed):
                end = found.start + len(found.places)
                places[found.start : end], similarities[found.start : end] = found.places, found.similarities
                bar.update(len(found.places))
