"""Images that look like a pair, for negatives that are hard to tell from its target."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from contextcir.synthesis.mining.selection import Band, Chosen
from contextcir.synthesis.mining.vectors import Floats, Vectors

BLOCK = 512  # pairs that are looked at together


def find_groups(
    pairs: Iterable[Chosen],
    places: NDArray[np.int32],
    similarities: Floats,
    vectors: Vectors,
    band: Band,
    size: int,
) -> Iterator[tuple[Chosen, tuple[int, ...]]]:
    """Yield each pair with its group: reference, target, and up to ``size - 2`` neighbours of the reference.

    Of the reference's neighbours inside the band, the most similar first, those are taken that are not above the band
    to the target or to one taken before: these would be right answers too, or the same image twice.

    Args:
        pairs: by places among the vectors.
        places: (N, K) of the neighbours of each image, the most similar first, -1 where there are fewer.
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
    """Return the first ``count`` of n things, from the first on, no two of which are more similar than ``high``."""
    chosen = [0]
    for place in range(1, len(similarities)):
        if len(chosen) == count:
            break
        if (similarities[place, chosen] <= np.float32(high)).all():
            chosen.append(place)
    return chosen
