"""Rows of bytes on disk that whichever process needs one first writes, without any lock.

The format is that of `contextcir.embeddings`: a row for each image, and a mark for each row that holds the stamp of the
file and a checksum of the row. Two processes that write a row at once write the same bytes, and a row that a kill has
cut off does not fit its mark, so it is made again.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from contextcir.embeddings import DONE, FEATURES, StoredRows, file_stamps, mark_of, write_about
from contextcir.errors import InputError
from data_modules.loading.images import ImageStore

SETTING = "data.cache"
Table = TypeVar("Table", bound="ByteTable")


class ByteTable(StoredRows):
    """A row of bytes for each of a list of images.

    Rows are not waited for until they are on disk: one that is lost is made again.

    Args:
        folder: see StoredRows.
        stamps: of the images.
        size: of a row, in bytes.
    """

    def __init__(self, folder: Path, stamps: np.ndarray, size: int) -> None:
        super().__init__(folder, stamps, size)
        self._written: dict[str, int] = {}  # descriptors, opened by the process that writes

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.folder, self.stamps, self.size)  # open files can't be pickled

    def read_into(self, row: int, content: np.ndarray) -> bool:
        """Read the row of an image into bytes (size,) uint8, which may be overwritten in any case.

        Returns:
            Whether there is one of its present file, undamaged.
        """
        mark = np.frombuffer(os.pread(self._done.fileno(), 8, 8 * row).ljust(8, b"\0"), np.uint64)[0]
        if not mark or os.preadv(self._features.fileno(), [content.data], row * self.size) < self.size:
            return False
        if self._sound[row] != mark:  # each version of a row is compared once in a process
            if mark != mark_of(self.stamps[row], content.data):
                return False
            self._sound[row] = mark
        return True

    def write_bytes(self, row: int, content: memoryview) -> None:
        """Store the row of an image, if its file exists.

        Raises:
            InputError: if nothing can be written.
        """
        if not self.stamps[row]:
            return
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


def open_table(
    kind: type[Table], images: ImageStore, folder: Path, told: str, about: dict[str, Any], extra: int = 0
) -> Table:
    """Return the table of all images of a store, and announce its size.

    Args:
        kind: of the table.
        images: the store.
        folder: of all tables.
        told: what it holds of each image.
        about: what rows depend on, among it the ``side`` in pixels.
        extra: bytes of a row beside three for each pixel.

    Raises:
        InputError: if there is no room.
    """
    files = list(images.paths.values())
    about |= {"images": hashlib.sha256(json.dumps(files).encode()).hexdigest(), "count": len(files)}
    place = folder / hashlib.sha256(json.dumps(about).encode()).hexdigest()
    size = 3 * about["side"] ** 2 + extra
    there = place.is_dir()
    announced = f"{SETTING}: the {told} of {len(files):,} images, {gigabytes(len(files) * size)} in {place}"
    rank_zero_info(f"{announced}, {'kept by an earlier run' if there else 'each decoded once'}")
    table = kind(place, file_stamps(files, images.states(images.names)), size)
    if not there:
        write_about(place, about)
    return table


def gigabytes(size: int) -> str:
    """Return a number of bytes for a message."""
    return f"{size / 1e9:,.1f} GB"
