"""A query as a client sends it, checked and made into one for the searcher."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from contextcir.errors import InputError, shown
from contextcir.search.index import Photo, Where
from contextcir.search.photos import open_photo
from contextcir.search.queries import Query
from experiments.search.catalogue import shrunk
from experiments.search.limits import Limits
from experiments.search.querying import Asked as Typed


class TooLargeError(InputError):
    """More than a limit allows."""


class BadImageError(InputError):
    """An upload that is no image, or a damaged one."""


@dataclass(frozen=True)
class Asked:
    """What a client asks for, before images are read.

    Args:
        uploads: bytes of image files.
        references: images of the index, as paths or names in addresses.
        text: what shall differ.
        count: results.
        balance: from 0, the image alone, to 1, the text alone.
        without: images of the index that are not wanted.
        folder: see `contextcir.search.index.Where`.
        since: a day, a month or a year, with its beginning.
        until: likewise, with its end.
        formats: of images.
        fold: put near-duplicates together.
        maps: say what each phrase attends to.
    """

    uploads: Sequence[bytes] = field(default=(), repr=False)
    references: Sequence[str] = ()
    text: str = ""
    count: int = 20
    balance: float = 0.5
    without: Sequence[str] = ()
    folder: str = ""
    since: str = ""
    until: str = ""
    formats: Sequence[str] = ()
    fold: bool = True
    maps: bool = False

    def check(self, limits: Limits) -> None:
        """Raise an `InputError` for what is out of bounds, and for nothing to search for."""
        pictures = len(self.uploads) + len(self.references)
        if not pictures and not self.text.strip():
            raise InputError("give an image, a text, or both")
        if pictures > limits.images:
            raise InputError(f"at most {limits.images} images, got {pictures}", setting="images")
        if len(self.text) > limits.text:
            raise InputError(f"at most {limits.text:,} characters, got {len(self.text):,}", setting="text")
        if len(self.without) > limits.without:
            raise InputError(f"at most {limits.without} images, got {len(self.without)}", setting="without")
        for content in self.uploads:
            check_size(len(content), limits)
        self.where()

    def where(self) -> Where:
        """Return the filter; raises an `InputError` for what is no date or no format."""
        since, until = self.since.strip() or None, self.until.strip() or None
        return Typed(folder=self.folder, since=since, until=until, format=self.formats).where() or Where()

    def query(self, images: Sequence[Image.Image], without: Sequence[Photo]) -> Query:
        """Return the query for the searcher; one result more for each reference, which is no answer to itself."""
        return Query(
            images=tuple(images),
            text=self.text,
            count=self.count + len(self.references),
            where=self.where(),
            without=tuple(photo.path for photo in without),
            balance=self.balance,
            fold=self.fold,
            maps=self.maps,
        )


def check_size(size: int, limits: Limits) -> None:
    """Raise `TooLargeError` for an uploaded file of too many bytes."""
    if size > limits.image_bytes:
        raise TooLargeError(f"an image of {size:,} bytes, expected at most {limits.image_bytes:,}", setting="images")


def read_upload(content: bytes, name: str, side: int) -> Image.Image:
    """Return an uploaded image upright, at most ``side`` pixels wide and high.

    Raises:
        BadImageError: if it is damaged, no image, or has too many pixels; the message has its name.
    """
    try:
        return shrunk(open_photo(content, side).image, side)
    except InputError as error:
        raise BadImageError(f"{shown(name or 'the image')}: {error.problem}") from None


def sees_a_square(preprocess: Callable[[Image.Image], Tensor]) -> bool:
    """Tell whether a model's preprocessing, to pixels (3, H, W), cuts the middle square out of an image.

    Others press it into a square, or pad it: such a model sees a red stripe at the edge of a wide image.
    """
    wide = Image.new("RGB", (300, 100))
    striped = wide.copy()
    striped.paste((255, 0, 0), (0, 0, 60, 100))
    return bool(torch.equal(preprocess(wide), preprocess(striped)))
