"""The interface of an index of images: five verbs, which every implementation has."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Photo:
    """An image file of an index, as it was when it was indexed.

    Args:
        path: relative to the folder of the index, with "/" between folders.
        size: in bytes.
        modified: modification time, in nanoseconds since 1970.
        sha256: of the file, in hexadecimal.
        look: perceptual hash of 64 bits: images that look alike differ in few of them.
        taken: when the photo was taken, in seconds since 1970 by the camera's clock; None if the file does not say.
        format: one of `FORMATS` of contextcir/images.py, or HEIF.
        width: of the upright image, in pixels.
        height: likewise.
        thumbnail: a small JPEG of the upright image.
    """

    path: str
    size: int
    modified: int
    sha256: str
    look: int
    taken: int | None
    format: str
    width: int
    height: int
    thumbnail: bytes = field(repr=False)

    @property
    def folder(self) -> str:
        """The folder that the file lies in; "" for that of the index."""
        return self.path.rpartition("/")[0]


@dataclass(frozen=True)
class Where:
    """Which images a search looks at: those that all given conditions hold for.

    Args:
        folder: they lie in this folder or below it; None for any.
        since: taken at this second since 1970, or later; images without a date are left out.
        until: taken before this second; likewise.
        formats: of one of these formats; empty for any.
    """

    folder: str | None = None
    since: int | None = None
    until: int | None = None
    formats: tuple[str, ...] = ()

    def holds(self, photo: Photo) -> bool:
        """Return whether a photo is among them."""
        if self.folder and photo.folder != self.folder and not photo.folder.startswith(f"{self.folder}/"):
            return False
        if (self.since is not None or self.until is not None) and photo.taken is None:
            return False
        if self.since is not None and photo.taken is not None and photo.taken < self.since:
            return False
        if self.until is not None and photo.taken is not None and photo.taken >= self.until:
            return False
        return not self.formats or photo.format in self.formats


class Hit(NamedTuple):
    """An image that a search has found, and its score: the cosine with the query."""

    photo: Photo
    score: float


class Stored(NamedTuple):
    """What an index holds of an image: ``embedding`` (E,), None unless it was asked for."""

    photo: Photo
    embedding: Tensor | None


class Index(ABC):
    """Images by path, each with an L2-normalised embedding (E,).

    ``about``: what made the embeddings, such as the digest of the weights; it is stored with the index, and compared
    by whoever searches.
    """

    about: Mapping[str, Any]

    @abstractmethod
    def upsert(self, photos: Sequence[Photo], embeddings: Tensor) -> None:
        """Store N photos with their embeddings (N, E), in the place of those of the same paths.

        Embeddings are L2-normalised here. Of several photos of one path the last one counts.

        Raises:
            InputError: if a number is not finite, or E is not that of the index.
        """

    @abstractmethod
    def delete(self, paths: Collection[str]) -> int:
        """Remove the images of these paths; return how many there were."""

    @abstractmethod
    def search(
        self,
        queries: Tensor,
        count: int,
        where: Where | None = None,
        without: Collection[str] = (),
        away: Tensor | None = None,
    ) -> list[list[Hit]]:
        """Return for each of the queries (Q, E), L2-normalised, its ``count`` best images, the best one first.

        Images of equal score are in the order of their paths.

        Args:
            queries: embeddings of the queries.
            count: images a query, at most.
            where: which images are looked at; None for all.
            without: paths of images that are not returned.
            away: embeddings (U, E) of images that are not wanted. A query q becomes 2 q - mean(away), L2-normalised:
                the average-vector strategy of Qdrant's recommendations, after Rocchio (1971).
        """

    @abstractmethod
    def fetch(
        self, paths: Collection[str] | None = None, embeddings: bool = False, thumbnails: bool = True
    ) -> Iterator[Stored]:
        """Yield what is stored of the images of these paths, of all if None, by path; of unknown paths nothing.

        The index may be changed meanwhile; of such changes some are seen and some are not. Without ``thumbnails``,
        which are most of the bytes, those of the photos are empty.
        """

    @abstractmethod
    def count(self, where: Where | None = None) -> int:
        """Return the number of images."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections; a closed index is not used again."""
