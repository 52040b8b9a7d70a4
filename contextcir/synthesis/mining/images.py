"""Images by position, read as a model's input with two hashes each.

The hashes find duplicates: one of the file's bytes, and a perceptual one of what the image shows.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contextcir.errors import InputError, MissingFileError, printable
from contextcir.images import decode_image, image_bytes
from contextcir.synthesis.photos import Photos, photos_of

DIGEST = 16  # bytes of the hash of a file
PRINT = 8  # bytes of the perceptual hash

Bytes = NDArray[np.uint8]
Transform = Callable[[Image.Image], Any]


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
        photos: the images, or the folder that the paths are below.
        paths: of the files.
        transform: turns an image into the model's input.
        side: of the model's input, in pixels.
        links: let links lead out of the folder.
    """

    def __init__(
        self, photos: Path | Photos, paths: Sequence[str], transform: Transform, side: int, links: bool = False
    ) -> None:
        self.photos = photos_of(photos, links)
        self.paths = paths
        self.transform = transform
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> LoadedImage:
        try:
            content = image_bytes(self.photos.image(self.paths[place]))
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
