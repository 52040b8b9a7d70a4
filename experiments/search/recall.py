"""The command `recall`: what a search finds of what is nearest, measured on one's own index."""

import time
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from contextcir.checks import whole
from contextcir.errors import InputError, printable
from contextcir.search.index import Index
from contextcir.search.places import open_index


def recall(place: Path, queries: int, count: int, seed: int) -> None:
    """Draw photos as queries, search for them one by one, and compare with all embeddings, one by one in float32.

    On Qdrant, the search is the approximate one.
    """
    whole(queries, 1, "queries", 100_000)
    whole(count, 1, "k", 1000)
    whole(seed, 0, "seed")
    exact = open_index(place)
    paths = [stored.photo.path for stored in exact.fetch(thumbnails=False)]
    if not paths:
        raise InputError("the index holds no photo: index a folder of photos first")
    drawn = Random(seed).sample(paths, min(queries, len(paths)))  # noqa: S311  (draws of an experiment, no secret)
    stored = [entry.embedding for entry in exact.fetch(set(drawn), embeddings=True, thumbnails=False)]
    vectors = torch.stack([embedding.float() for embedding in stored if embedding is not None])  # (Q, E)
    searched = approximate(exact)
    found, seconds = [], []
    for vector in vectors:
        begun = time.perf_counter()
        (hits,) = searched.search(vector[None], count)
        seconds.append(time.perf_counter() - begun)
        found.append({hit.photo.path for hit in hits})
    wanted = nearest(exact, vectors, count)
    shares = [len(one & other) / len(other) for one, other in zip(found, wanted, strict=True)]
    kind = "approximate search" if searched is not exact else "search of all photos"
    seconds.sort()
    print(f"{printable(str(place))}: {len(paths):,} photos, {len(drawn):,} of them as queries (seed {seed}), {kind}")
    print(f"recall at {count}: {100 * sum(shares) / len(shares):.2f} %")
    median, slow = seconds[len(seconds) // 2], seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    print(f"a query took {1000 * median:.1f} ms (median), {1000 * slow:.1f} ms (19 of 20 are faster)")


def approximate(index: Index) -> Index:
    """Return an index as it is searched when it is large: on Qdrant, by its graph of neighbours."""
    if not hasattr(index, "collection"):
        return index
    from contextcir.search.qdrant import Approximate, QdrantIndex

    return QdrantIndex(index._client, index.collection, approximate=Approximate())


def nearest(index: Index, vectors: Tensor, count: int) -> list[set[str]]:
    """Return the paths of the photos nearest to queries (Q, E), compared with every embedding, block by block."""
    best: list[list[tuple[float, str]]] = [[] for _ in vectors]
    block: list[tuple[str, Tensor]] = []

    def compare() -> None:
        scores = vectors @ torch.stack([embedding.float() for _, embedding in block]).T  # (Q, N)
        for row, mine in enumerate(scores):
            values, places = mine.topk(min(count, len(block)))
            new = [(-value, block[place][0]) for value, place in zip(values.tolist(), places.tolist(), strict=True)]
            best[row] = sorted([*best[row], *new])[:count]
        block.clear()

    for photo, embedding in index.fetch(embeddings=True, thumbnails=False):
        if embedding is not None:
            block.append((photo.path, embedding))
        if len(block) == 4096:
            compare()
    if block:
        compare()
    return [{path for _, path in mine} for mine in best]
