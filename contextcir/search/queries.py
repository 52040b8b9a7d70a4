"""What is asked of a search, and what it finds: plain values, checked where they are made."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from contextcir import checks
from contextcir.errors import InputError, shown
from contextcir.images import MOST_PIXELS, image_bytes
from contextcir.search.index import Photo, Where
from contextcir.search.photos import open_photo, upright_rgb

MOST_RESULTS = 1000
MOST_IMAGES = 16
MOST_TEXT = 10_000  # characters; the model reads about 300 of them
MOST_UNWANTED = 1000

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Query:
    """A search by images, a text, or both.

    The composed query q is what the model makes of an image i and the text; n(x) is x, L2-normalised. Without a text
    the query is n(i), without images n(t), with t the embedding of the text. Of several images, i and q are the means
    of theirs.

    Args:
        images: what is searched from; turned by their EXIF orientation where they have one.
        text: what is to be different.
        count: results.
        where: which photos are looked at; None for all.
        without: paths of photos in the index that are not wanted: they are left out, and the query moves away from
            them, as `Index.search` says.
        balance: b in [0, 1]. At 0.5 the query is q; below, (1 - 2b) n(i) + 2b q; above, (2 - 2b) q + (2b - 1) n(t).
        fold: show photos that look alike as copies of the best one.
        maps: give the attention to each noun phrase.

    Raises:
        InputError: if there is neither image nor text, or a number or length is outside of its range.
    """

    images: tuple[Image.Image, ...] = ()
    text: str = ""
    count: int = 20
    where: Where | None = None
    without: tuple[str, ...] = ()
    balance: float = 0.5
    fold: bool = True
    maps: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputError(f"expected a text, got {shown(self.text)}", setting="text")
        if not self.images and not self.text.strip():
            raise InputError("expected an image, a text, or both; got neither", setting="text")
        if len(self.text) > MOST_TEXT:
            problem = f"expected at most {MOST_TEXT:,} characters, got {len(self.text):,}"
            raise InputError(problem, setting="text")
        if len(self.images) > MOST_IMAGES:
            problem = f"expected at most {MOST_IMAGES} images, got {len(self.images):,}"
            raise InputError(problem, setting="image")
        if len(self.without) > MOST_UNWANTED:
            problem = f"expected at most {MOST_UNWANTED:,} paths, got {len(self.without):,}"
            raise InputError(problem, setting="without")
        checks.whole(self.count, 1, "k", MOST_RESULTS)
        checks.between(self.balance, 0, 1, "balance")


@dataclass(frozen=True)
class Result:
    """A photo that was found: its ``rank`` from 1 on, its ``score``, the cosine with the query, and its ``copies``.

    Copies are near-duplicates of lower rank, in the order of theirs.
    """

    rank: int
    score: float
    photo: Photo
    copies: tuple[Photo, ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A noun phrase of the text: its characters ``[start, end)`` in `Found.text`.

    ``attention``: (rows, columns) over the patches of the first image, sums to 1; None for fusions without attention,
    if no maps were asked for, or there is no image, and for a phrase beyond the end of what the model reads.
    """

    text: str
    start: int
    end: int
    attention: Tensor | None = None


@dataclass(frozen=True)
class Found:
    """What a search found. ``text``: the text as the model reads it."""

    results: tuple[Result, ...]
    phrases: tuple[Phrase, ...]
    text: str


def read_pictures(given: Picture | Sequence[Picture] | None) -> tuple[Image.Image, ...]:
    """Return the images of a query, from one or several files, contents of files, PIL images or arrays.

    Arrays are (rows, columns, 3) or (rows, columns) of uint8.

    Raises:
        MissingFileError: for a file that does not exist.
        InputError: for what is no image, damaged, or too large.
    """
    if given is None:
        return ()
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    pictures: Sequence[Any] = given if several else [given]  # type: ignore[assignment]
    if len(pictures) > MOST_IMAGES:
        raise InputError(f"expected at most {MOST_IMAGES} images, got {len(pictures):,}", setting="image")
    return tuple(map(read_picture, pictures))


def read_picture(given: Picture) -> Image.Image:
    """Return one image, upright and in RGB; raises as `read_pictures`."""
    if isinstance(given, Image.Image):
        return as_shown(given)
    if isinstance(given, np.ndarray):
        good = given.dtype == np.uint8 and (given.ndim == 2 or given.shape[2:] == (3,)) and given.size
        if not good:
            problem = f"expected an array (rows, columns, 3) of uint8, got {given.shape} of {given.dtype}"
            raise InputError(problem, setting="image")
        return Image.fromarray(given).convert("RGB")
    if isinstance(given, bytes):
        return open_photo(given).image
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        try:
            return open_photo(image_bytes(path)).image
        except InputError as error:
            raise type(error)(error.problem, file=error.file or path, setting="image") from None
    raise InputError(f"expected a file, bytes, a PIL image or an array, got {type(given).__name__}", setting="image")


def as_shown(image: Image.Image) -> Image.Image:
    """Return a PIL image upright and in RGB.

    Raises:
        InputError: if it is damaged, empty or too large.
    """
    width, height = image.size
    if not 0 < width * height <= MOST_PIXELS:
        raise InputError(f"expected an image of 1 to {MOST_PIXELS:,} pixels, got {width:,} x {height:,}")
    try:
        return upright_rgb(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"damaged image: {' '.join(str(error).split())[:100]}") from None
