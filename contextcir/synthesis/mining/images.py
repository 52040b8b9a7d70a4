"""The image files below a folder, listed in a fixed order, and read as a model's input with two hashes each.

The hashes find duplicates: one of the file's bytes, and a perceptual one of what the image shows.
"""

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contextcir.errors import InputError, MissingFileError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
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


def list_images(folder: Path) -> Listing:
    """Return the images below a folder, recognised by their suffixes; linked folders are followed, each once.

    Raises:
        MissingFileError: if there is no such folder.
        InputError: if it holds no image.
        OSError: if a folder below it can't be read.
    """
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}", setting="images")
    listing, others = Listing(str(folder.resolve())), Counter[str]()
    visited: set[tuple[int, int]] = set()
    for place, below, files in os.walk(folder, followlinks=True, onerror=_fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above would never end
            below.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        below.sort()
        for name in files:
            path = Path(place, name).relative_to(folder).as_posix()
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in SUFFIXES:
                others[suffix if suffix.isprintable() else "?"] += 1
            elif not path.isprintable():
                listing.refused.append((ascii(path)[1:-1], "the name can't be printed"))
            else:
                listing.images.append(path)
    if not listing.images:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})", setting="images")
    listing.images.sort()
    listing.refused.sort()
    listing.others = dict(sorted(others.items()))
    return listing


def _fail(error: OSError) -> None:
    raise error


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
    """

    def __init__(self, folder: Path, paths: Sequence[str], transform: Transform, side: int) -> None:
        self.folder = folder
        self.paths = paths
        self.transform = transform
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> LoadedImage:
        try:
            content = (self.folder / self.paths[place]).read_bytes()
            image = _decode(content, 2 * self.side)
            perceptual = perceptual_hash(image)
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
            message = " ".join(str(error).replace(str(self.folder), "").split())
            return LoadedImage(place, reason=f"{type(error).__name__}: {message}"[:200])
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


def _decode(content: bytes, side: int) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("RGB", (side, side))
            image: Image.Image = opened
            if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct conversion
                image = image.convert("RGBA")
            return image.convert("RGB")
