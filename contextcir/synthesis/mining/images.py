"""The image files below a folder, listed in a fixed order, and read as a model's input with two hashes each.

The hashes find duplicates: one of the file's bytes, and a perceptual one of what the image shows.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contextcir.errors import InputError, MissingFileError, printable
from contextcir.files import Inside, ordinary_file
from contextcir.images import MOST_BYTES, SUFFIXES, decode_image, image_bytes

LINKS = "links"  # the setting that lets links lead out of the folder
DIGEST = 16  # bytes of the hash of a file
PRINT = 8  # bytes of the perceptual hash

Bytes = NDArray[np.uint8]
Transform = Callable[[Image.Image], Any]


@dataclass
class Listing:
    """The content of a folder.

    ``images``: paths below it, with "/", sorted. ``refused``: names of images that can't be used, and why. ``others``:
    numbers of files that are no images, by suffix.
    """

    folder: str
    images: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Listing":
        """Return the listing of these values."""
        return cls(**{**values, "refused": [(name, reason) for name, reason in values["refused"]]})


def list_images(folder: Path, links: bool = False) -> Listing:
    """Return the images below a folder, recognised by their suffixes; linked folders are followed, each once.

    What is no ordinary file (a pipe, a device, a folder, a broken link), is too large, or is reached by a link that
    leads out of the folder, is refused without being opened.

    Args:
        folder: the folder.
        links: let links lead out of it.

    Raises:
        MissingFileError: if there is no such folder.
        InputError: if it holds no image, or can't be read.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}", setting="images")
    listing, others = Listing(str(folder.resolve())), Counter[str]()
    inside = Inside(folder, links, LINKS)
    visited: set[tuple[int, int]] = set()
    for place, below, files in os.walk(folder, followlinks=True, onerror=_fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above would never end
            below.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        below.sort()
        for name in [each for each in below if _leaves(inside, folder, Path(place, each))]:
            below.remove(name)
            path = Path(place, name).relative_to(folder).as_posix()
            listing.refused.append((printable(path), f"leads out of the folder ({LINKS} allows it)"))
        for name in (*files, *(each for each in below if _suffix(each) in SUFFIXES)):
            path = Path(place, name).relative_to(folder).as_posix()
            suffix = _suffix(name)
            if suffix not in SUFFIXES:
                others[suffix if suffix.isprintable() else "?"] += 1
            elif not path.isprintable():
                listing.refused.append((ascii(path)[1:-1], "the name can't be printed"))
            elif reason := _refusal(inside, path):
                listing.refused.append((path, reason))
            else:
                listing.images.append(path)
    listing.images.sort()
    listing.refused.sort()
    if not listing.images:
        raise InputError(f"{_none(listing)} ({', '.join(sorted(SUFFIXES))})", file=folder, setting="images")
    listing.others = dict(sorted(others.items()))
    return listing


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _leaves(inside: Inside, folder: Path, path: Path) -> bool:
    """Tell whether a folder is a link that leads out."""
    try:
        inside.path(path.relative_to(folder).as_posix())
    except InputError:
        return True
    return False


def _refusal(inside: Inside, path: str) -> str:
    """Return why a file is not opened; '' for an ordinary one."""
    try:
        ordinary_file(inside.path(path), most=MOST_BYTES)
    except InputError as error:
        if error.setting == LINKS:
            return f"leads out of the folder ({LINKS} allows it)"
        return "a broken link" if isinstance(error, MissingFileError) else error.problem
    return ""


def _none(listing: Listing) -> str:
    if not listing.refused:
        return "holds no image"
    name, reason = listing.refused[0]
    return f"holds no image that can be used: {len(listing.refused):,} are refused, the first is {name[:60]}: {reason}"


def _fail(error: OSError) -> None:
    raise InputError(f"can't be read: {error.strerror}", file=error.filename, setting="images") from None


class LoadedImage(NamedTuple):
    """An image file by its position: ``pixels`` as the model's input, and two hashes of `DIGEST` and `PRINT` bytes.

    A file that can't be read has a ``reason`` instead.
    """

    place: int
    pixels: Any = None
    digest: bytes = b""
    print: bytes = b""
    reason: str = ""


class ImageFiles:
    """Image files by position, for a DataLoader.

    JPEG files that are much larger than the model's images are decoded at a half, a quarter or an eighth of their size.

    Args:
        folder: that the paths are below.
        paths: of the files.
        transform: turns an image into the model's input.
        side: of the model's input, in pixels.
        links: let links lead out of the folder.
    """

    def __init__(
        self, folder: Path, paths: Sequence[str], transform: Transform, side: int, links: bool = False
    ) -> None:
        self.folder = Inside(folder, links, LINKS)
        self.paths = paths
        self.transform = transform
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> LoadedImage:
        try:
            content = image_bytes(self.folder.path(self.paths[place]))
            image = decode_image(content, upright=True, side=2 * self.side)
        except InputError as error:
            missing = isinstance(error, MissingFileError)
            return LoadedImage(place, reason="no such file" if missing else printable(error.problem)[:200])
        perceptual = perceptual_hash(image)
        return LoadedImage(place, self.transform(image), blake2b(content, digest_size=DIGEST).digest(), perceptual)


def perceptual_hash(image: Image.Image) -> bytes:
    """Return 64 bits that are nearly equal for similar images: signs of the lowest frequencies (imagehash's phash)."""
    return np.packbits(load_imagehash().phash(image).hash.ravel()).tobytes()


def load_imagehash() -> Any:
    """Return the library of perceptual hashes; raises InputError if it is not installed."""
    try:
        import imagehash  # of the extra `mining`; imports scipy
    except ImportError:
        raise InputError("mined pairs need imagehash, of the extra `mining`: pip install -e '.[mining]'") from None
    return imagehash
