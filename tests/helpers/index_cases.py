"""Photos for tests of an index, and the same index written with Python's dictionaries and lists."""

import math
import os
from collections.abc import Collection, Iterable, Sequence

import torch

from contextcir.search.index import Hit, Index, Photo, Where

Vector = Sequence[float]

# Names that files can have: some are no text in UTF-8, and some mean something to a database.
PATHS = [
    "a/b.jpg", "a/b/c.jpg", "a.jpg", "ab/c.jpg", "a_/x.jpg", "a%/x.jpg", "it's \"quoted\".png", "line\nfeed.jpg",
    "é/ü.jpg",
    os.fsdecode(b"\xff/\xfe.jpg"), os.fsdecode(b"a/\xc3.jpg"), "back\\slash.jpg", "\\u005c.jpg", "💥/\ufffd.jpg",
    "a/'; DROP TABLE photos; --.jpg", " ", "a//b.jpg",
]  # fmt: skip
FOLDERS = [None, "", "a", "a/b", "a_", "é", os.fsdecode(b"\xff"), "💥", "no such folder", "a%"]
FORMATS = ["JPEG", "PNG", "HEIF"]


def photo(path: str, taken: int | None = None, kind: str = "JPEG", look: int = 0, size: int = 1) -> Photo:
    """Return a photo with a thumbnail of its own."""
    return Photo(
        path, size, 1_700_000_000_123_456_789, "ab" * 32, look, taken, kind, 40, 30, os.fsencode(path) + b"\0\xff"
    )


def fill(index: Index, vectors: dict[str, Vector]) -> None:
    """Store vectors by path."""
    index.upsert([photo(path) for path in vectors], torch.tensor(list(vectors.values()), dtype=torch.float32))


def paths(hits: Iterable[Hit]) -> list[str]:
    """Return the paths of hits, in order."""
    return [hit.photo.path for hit in hits]


def unit(vector: Vector) -> list[float]:
    """Return a vector divided by its length."""
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


class Lists:
    """An index without numbers of rows, files or arrays; it returns all images, with their scores."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[Photo, list[float]]] = {}

    def upsert(self, photos: Sequence[Photo], vectors: Sequence[Vector]) -> None:
        for one, vector in zip(photos, vectors, strict=True):
            self.stored[one.path] = (one, unit(vector))

    def delete(self, unwanted: Collection[str]) -> int:
        return sum(self.stored.pop(path, None) is not None for path in set(unwanted))

    def scores(
        self, query: Vector, where: Where | None = None, without: Collection[str] = (), away: Sequence[Vector] = ()
    ) -> dict[str, float]:
        direction = unit(query)
        if away:
            others = [unit(vector) for vector in away]
            mean = [sum(column) / len(others) for column in zip(*others, strict=True)]
            direction = unit([2 * value - other for value, other in zip(direction, mean, strict=True)])
        return {
            path: sum(one * other for one, other in zip(direction, vector, strict=True))
            for path, (of_it, vector) in self.stored.items()
            if path not in without and self.holds(of_it, where or Where())
        }

    def holds(self, one: Photo, where: Where) -> bool:
        folders, inside = one.path.split("/")[:-1], (where.folder or "").split("/")
        in_folder = not where.folder or folders[: len(inside)] == inside
        since = where.since is None or (one.taken is not None and one.taken >= where.since)
        until = where.until is None or (one.taken is not None and one.taken < where.until)
        return in_folder and since and until and (one.format in where.formats or not where.formats)


def assert_best(hits: list[Hit], scores: dict[str, float], count: int, tolerance: float) -> None:
    """Check that hits are the best images, where scores that differ by less than the tolerance may change places."""
    assert len(hits) == min(count, len(scores)) and len(set(paths(hits))) == len(hits)
    assert [(-hit.score, hit.photo.path) for hit in hits] == sorted((-hit.score, hit.photo.path) for hit in hits)
    for hit in hits:
        assert abs(hit.score - scores[hit.photo.path]) < tolerance
    if hits:
        assert all(score < hits[-1].score + tolerance for path, score in scores.items() if path not in paths(hits))
