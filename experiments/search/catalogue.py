"""Names of the images of an index that may stand in an address, and what there is to filter by."""

import base64
import binascii
import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from contextcir.errors import InputError, shown
from contextcir.files import Inside
from contextcir.images import image_bytes
from contextcir.search.index import Index, Photo, Where
from contextcir.search.photos import open_photo

MOST_FOLDERS = 1000  # that a page lists
LONGEST_ID = 8192


class UnknownImageError(InputError):
    """An image that the index does not hold, or whose file has gone since."""


def id_of(path: str) -> str:
    """Return the name of an image in an address: its path, with nothing in it that an address would take apart."""
    return base64.urlsafe_b64encode(path.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def path_of(name: str) -> str | None:
    """Return the path that a name stands for, whether there is such an image or not; None for what is no name."""
    if len(name) > LONGEST_ID:
        return None
    try:
        content = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True)
        path = content.decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return None
    return path if id_of(path) == name else None


class Catalogue:
    """The images of an index, looked up by what a client calls them; a file is opened only if the index holds its path.

    Args:
        index: of the images.
        folder: that their paths are relative to.
    """

    def __init__(self, index: Index, folder: Path) -> None:
        self._index = index
        self._inside = Inside(folder)
        self._photos: list[Photo] | None = None
        self._lock = threading.Lock()

    def find(self, names: Sequence[str]) -> list[Photo]:
        """Return the images with these paths or names in addresses; of a text that is both, the path counts.

        Raises:
            UnknownImageError: if one is not in the index.
        """
        decoded = [path_of(name) for name in names]
        stored = self._index.fetch({*names, *(path for path in decoded if path is not None)})
        known = {entry.photo.path: entry.photo for entry in stored}
        found = []
        for name, path in zip(names, decoded, strict=True):
            photo = known.get(name) or known.get(path or "")
            if photo is None:
                raise UnknownImageError(f"no image {shown(name)} in the index")
            found.append(photo)
        return found

    def by_id(self, name: str) -> Photo:
        """Return an image by its name in an address; raises `UnknownImageError`."""
        path = path_of(name)
        for entry in self._index.fetch([path]) if path else ():
            return entry.photo
        raise UnknownImageError("no such image in the index")

    def open(self, photo: Photo, side: int) -> Image.Image:
        """Return an image upright, at most ``side`` pixels wide and high.

        Raises:
            UnknownImageError: if its file is not there any more, or can't be read.
        """
        try:
            return shrunk(open_photo(image_bytes(self._inside.path(photo.path)), side).image, side)
        except InputError as error:
            reason = "has gone since it was indexed" if isinstance(error, FileNotFoundError) else error.problem
            raise UnknownImageError(f"{shown(photo.path)}: {reason}") from None

    def sample(self, count: int, seed: int, where: Where) -> list[Photo]:
        """Return some images that fit, drawn at random, the same ones for the same seed."""
        fitting = [photo for photo in self._all() if where.holds(photo)]
        chosen = random.Random(seed).sample(fitting, min(count, len(fitting)))  # noqa: S311  (pictures to begin with)
        return [entry.photo for entry in self._index.fetch([photo.path for photo in chosen])]

    def overview(self) -> dict[str, Any]:
        """Return how many images there are, and their folders, formats and dates."""
        photos = self._all()
        folders: Counter[str] = Counter()
        for photo in photos:
            parts = photo.folder.split("/") if photo.folder else []
            folders.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
        taken = [photo.taken for photo in photos if photo.taken is not None]
        listed = sorted(folders, key=lambda folder: (-folders[folder], folder))[:MOST_FOLDERS]
        return {
            "count": len(photos),
            "folders": [{"folder": folder, "count": folders[folder]} for folder in sorted(listed)],
            "formats": dict(sorted(Counter(photo.format for photo in photos).items())),
            "dated": len(taken),
            "first": min(taken, default=None),
            "last": max(taken, default=None),
        }

    def _all(self) -> list[Photo]:
        """Return what is known of all images, without their thumbnails; read again when their number has changed."""
        with self._lock:
            if self._photos is None or len(self._photos) != self._index.count():
                self._photos = [entry.photo for entry in self._index.fetch(thumbnails=False)]
            return self._photos


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return an image that is at most ``side`` pixels wide and high; a smaller one as it is."""
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    return image
