"""Images decoded, resized and cropped once: their pixels on disk, for all epochs, runs and processes.

The format is that of `contextcir.embeddings`: a row a image, and a mark for each row that holds the stamp of the file
and a checksum of the row. Whichever process needs an image first writes its row, without any lock: two that do it at
once write the same bytes, and a row that a kill has cut off does not fit its mark, so it is decoded again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from PIL import Image
from torch import Tensor

from contextcir.embeddings import DONE, FEATURES, StoredRows, file_stamps, mark_of, preprocess_digest, write_about
from contextcir.encoders.pixels import divide
from contextcir.errors import InputError, shown
from data_modules.loading.distinct import Collate, ImagesOnce, NamedImage
from data_modules.loading.images import ImageStore
from data_modules.loading.rows import NamedTensors
from data_modules.loading.triplets import Preprocess

SETTING = "data.cache"
AUTO = "auto"
FOLDER = ".contextcir-pixels"  # below the root of a benchmark, for `auto`
SPARE = 0.1  # of a disk's room that `auto` leaves free


class PixelTable(StoredRows):
    """The pixels (3, S, S) uint8 of a list of images.

    Rows are not waited for until they are on disk: one that is lost is decoded again.

    Args:
        folder: see StoredRows.
        stamps: of the images.
        side: S.
    """

    def __init__(self, folder: Path, stamps: np.ndarray, side: int) -> None:
        self.side = side
        super().__init__(folder, stamps, 3 * side * side)
        self._written: dict[str, int] = {}  # descriptors, opened by the process that writes

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.folder, self.stamps, self.side)  # open files can't be pickled

    def read(self, row: int, into: Tensor | None = None) -> Tensor | None:
        """Return the pixels (3, S, S) of an image, None unless there are those of its present file, undamaged.

        ``into``: a tensor (3, S, S) uint8 to read them into, which may be overwritten in any case.
        """
        mark = np.frombuffer(os.pread(self._done.fileno(), 8, 8 * row).ljust(8, b"\0"), np.uint64)[0]
        if not mark:
            return None
        content = np.empty(self.size, np.uint8) if into is None else into.view(-1).numpy()
        if os.preadv(self._features.fileno(), [content.data], row * self.size) < self.size:
            return None
        if self._sound[row] != mark:  # each version of a row is compared once in a process
            if mark != mark_of(self.stamps[row], content.data):
                return None
            self._sound[row] = mark
        return torch.from_numpy(content).view(3, self.side, self.side) if into is None else into

    def write(self, row: int, pixels: Tensor) -> None:
        """Store the pixels (3, S, S) of an image.

        Raises:
            InputError: if nothing can be written.
        """
        content = pixels.numpy().data
        mark = mark_of(self.stamps[row], content)
        try:
            os.pwrite(self._descriptor(FEATURES), content, row * self.size)
            os.pwrite(self._descriptor(DONE), mark.tobytes(), 8 * row)
        except OSError as error:
            problem = f"no pixels can be kept: {error.strerror}; make room, or take null"
            raise InputError(problem, file=self.folder, setting=SETTING) from None
        self._sound[row] = mark

    def _descriptor(self, name: str) -> int:
        if name not in self._written:
            self._written[name] = os.open(self.folder / name, os.O_WRONLY)
        return self._written[name]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_written", {}).values():
            os.close(descriptor)


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
        files = list(images.paths.values())
        about = {
            "preprocess": preprocess_digest(self.pixels, "take null, to decode images each time", SETTING),
            "images": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
            "count": len(files),
            "side": side,
        }
        place = folder / hashlib.sha256(json.dumps(about).encode()).hexdigest()
        size = len(files) * 3 * side * side
        there = place.is_dir()
        told = f"{SETTING}: the pixels of {len(files):,} images, {_gigabytes(size)} in {place}"
        rank_zero_info(f"{told}, {'kept by an earlier run' if there else 'each decoded once'}")
        self.table = PixelTable(place, file_stamps(files, images.states(images.names)), side)
        if not there:
            write_about(place, about)
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
        if self.table.stamps[row]:
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

    Raises:
        InputError: for anything else.
    """

    def __init__(self, given: str | None) -> None:
        if given is not None and not (isinstance(given, str | Path) and str(given).strip()):
            raise InputError(f"expected null, auto or a folder, got {shown(given)}", setting=SETTING)
        self.given = None if given is None else str(given)
        self._cached: dict[int, CachedPixels | None] = {}

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
            self._cached[id(images)] = self._open(images, root, preprocess())
        return self._cached[id(images)]

    def _open(self, images: ImageStore, root: Path, preprocess: Preprocess) -> CachedPixels | None:
        if self.given != AUTO:
            return CachedPixels(images, preprocess, Path(str(self.given)))
        try:
            free = shutil.disk_usage(root).free
            side = divide(preprocess, SETTING)[0](Image.new("RGB", (8, 6))).shape[-1]
            needed = 3 * side * side * len(images)
            if needed > (1 - SPARE) * free and not (root / FOLDER).is_dir():
                problem = f"{_gigabytes(needed)} are needed and {_gigabytes(free)} are free"
                raise InputError(problem, file=root)
            return CachedPixels(images, preprocess, root / FOLDER)
        except (OSError, InputError) as error:
            rank_zero_info(f"{SETTING} auto: images are decoded in every epoch: {error}")
            return None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
