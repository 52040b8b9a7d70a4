"""A photo as search and display need it: the upright image, what it looks like, when it was taken, and a thumbnail.

Photos of users are turned by their EXIF orientation before the model's preprocessing; training and evaluation keep the
published reading, which does not turn them (`contextcir.images`).
"""

import calendar
import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from contextcir.errors import InputError, MissingFileError, printable
from contextcir.files import Inside, ordinary_file
from contextcir.images import MOST_BYTES, ORIENTATION, SUFFIXES, check_pixels, open_image, to_rgb
from contextcir.search.index import Photo

THUMBNAIL = 320  # pixels of the longer side: sharp at 160 on a screen of double density
QUALITY = 75  # of the thumbnail's JPEG: 5 to 35 KB each, about 2 GB for 100,000 photos
READING = 1  # raise it when other pixels reach the model
HEIF = "HEIF"
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
RAW_SUFFIXES = frozenset(
    (
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf",
        ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srw", ".x3f",
    )
)  # fmt: skip
VIDEO_SUFFIXES = frozenset(
    (
        ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".vob",
        ".webm", ".wmv",
    )
)  # fmt: skip
OTHER_SUFFIXES = frozenset((".avif", ".jp2", ".jxl", ".psd", ".svg"))
NO_HEIC = "HEIC needs pillow-heif: pip install pillow-heif"
_DATES = 0x9003, 0x0132  # DateTimeOriginal, which stands in the Exif block, and DateTime
_EXIF_BLOCK = 0x8769
_TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Transform = Callable[[Image.Image], Any]


class Opened(NamedTuple):
    """A decoded photo: the upright ``image`` in RGB, its whole size, one of the formats, and when it was taken."""

    image: Image.Image
    width: int
    height: int
    format: str
    taken: int | None


class ReadPhoto(NamedTuple):
    """A file by its path below the folder: the ``photo`` and the model's ``pixels``, or the ``reason`` why not.

    Of a file whose content is in the index already, only ``size``, ``modified`` and ``sha256`` are known.
    """

    path: str
    size: int = 0
    modified: int = 0
    sha256: str = ""
    photo: Photo | None = None
    pixels: Any = None
    reason: str = ""
    missing: bool = False


def why_not_read(suffix: str, heic: bool) -> str | None:
    """Return why files of this suffix are skipped; None for photos that are read, "" for what is no picture at all.

    ``heic``: whether `heic_is_read`.
    """
    if suffix in SUFFIXES or (heic and suffix in HEIC_SUFFIXES):
        return None
    if suffix in HEIC_SUFFIXES:
        return NO_HEIC
    if suffix in RAW_SUFFIXES:
        return "a raw file of a camera: export it as JPEG"
    if suffix in VIDEO_SUFFIXES:
        return "a video"
    return f"pictures of this kind are not read: convert it to JPEG ({suffix})" if suffix in OTHER_SUFFIXES else ""


def heic_is_read() -> bool:
    """Tell whether the library for HEIC is installed."""
    return _heif_opener() is not None


def _heif_opener() -> Callable[[IO[bytes]], Image.Image] | None:
    try:
        from pillow_heif.as_plugin import HeifImageFile  # of the extra `heic`
    except ImportError:
        return None
    return HeifImageFile


def is_heif(content: bytes) -> bool:
    """Tell whether the bytes of a file begin as those of HEIC do, whatever its name."""
    return content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def open_photo(content: bytes, side: int | None = None) -> Opened:
    """Return a photo from the bytes of its file, decoded to its end.

    Args:
        content: of the file.
        side: a JPEG may be decoded at a half, a quarter or an eighth of its size, but not below this many pixels.

    Raises:
        InputError: if it is damaged, too large, of a format that is not read, or HEIC without the library for it.
    """
    opener = None
    if is_heif(content):
        opener = _heif_opener()
        if opener is None:
            raise InputError(NO_HEIC)
    with open_image(content, opener) as opened:
        warnings.simplefilter("ignore")  # within this block: Pillow's, of damaged EXIF blocks
        whole = opened.size
        if side is not None:
            opened.draft("RGB", (side, side))
        check_pixels(opened)
        drawn = opened.size
        format, taken = HEIF if opener else str(opened.format), taken_at(opened)
        image = upright_rgb(opened)
    width, height = whole if image.size == drawn else whole[::-1]
    return Opened(image, width, height, format, taken)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, on white where it is transparent, and turned by its EXIF orientation.

    One whose EXIF block is damaged stays as it is. The result has no EXIF, so that it is not turned again.
    """
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # struct.error, SyntaxError and others
        turn = None
    plain = to_rgb(image if turn is None else image.transpose(turn), "white")
    plain.info = {}
    return plain


def taken_at(image: Image.Image) -> int | None:
    """Return when a photo was taken, in seconds since 1970 by the camera's clock; None where EXIF holds no good date.

    DateTimeOriginal is preferred to DateTime, which programs set when they change a file.
    """
    try:
        exif = Image.Image.getexif(image)
        values = [exif.get_ifd(_EXIF_BLOCK).get(_DATES[0]), exif.get(_DATES[1])]
    except Exception:  # the block is damaged: any of half a dozen kinds
        return None
    for value in values:
        try:
            return calendar.timegm(time.strptime(str(value)[:19].strip("\0 "), "%Y:%m:%d %H:%M:%S"))
        except ValueError:
            continue
    return None


def look_of(image: Image.Image) -> int:
    """Return the perceptual hash of an image: 64 bits, the signs of its lowest frequencies (imagehash's phash)."""
    bits = load_imagehash().phash(image).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def load_imagehash() -> Any:
    """Return the library of perceptual hashes; raises InputError if it is not installed."""
    try:
        import imagehash  # of the extra `search`; imports scipy
    except ImportError:
        raise InputError("near-duplicates need ImageHash, of the extra `search`: pip install ImageHash") from None
    return imagehash


def thumbnail_of(image: Image.Image) -> bytes:
    """Return a small JPEG of an upright image."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class PhotoReader:
    """Reads the files of a folder one by one, in this process or in those of a DataLoader.

    Args:
        folder: that the paths are below.
        transform: turns an upright image into the model's input.
        side: of the model's input, in pixels.
        known: SHA-256 of the files whose content needs no reading, as they are in the index.
    """

    def __init__(self, folder: Path, transform: Transform, side: int, known: frozenset[str] = frozenset()) -> None:
        self.inside = Inside(folder)
        self.transform = transform
        self.side = drawn_side(side)
        self.known = known

    def read(self, path: str) -> ReadPhoto:
        """Return what a file holds, or why it can't be read."""
        try:
            content, size, modified = self._content(path)
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 in self.known:
                return ReadPhoto(path, size, modified, sha256)
            opened = open_photo(content, self.side)
            look, thumbnail = look_of(opened.image), thumbnail_of(opened.image)
            photo = Photo(
                path, size, modified, sha256, look, opened.taken, opened.format, opened.width, opened.height, thumbnail
            )
            return ReadPhoto(path, size, modified, sha256, photo, self.transform(opened.image))
        except InputError as error:
            return ReadPhoto(path, reason=printable(error.problem)[:200], missing=isinstance(error, MissingFileError))
        except MemoryError:
            return ReadPhoto(path, reason="it takes more memory than there is")

    def _content(self, path: str) -> tuple[bytes, int, int]:
        """Return the bytes of a file, its size and its modification time, all of the same moment."""
        file = ordinary_file(self.inside.path(path), most=MOST_BYTES)
        try:
            with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as opened:
                status = os.fstat(opened.fileno())
                return opened.read(), status.st_size, status.st_mtime_ns
        except OSError as error:
            raise InputError(f"can't be read: {error.strerror}") from None


def drawn_side(side: int) -> int:
    """Return the least pixels that a JPEG is decoded to, for a model's input of ``side`` pixels and a thumbnail."""
    return max(2 * side, 2 * THUMBNAIL)
