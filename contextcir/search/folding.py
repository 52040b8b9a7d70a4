"""Near-duplicates among what was found: photos that look alike are copies of the best one."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from contextcir.search.index import Hit, Photo
from contextcir.search.queries import Result

# Both have to hold. Of copies that were compressed again, halved or made brighter, 93 to 100 of 100 are found; of
# 404,550 pairs of different drawings, whose colours the hash does not see, 27 are within the bits, and 8 of these are
# taken for copies (`experiments.quality.copies` on the val images of scenes, 2026-11-28).
MOST_BITS = 4
LEAST_COSINE = 0.94

Embeddings = Callable[[Iterable[str]], Mapping[str, Tensor]]


def looks_alike(first: Photo, second: Photo) -> bool:
    """Tell whether the perceptual hashes of two photos differ in at most `MOST_BITS`."""
    return (first.look ^ second.look).bit_count() <= MOST_BITS


def fold(hits: Sequence[Hit], count: int, embeddings: Embeddings) -> list[Result]:
    """Return the first ``count`` photos that are no copies, each with the copies that were found after it.

    Args:
        hits: what was found, the best one first.
        count: results, at most.
        embeddings: returns the embeddings (E,) of photos by path, L2-normalised; asked for those that look alike.
    """
    leaders: list[Hit] = []
    pairs: list[tuple[Hit, list[Hit]]] = []  # a hit, and those before it that it looks like
    for hit in hits:
        before = [other for other, _ in pairs if looks_alike(other.photo, hit.photo)]
        pairs.append((hit, before))
    vectors = embeddings({one.photo.path for hit, before in pairs if before for one in (hit, *before)})
    copies: dict[str, list[Photo]] = {}
    for hit, before in pairs:
        leader = next((one for one in before if one.photo.path in copies and _are_close(vectors, one, hit)), None)
        if leader is not None:
            copies[leader.photo.path].append(hit.photo)
        elif len(leaders) < count:
            leaders.append(hit)
            copies[hit.photo.path] = []
    return [
        Result(rank, hit.score, hit.photo, tuple(copies[hit.photo.path])) for rank, hit in enumerate(leaders, start=1)
    ]


def _are_close(vectors: Mapping[str, Tensor], first: Hit, second: Hit) -> bool:
    one, other = (vectors.get(hit.photo.path) for hit in (first, second))
    return one is not None and other is not None and float(one.float() @ other.float()) >= LEAST_COSINE
