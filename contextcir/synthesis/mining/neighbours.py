"""The table of all nearest neighbours on disk, and the groups of similar images that serve as hard negatives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contextcir.errors import InputError
from contextcir.files import read_json, whole_array, whole_file, write_json
from contextcir.synthesis.clip import Floats
from contextcir.synthesis.mining.encoder import Vectors, load_array
from contextcir.synthesis.mining.search import NeighbourSearch
from contextcir.synthesis.mining.selection import Band, Chosen
from contextcir.synthesis.stages import progress_bar

BLOCK = 512  # pairs whose groups are found together


class NeighbourTable:
    """Neighbours of the images that are kept, in files of a folder.

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
        """Find the neighbours unless they are stored with the same settings; return the positions of kept images.

        Args:
            about: plain values that describe the search.
            distinct: returns the positions of the images that are kept, in ascending order.
            search: finds neighbours.
            count: for each image.

        Raises:
            InputError: if fewer than two images are kept, or the search fails.
        """
        if read_json(self.work / "neighbours.json") == about:
            return load_array(self.work / "kept.npy")
        (self.work / "neighbours.json").unlink(missing_ok=True)
        kept = distinct()
        if len(self.all) < 2:
            raise InputError("one image makes no pair: expected at least two that can be read", setting="images")
        if len(kept) < 2:
            raise InputError(
                f"all {len(self.all):,} images are duplicates of one: see {self.work}/duplicates.jsonl",
                setting="pairs.duplicates",
            )
        with whole_file(self.work / "kept.npy") as file:
            np.save(file, kept)
        self._search(self.vectors(kept), search, count, about["seed"])
        write_json(self.work / "neighbours.json", about)
        return kept

    def vectors(self, kept: NDArray[np.int64]) -> Vectors:
        """Return the vectors of kept images."""
        return Vectors(self.all.path, kept)

    def read(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return positions (n, K) among the kept images, and similarities (n, K), both mapped from the disk."""
        places, similarities = (load_array(self.work / f"{name}.npy", mapped=True) for name in ("places_of", "cosines"))
        return places, similarities

    def _search(self, vectors: Vectors, search: NeighbourSearch, count: int, seed: int) -> None:
        shape = (len(vectors), count)
        with (
            whole_array(self.work / "places_of.npy", shape, np.int32) as places,
            whole_array(self.work / "cosines.npy", shape, np.float32) as similarities,
            progress_bar("search", len(vectors), "images") as bar,
        ):
            for block in search.search(vectors, count, seed):
                rows = slice(block.start, block.start + len(block.places))
                places[rows], similarities[rows] = block.places, block.similarities
                bar.update(len(block.places))


def find_groups(
    pairs: Iterable[Chosen],
    places: NDArray[np.int32],
    similarities: Floats,
    vectors: Vectors,
    band: Band,
    size: int,
) -> Iterator[tuple[Chosen, tuple[int, ...]]]:
    """Yield each pair with its group: reference, target, and up to ``size - 2`` neighbours of the reference.

    Neighbours of the reference inside the band are taken from the most similar on, without those that are above the
    band to the target or to one taken before: these would be right answers too, or the same image twice.

    Args:
        pairs: by positions among the vectors.
        places: (N, K) positions of the neighbours of each image, the most similar first, -1 where there are fewer.
        similarities: (N, K) to them.
        vectors: (N, D) of the images.
        band: of the similarity.
        size: images in a group at most; below 3, none has a group.
    """
    waiting = iter(pairs)
    while block := list(islice(waiting, BLOCK)):
        if size < 3:
            yield from ((pair, ()) for pair in block)
            continue
        candidates = [_candidates(pair, places, similarities, band) for pair in block]
        needed = np.unique([place for places in candidates for place in places])
        rows = vectors.take(needed)  # (n, D)
        for pair, others in zip(block, candidates, strict=True):
            own = rows[np.searchsorted(needed, others)]  # (n, D)
            chosen = _apart(own @ own.T, band.high, size - 1)
            yield pair, (pair.reference, *(others[place] for place in chosen))


def _candidates(pair: Chosen, places: NDArray[np.int32], similarities: Floats, band: Band) -> list[int]:
    """Return the target, and neighbours of the reference inside the band."""
    row = places[pair.reference]
    inside = row[band.holds(similarities[pair.reference]) & (row >= 0) & (row != pair.target)]
    return [pair.target, *inside.tolist()]


def _apart(similarities: Floats, high: float, count: int) -> Sequence[int]:
    """Return up to ``count`` of n images, from the first on, no two of which are more similar than ``high``."""
    chosen = [0]
    for place in range(1, len(similarities)):
        if len(chosen) == count:
            break
        if (similarities[place, chosen] <= np.float32(high)).all():
            chosen.append(place)
    return chosen
