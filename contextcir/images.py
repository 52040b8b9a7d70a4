"""Image files: which kinds are read, how large they may be, and which way up they are.

Two readings are in use. Training and evaluation read the pixels as stored, as all published code does. Photos of users,
which a person or another model looks at, are turned by their EXIF orientation. Neither depends on the size of a file.
"""

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, ImageOps

from contextcir.errors import InputError
from contextcir.files import ordinary_file

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's other decoders are seldom tried by anybody
MOST_PIXELS = 100_000_000  # that are decoded; takes about 0.5 GB
MOST_BYTES = 500_000_000
HEAD = 65_536  # bytes of a stored image in which its size and orientation are looked for first
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright


class Header(NamedTuple):
    """What the head of an image file says: one of `FORMATS`, the size as stored, and the EXIF orientation, 1 to 8."""

    format: str
    width: int
    height: int
    orientation: int


class StoredImage(ABC):
    """An image that is no file: a member of a shard, or an object of a store. ``name``: by which data know it."""

    name: str

    @abstractmethod
    def content(self) -> bytes:
        """Return its bytes.

        Raises:
            InputError: if there are none, or more than `MOST_BYTES`.
        """

    def head(self, most: int) -> bytes:
        """Return its first bytes, at most so many; raises as `content`."""
        return self.content()[:most]


ImageFile = Path | StoredImage


def read_image(path: ImageFile, upright: bool, side: int | None = None) -> Image.Image:
    """Return an image file, decoded to its end, as 8-bit RGB.

    Args:
        path: of an ordinary file, or an image that is stored otherwise.
        upright: turn it by its EXIF orientation.
        side: a JPEG may be decoded at a half, a quarter or an eighth of its size, but not below this many pixels.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no ordinary file, of another format than `FORMATS`, too large, or damaged.
    """
    content = image_bytes(path)
    try:
        return decode_image(content, upright, side)
    except InputError as error:
        raise InputError(error.problem, file=named(path)) from None


def named(image: ImageFile) -> Path | str:
    """Return what an error calls an image."""
    return image.name if isinstance(image, StoredImage) else image


def image_bytes(path: ImageFile) -> bytes:
    """Return the content of an image file, whatever it holds; raises as `read_image` for what is no ordinary file."""
    if isinstance(path, StoredImage):
        return path.content()
    ordinary_file(path, most=MOST_BYTES)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", file=path) from None


def read_header(path: ImageFile) -> Header:
    """Return what the head of an image file says, without decoding it; raises as `read_image`."""
    if isinstance(path, StoredImage):
        return _stored_header(path)
    ordinary_file(path, most=MOST_BYTES)
    try:
        with path.open("rb") as file:
            return header(file)
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", file=path) from None
    except InputError as error:
        raise InputError(error.problem, file=path) from None


def _stored_header(image: StoredImage) -> Header:
    try:
        return header(io.BytesIO(image.head(HEAD)))
    except InputError:  # a few files have more before their size, such as a preview
        try:
            return header(io.BytesIO(image.content()))
        except InputError as error:
            raise InputError(error.problem, file=image.name) from None


def header(file: IO[bytes]) -> Header:
    """Return what the head of an image says, from its open file."""
    with _decoding(), Image.open(file, formats=FORMATS) as opened:
        # of the base class: that of PNG would decode the whole image in search of a late EXIF block
        turned = Image.Image.getexif(opened).get(ORIENTATION, 1)
        return Header(str(opened.format), *opened.size, turned if turned in range(1, 9) else 1)


def decode_image(content: bytes, upright: bool, side: int | None = None, ground: str | None = None) -> Image.Image:
    """Return an image from the bytes of its file; see `read_image`.

    ``ground``: the colour that is seen through transparent pixels; None shows what is stored below them.
    """
    with open_image(content) as opened:
        if side is not None:
            opened.draft("RGB", (side, side))
        check_pixels(opened)
        return to_rgb(ImageOps.exif_transpose(opened) if upright else opened, ground)


@contextmanager
def open_image(content: bytes, opener: Callable[[IO[bytes]], Image.Image] | None = None) -> Iterator[Image.Image]:
    """Open an image from the bytes of its file, which is not decoded yet; what a decoder raises becomes an InputError.

    ``opener``: opens it in place of Pillow, which knows the `FORMATS`.
    """
    file = io.BytesIO(content)
    with _decoding(len(content)), Image.open(file, formats=FORMATS) if opener is None else opener(file) as opened:
        yield opened


def check_pixels(image: Image.Image) -> None:
    """Raise InputError for an image that would take too much memory to decode."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(f"{width:,} x {height:,} pixels, expected at most {MOST_PIXELS:,} in all")


@contextmanager
def _decoding(size: int | None = None) -> Iterator[None]:
    """Raise an `InputError` for whatever a decoder raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit above is ours
        try:
            yield
        except (InputError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others
            reason = (
                "none of the formats " + ", ".join(FORMATS)
                if "cannot identify" in str(error)
                else " ".join(str(error).split())
            )
            about = "" if size is None else f"{size:,} bytes; "
            raise InputError(f"damaged or no image ({about}{reason})") from None


def to_rgb(image: Image.Image, ground: str | None = None) -> Image.Image:
    """Return ``image`` decoded to its end, as 8-bit RGB, without its alpha channel, or on a ``ground`` of a colour."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white
        import numpy as np  # here, so that whoever only lists images starts without it

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    if ground is not None and image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image.convert("RGB")
