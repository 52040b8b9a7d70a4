"""Images decoded once for an augmentation that needs more of them than the model sees: copies of limited size on disk.

A copy keeps the whole image and its proportions. Of an image with no more pixels than a copy may have, it is what is
decoded; a larger one is resized (bicubic) to as many. So an augmentation sees less detail of large images: a crop of a
part of them is enlarged from fewer pixels than the file has.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_modules.loading.byte_table import ByteTable, open_table
from data_modules.loading.images import ImageStore

REDUCED = "data.reduced"
MOST_SIDE = 8192
HEAD = np.dtype("<u4")  # four: width and height of the image, and of its copy


class ReducedImages:
    """The images of a store, read from copies on disk, which are made when they are first needed.

    Datasets load from it as from the store.

    Args:
        images: the store.
        side: of the square that has as many pixels as a copy has at most.
        folder: of all tables.

    Raises:
        InputError: if there is no room.
    """

    def __init__(self, images: ImageStore, side: int, folder: Path) -> None:
        self.images, self.side = images, side
        about: dict[str, Any] = {"copies": "whole images, bicubic", "side": side}
        told = f"copies of at most {side} x {side} pixels"
        self.table = open_table(ByteTable, images, folder, told, about, extra=4 * HEAD.itemsize)
        self._row = {name: row for row, name in enumerate(images.names)}
        self._last: tuple[str, tuple[int, int]] = ("", (0, 0))

    def index(self, name: str) -> int:
        """Return the index of an image in the store."""
        return self.images.index(name)

    def load(self, name: str, purpose: str = "") -> Image.Image:
        """Return the copy of an image; see `ImageStore.load`.

        Raises:
            MissingFileError: if the file does not exist.
            InputError: if it can't be read, or its copy can't be kept.
        """
        content = np.empty(self.table.size, np.uint8)
        if not self.table.read_into(self._row[name], content):
            content = self._copy(self.images.load(name, purpose))
            self.table.write_bytes(self._row[name], content.data)
        head = 4 * HEAD.itemsize
        *size, width, height = content[:head].view(HEAD).tolist()
        self._last = name, (size[0], size[1])
        return Image.fromarray(content[head : head + 3 * width * height].reshape(height, width, 3))

    def size_of(self, name: str, loaded: Image.Image) -> tuple[int, int]:
        """Return width and height of the file's image, given the copy that was just loaded."""
        last, size = self._last
        return size if last == name else self.images.size(name)

    def _copy(self, image: Image.Image) -> np.ndarray:
        """Return the row (size,) of an image."""
        width, height = reduced_size(image.size, self.side)
        copy = image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BICUBIC)
        row, head = np.zeros(self.table.size, np.uint8), 4 * HEAD.itemsize
        row[:head] = np.array([*image.size, width, height], HEAD).view(np.uint8)
        row[head : head + 3 * width * height] = np.asarray(copy.convert("RGB")).reshape(-1)
        return row


def reduced_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the width and height of a copy, in the proportions of the image and with at most side x side pixels."""
    width, height = size
    if width * height <= side**2:
        return size
    scale = side / math.sqrt(width * height)
    narrow = max(1, math.floor(min(size) * scale))
    wide = max(1, min(math.floor(max(size) * scale), side**2 // narrow))  # rounding may give 0
    return (wide, narrow) if width >= height else (narrow, wide)
