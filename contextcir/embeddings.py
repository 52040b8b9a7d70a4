"""Gallery embeddings on disk: the same weights encode the same image once.

One folder per combination of weights, preprocessing and image list, named by their SHA-256, with two raw files:
``features.bin``, a matrix with a row per image, and ``done.bin``, a number per image: the stamp of the file that the
row was made from, xor the row's CRC-32; 0 for a row that is not written yet. A row is valid while its image still has
that stamp and the row that checksum, so an interrupted evaluation continues where it stopped, and only images that have
changed are encoded again, and rows that were damaged. A row is compared once in a process: what changes on disk while
it runs is not noticed, nor is damage that leaves the checksum equal (one in 4 billion).
"""

import errno
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from contextcir.errors import InputError
from contextcir.files import ordinary_file, write_json
from contextcir.weights.checksums import state_digest

Precision = Literal["float16", "float32"]
FileState = tuple[int, int]  # size in bytes and mtime in nanoseconds

FEATURES, DONE, ABOUT = "features.bin", "done.bin", "about.json"


def weights_digest(tower: nn.Module, settings: str = "") -> str:
    """Return the `state_digest` of a module with its architecture, and with ``settings`` that change results."""
    return state_digest(tower.state_dict(), f"{settings}\n{tower}\n")


def preprocess_digest(preprocess: Callable[[Image.Image], Tensor], remedy: str, setting: str) -> str:
    """Return the SHA-256 over the name of ``preprocess`` and its results on a wide and a tall probe image.

    Raises:
        InputError: if it is random: its results can't be stored. It ends with the ``remedy``, and names the setting.
    """
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    probes = [Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2).copy())]
    first, second = ([preprocess(probe).float() for probe in probes] for _ in range(2))
    if not all(torch.equal(one, other) for one, other in zip(first, second, strict=True)):
        raise InputError(
            f"the preprocessing gives another result each time, so embeddings can't be stored: {remedy}",
            setting=setting,
        )
    named = getattr(preprocess, "__qualname__", None) or repr(preprocess)
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", named).encode())
    for image in first:
        digest.update(f"{tuple(image.shape)}".encode())
        digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


def file_stamps(paths: Sequence[str], states: Iterable[FileState | None]) -> np.ndarray:
    """Return a stamp (N,) uint64 of each file, which changes with its size or mtime; 0 for missing files."""
    stamps = np.zeros(len(paths), np.uint64)
    for row, (path, state) in enumerate(zip(paths, states, strict=True)):
        if state is not None:
            digest = hashlib.sha256(f"{path}\n{state[0]}\n{state[1]}".encode()).digest()
            stamps[row] = int.from_bytes(digest[:8], "little") or 1
    return stamps


class StoredRows:
    """What a list of images has on disk: a row of bytes for each.

    Several processes may read and write at once. Only complete rows are read: a row is on disk before its mark is, and
    the mark holds its checksum. A row that was cut off, overwritten or changed counts as not stored, and is encoded
    again.

    Args:
        folder: of the two files, which are made if they are missing.
        stamps: (N,) uint64, see `file_stamps`: the images as they are now.
        size: of a row, in bytes.

    Raises:
        InputError: if there is no room for them, or something else lies in their place.
    """

    def __init__(self, folder: Path, stamps: np.ndarray, size: int) -> None:
        self.folder, self.stamps, self.size = folder, stamps, size
        make_folder(folder)
        for name, total in ((FEATURES, len(stamps) * size), (DONE, stamps.nbytes)):
            reserve(folder / name, total)
        self._features, self._done = ((folder / name).open("rb", buffering=0) for name in (FEATURES, DONE))
        self._sound = np.zeros(len(stamps), np.uint64)  # marks whose rows were compared with them by this process

    def __len__(self) -> int:
        return len(self.stamps)

    def has(self, row: int) -> bool:
        """Return whether the current version of the image has a row, as it was written."""
        if not self.stamps[row]:
            return False
        mark = np.frombuffer(os.pread(self._done.fileno(), 8, 8 * row).ljust(8, b"\0"), np.uint64)[0]
        if not mark:
            return False
        if self._sound[row] != mark and mark == mark_of(self.stamps[row], self._bytes(row)):
            self._sound[row] = mark
        return bool(self._sound[row] == mark)

    def count(self) -> int:
        """Return how many images have a row."""
        return sum(map(self.has, range(len(self))))

    def _bytes(self, row: int) -> bytes:
        return os.pread(self._features.fileno(), self.size, row * self.size)

    def _store(self, index: np.ndarray, data: np.ndarray) -> None:
        """Store rows (B, ...) of the images ``index`` (B,).

        Rows that another process has stored meanwhile are left alone: their marks never vanish under a reader.
        """
        new = np.array([not self.has(row) for row in index.tolist()], bool)
        index, data = index[new], data[new]
        if any(os.pread(self._done.fileno(), 8, 8 * row).strip(b"\0") for row in index.tolist()):
            # The mark of an older version must not outlive its row, even after a crash.
            self._mark(index, np.zeros(len(index), np.uint64))
        write_rows(self.folder / FEATURES, index, data)
        marks = [mark_of(stamp, values.tobytes()) for stamp, values in zip(self.stamps[index], data, strict=True)]
        self._mark(index, np.array(marks, np.uint64))

    def _mark(self, index: np.ndarray, values: np.ndarray) -> None:
        write_rows(self.folder / DONE, index, values[:, None])


class GalleryFeatures(StoredRows):
    """The stored embeddings of one list of images.

    Files are read, not mapped: a file that shrinks would end a process that maps it.

    Args:
        folder: see StoredRows, as for ``stamps`` and errors.
        stamps: of the images.
        width: of an embedding.
        precision: of the numbers on disk.
    """

    def __init__(self, folder: Path, stamps: np.ndarray, width: int, precision: Precision) -> None:
        self.width, self.precision = width, precision
        super().__init__(folder, stamps, width * np.dtype(precision).itemsize)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # An open file can't be pickled.
        return type(self), (self.folder, self.stamps, self.width, self.precision)

    def read(self, row: int) -> Tensor:
        """Return the embedding (E,) of an image that `has` one.

        Raises:
            InputError: if the file was cut off since.
        """
        content = self._bytes(row)
        if len(content) < self.size:
            raise InputError("was cut off while it was read", file=self.folder / FEATURES)
        return torch.from_numpy(np.frombuffer(bytearray(content), self.precision))

    def write(self, rows: Tensor, embeddings: Tensor) -> None:
        """Store embeddings (B, E) of the images ``rows`` (B,), without those that hold a NaN.

        Raises:
            InputError: if a number is too large for the precision on disk, or nothing can be written there.
        """
        values = embeddings.detach().to("cpu", getattr(torch, self.precision))
        if values.isinf().any():
            raise InputError(
                f"an embedding is too large for {self.precision}: set StoreGallery's `precision` to float32"
            )
        valid = ~values.isnan().any(1)
        self._store(rows.cpu()[valid].numpy(), values[valid].numpy())


def mark_of(stamp: np.uint64, content: bytes | memoryview) -> np.uint64:
    """Return the mark of a row: the stamp of its image with the row's checksum in it, never 0."""
    return (stamp ^ np.uint64(zlib.crc32(content))) or stamp


def make_folder(folder: Path) -> None:
    """Make a folder; raises InputError with the reason if that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_store(folder, error) from None


def reserve(path: Path, size: int) -> None:
    """Make a file at least ``size`` bytes long, zeros where it is new, and have the disk set room aside for it.

    Where the file system can't do that, a full disk is met when a row is written.

    Raises:
        InputError: if there is no room, or something else than a file lies there.
    """
    try:
        if os.path.lexists(path):
            ordinary_file(path)
        with open(path, "ab") as file:
            state = os.fstat(file.fileno())
            if state.st_size < size:
                file.truncate(size)  # it does no harm if several processes do this
            if size and 512 * state.st_blocks < size:
                _set_aside(file.fileno(), size, state.st_size)
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise _no_store(path, error) from None


def _set_aside(descriptor: int, size: int, before: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if before < size:
                os.ftruncate(descriptor, before)
            needed = f"there is no room for {size:,} bytes"
            raise OSError(error.errno, needed) from None


def _no_store(path: Path, error: OSError) -> InputError:
    problem = f"no features can be stored: {error.strerror}; make room, or choose another folder"
    return InputError(problem, file=path)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write down what the features of a folder belong to; raises InputError if that can't be done."""
    try:
        write_json(folder / ABOUT, about, indent=2)
    except OSError as error:
        raise _no_store(folder / ABOUT, error) from None


def write_rows(path: Path, rows: np.ndarray, data: np.ndarray) -> None:
    """Write rows of a matrix (B, ...) to their places in a file, and wait until they are on disk.

    Ordinary writes are used: through a memory map, two machines would overwrite each other's neighbouring rows, and a
    full disk would kill the process without a message.

    Raises:
        InputError: if nothing can be written, on a full disk for instance.
    """
    try:
        with open(path, "r+b") as file:
            # Rows that follow each other go at once: many small writes leave a file that is read more slowly as well.
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else ():
                file.seek(int(rows[run[0]]) * data[:1].nbytes)
                file.write(data[run].tobytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _no_store(path, error) from None


class GalleryStore:
    """The galleries of a run, each in its own folder below ``folder``.

    Args:
        folder: of all galleries of all models.
        width: of an embedding.
        precision: of the numbers on disk.
        weights: returns the digest of the current weights; None while nothing is to be stored or read.
    """

    def __init__(self, folder: Path, width: int, precision: Precision, weights: Callable[[], str | None]) -> None:
        self.folder = folder
        self.width = width
        self.precision: Precision = precision
        self.weights = weights
        self._open: dict[str, GalleryFeatures] = {}

    def open(
        self,
        split: str,
        paths: Mapping[str, str],
        states: Sequence[FileState | None],
        preprocess: Callable[[Image.Image], Tensor],
    ) -> GalleryFeatures | None:
        """Return the embeddings of a gallery for the current weights; None while nothing is to be stored.

        Args:
            split: name of the gallery for `write`, until the split is opened again.
            paths: of the images by name, in the order of the gallery.
            states: size and mtime of these files, None for missing files.
            preprocess: PIL image to tensor.

        Raises:
            InputError: if the preprocessing is random.
        """
        weights = self.weights()
        if weights is None:
            return None
        about = {
            "weights": weights,
            "preprocess": preprocess_digest(preprocess, "leave out StoreGallery", "trainer.callbacks"),
            "images": hashlib.sha256(json.dumps(list(paths.items())).encode()).hexdigest(),
            "count": len(paths),
            "width": self.width,
            "precision": self.precision,
        }
        folder = self.folder / hashlib.sha256(json.dumps(about).encode()).hexdigest()
        stamps = file_stamps(list(paths.values()), states)
        self._open[split] = GalleryFeatures(folder, stamps, self.width, self.precision)
        write_about(folder, about)
        return self._open[split]

    def write(self, split: str, rows: Tensor, embeddings: Tensor) -> GalleryFeatures:
        """Store embeddings (B, E) of the images ``rows`` (B,) of the gallery last opened for ``split``; return it."""
        features = self._open[split]
        features.write(rows, embeddings)
        return features
