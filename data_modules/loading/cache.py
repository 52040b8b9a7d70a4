"""Images decoded, resized and cropped once: their pixels on disk, for all epochs, runs and processes."""

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor

from contextcir.checks import whole
from contextcir.embeddings import preprocess_digest
from contextcir.encoders.pixels import divide
from contextcir.errors import InputError, shown
from data_modules.loading.byte_table import SETTING, ByteTable, gigabytes, open_table
from data_modules.loading.distinct import Collate, ImagesOnce, NamedImage
from data_modules.loading.images import ImageStore
from data_modules.loading.reduced import MOST_SIDE, REDUCED, ReducedImages
from data_modules.loading.rows import NamedTensors
from data_modules.loading.triplets import Preprocess

Kept = TypeVar("Kept")
AUTO = "auto"
FOLDER = ".contextcir-pixels"  # below the root of a benchmark, for `auto`
SPARE = 0.1  # of a disk's room that `auto` leaves free


class PixelTable(ByteTable):
    """The pixels (3, S, S) uint8 of a list of images.

    Args:
        folder: see ByteTable.
        stamps: of the images.
        size: of a row, 3 S S.
    """

    def read(self, row: int, into: Tensor | None = None) -> Tensor | None:
        """Return the pixels (3, S, S) of an image, None unless there are those of its present file, undamaged.

        ``into``: a tensor (3, S, S) uint8 to read them into, which may be overwritten in any case.
        """
        side = math.isqrt(self.size // 3)
        pixels = torch.empty(3, side, side, dtype=torch.uint8) if into is None else into
        return pixels if self.read_into(row, pixels.view(-1).numpy()) else None

    def write(self, row: int, pixels: Tensor) -> None:
        """Store the pixels (3, S, S) of an image; raises InputError if nothing can be written."""
        self.write_bytes(row, pixels.numpy().data)


class CachedPixels(NamedTensors):
    """The images of a store as pixels (3, S, S) uint8, decoded when they are first needed.

    Args:
        images: the store.
        preprocess: see `contextcir.encoders.pixels.divide`.
        folder: of all caches.

    Raises:
        InputError: if the preprocessing is random or can't be divided, or there is no room.
    """

    decodes = True

    def __init__(self, images: ImageStore, preprocess: Preprocess, folder: Path) -> None:
        super().__init__(images, preprocess)
        self.pixels, _ = divide(preprocess, SETTING)
        side = self.side = self.pixels(Image.new("RGB", (8, 6))).shape[-1]
        kept = preprocess_digest(self.pixels, "take null, to decode images each time", SETTING)
        self.table = open_table(PixelTable, images, folder, "pixels", {"preprocess": kept, "side": side})
        self._row = {name: row for row, name in enumerate(images.names)}

    def tensor(self, name: str, purpose: str, into: Tensor | None = None) -> Tensor:
        """Return the pixels (3, S, S) of an image; ``into``: a tensor to put them into.

        Raises:
            MissingFileError: if the file does not exist.
            InputError: if it can't be read, or its pixels can't be kept.
        """
        row = self._row[name]
        kept = self.table.read(row, into)
        if kept is not None:
            return kept
        pixels = self.pixels(self.images.load(name, purpose))
        self.table.write(row, pixels)
        return pixels if into is None else into.copy_(pixels)

    def held(self, name: str, purpose: str) -> NamedImage:
        """Return the name of an image, which is read with its batch."""
        return NamedImage(name, purpose)

    def collate(self, collate: Collate) -> Collate:
        """Return how queries or triplets become a batch that has each of its images once."""
        return ImagesOnce(self, collate)


class CacheSetting:
    """What a user says about keeping pixels.

    Args:
        given: None to decode images each time, ``auto`` for a folder beside them, or a folder.
        reduced: None, or the side of a square that has as many pixels as copies for an augmentation have at most.
        augmented: whether there is an augmentation.

    Raises:
        InputError: for anything else.
    """

    def __init__(self, given: str | None, reduced: int | None = None, augmented: bool = False) -> None:
        if given is not None and not (isinstance(given, str | Path) and str(given).strip()):
            raise InputError(f"expected null, auto or a folder, got {shown(given)}", setting=SETTING)
        self.given = None if given is None else str(given)
        self.reduced = None if reduced is None else whole(reduced, 1, REDUCED, most=MOST_SIDE)
        if self.reduced is not None and (given is None or not augmented):
            raise InputError("needs data.cache, and an augmentation to be for (data.augmentation)", setting=REDUCED)
        self._cached: dict[int, CachedPixels | None] = {}
        self._copies: dict[int, ReducedImages | None] = {}

    def of(self, images: ImageStore, root: Path, preprocess: Callable[[], Preprocess]) -> CachedPixels | None:
        """Return the kept pixels of a store, None where images are decoded each time.

        Args:
            images: the store.
            root: of the benchmark.
            preprocess: returns PIL image to tensor.

        Raises:
            InputError: see CachedPixels.
        """
        if self.given is None:
            return None
        if id(images) not in self._cached:  # stores live as long as the data module
            prepared = preprocess()
            side = partial(_side_of, prepared)
            self._cached[id(images)] = self._open(images, root, side, partial(CachedPixels, images, prepared))
        return self._cached[id(images)]

    def to_augment(self, images: ImageStore, root: Path) -> ImageStore | ReducedImages:
        """Return what an augmentation gets its images from: the store, or kept copies of its images.

        Raises:
            InputError: if there is no room.
        """
        side = self.reduced
        if side is None:
            return images
        if id(images) not in self._copies:
            self._copies[id(images)] = self._open(images, root, lambda: side, partial(ReducedImages, images, side))
        return self._copies[id(images)] or images

    def _open(
        self, images: ImageStore, root: Path, side: Callable[[], int], make: Callable[[Path], Kept]
    ) -> Kept | None:
        if self.given != AUTO:
            return make(Path(str(self.given)))
        try:
            free = shutil.disk_usage(root).free
            needed = 3 * side() ** 2 * len(images)
            if needed > (1 - SPARE) * free and not (root / FOLDER).is_dir():
                problem = f"{gigabytes(needed)} are needed and {gigabytes(free)} are free"
                raise InputError(problem, file=root)
            return make(root / FOLDER)
        except (OSError, InputError) as error:
            rank_zero_info(f"{SETTING} auto: images are decoded in every epoch: {error}")
            return None


def _side_of(preprocess: Preprocess) -> int:
    return divide(preprocess, SETTING)[0](Image.new("RGB", (8, 6))).shape[-1]
