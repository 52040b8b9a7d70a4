"""The image files below a folder, in an order that is the same every time.

Image files as a model sees them, with the two prints by which duplicates are found.
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

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


@dataclass
class Listing:
    """What a folder holds.

    ``images``: paths below it, with "/", sorted. ``refused``: names of images that can't be used, and why. ``others``:
    how many files are no images by their names, by suffix.
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
        """Return the listing that `to_json` made the values of."""
        return cls(**{**values, "refused": [(name, reason) for name, reason in values["refused"]]})


def list_images(folder: Path) -> Listing:
    """Return the images below a folder, known by their suffixes; folders that are links are followed, each once.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image.
        OSError: if a folder below it can't be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: change --images")
    listing, others, seen = Listing(str(folder.resolve())), Counter[str](), set()
    for place, below, files in os.walk(folder, followlinks=True, onerror=_fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above would never end
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
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
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}): change --images")
    listing.images.sort()
    listing.refused.sort()
    listing.others = dict(sorted(others.items()))
    return listing


def _fail(error: OSError) -> None:
    raise error


DIGEST = 16  # bytes of the hash of a file
PRINT = 8  # bytes of the perceptual hash

Bytes = NDArray[np.uint8]
Transform = Callable[[Image.Image], Any]


class LoadedImage(NamedTuple):
    """An image: its ``pixels`` as a model takes them, `DIGEST` bytes of its file's hash, `PRINT` of its perceptual one.

    One that can't be read has no pixels, but a ``reason``.
    """

    place: int
    pixels: Any = None
    digest: bytes = b""
    print: bytes = b""
    reason: str = ""


class ImageFiles:
    """Image files by number, for a DataLoader.

    JPEG files that are much larger than the model's images are decoded at a half, a quarter or an eighth of their size.

    Args:
        folder: that paths are below.
        paths: of the files.
        transform: makes a model's input of an image.
        side: pixels of a side of the model's input.
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
            said = " ".join(str(error).replace(str(self.folder), "").split())
            return LoadedImage(place, reason=f"{type(error).__name__}: {said}"[:200])
        return LoadedImage(place, self.transform(image), blake2b(content, digest_size=DIGEST).digest(), perceptual)


def perceptual_hash(image: Image.Image) -> bytes:
    """Return 64 bits that look-alikes share but for a few: signs of the lowest frequencies (imagehash's phash)."""
    return np.packbits(load_imagehash().phash(image).hash.ravel()).tobytes()


def load_imagehash() -> Any:
    """Return the library of perceptual hashes; raises ValueError if it is not there."""
    try:
        import imagehash  # of the extra `synthesis`
    except ImportError:
        raise ValueError("mined pairs need imagehash: pip install -e '.[synthesis]'") from None
    return imagehash


def _decode(content: bytes, side: int) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (side, side))
            if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
                image = image.convert("RGBA")
            return image.convert("RGB")
