"""Image files: which kinds are read, how large they may be, and which way up they are.

Two readings are in use. Training and evaluation read the pixels as stored, as all published code does. Photos of users,
which a person or another model looks at, are turned by their EXIF orientation. Neither depends on the size of a file.
"""

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from contextcir.errors import InputError
from contextcir.files import ordinary_file

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's other decoders are seldom tried by anybody
MOST_PIXELS = 100_000_000  # that are decoded; takes about 0.5 GB
MOST_BYTES = 500_000_000


def read_image(path: Path, upright: bool, side: int | None = None) -> Image.Image:
    """Return an image file, decoded to its end, as 8-bit RGB.

    Args:
        path: of an ordinary file.
        upright: turn it by its EXIF orientation.
        side: a JPEG may be decoded at a half, a quarter or an eighth of its size, but not below this many pixels.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no ordinary file, of another format than `FORMATS`, too large, or damaged.
    """
    ordinary_file(path, most=MOST_BYTES)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", file=path) from None
    try:
        return decode_image(content, upright, side)
    except InputError as error:
        raise InputError(error.problem, file=path) from None


def decode_image(content: bytes, upright: bool, side: int | None = None) -> Image.Image:
    """Return an image from the bytes of its file; see `read_image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if side is not None:
                    opened.draft("RGB", (side, side))
                width, height = opened.size
                if width * height > MOST_PIXELS:
                    raise InputError(f"{width:,} x {height:,} pixels, expected at most {MOST_PIXELS:,} in all")
                return to_rgb(ImageOps.exif_transpose(opened) if upright else opened)
        except InputError:
            raise
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others
            reason = "none of the formats " + ", ".join(FORMATS) if "cannot identify" in str(error) else error
            raise InputError(f"damaged or no image ({len(content):,} bytes; {reason})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` decoded to its end, as 8-bit RGB, without its alpha channel."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys to white
        import numpy as np  # here, so that whoever only lists images starts without it

        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")
