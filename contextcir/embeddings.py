"""Gallery embeddings on disk: the same weights encode the same image once.

One folder per combination of weights, preprocessing and image list, named by their SHA-256, with two raw files:
``features.bin``, a matrix with a row per image, and ``done.bin``, a number per image: the stamp of the file that the
row was made from, 0 for a row that is not written yet. A row is valid while its image still has that stamp, so an
interrupted evaluation continues where it stopped, and only images that have changed are encoded again.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from contextcir.errors import InputError
from contextcir.weights.checksums import state_digest

Precision = Literal["float16", "float32"]
FileState = tuple[int, int]  # size in bytes and mtime in nanoseconds

FEATURES, DONE, ABOUT = "features.bin", "done.bin", "about.json"


def weights_digest(tower: nn.Module, settings: str = "") -> str:
    """Return the `state_digest` of a module with its architecture, and with ``settings`` that change results."""
    return state_digest(tower.state_dict(), f"{settings}\n{tower}\n")


def preprocess_digest(preprocess: Callable[[Image.Image], Tensor]) -> str:
    """Return the SHA-256 over the name of ``preprocess`` and its results on a wide and a tall probe image.

    Raises:
        InputError: if it is random: its results can't be stored.
    """
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    probes = [Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2).copy())]
    first, second = ([preprocess(probe).float() for probe in probes] for _ in range(2))
    if not all(torch.equal(one, other) for one, other in zip(first, second, strict=True)):
        raise InputError(
            "the preprocessing gives another result each time, so embeddings can't be stored: leave out StoreGallery",
            setting="trainer.callbacks",
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


class GalleryFeatures:
    """The stored embeddings of one list of images.

    Several processes may read and write at once. Only complete rows are read: a row is on disk before its mark is.

    Args:
        folder: of the two files, which are made if they are missing.
        stamps: (N,) uint64, see `file_stamps`: the images as they are now.
        width: of an embedding.
        precision: of the numbers on disk.
    """

    def __init__(self, folder: Path, stamps: np.ndarray, width: int, precision: Precision) -> None:
        self.folder, self.stamps, self.width, self.precision = folder, stamps, width, precision
        folder.mkdir(parents=True, exist_ok=True)
        for name, size in ((FEATURES, len(stamps) * width * np.dtype(precision).itemsize), (DONE, stamps.nbytes)):
            with open(folder / name, "ab") as file:
                if file.tell() < size:
                    file.truncate(size)  # sparse zeros; it does no harm if several processes do this
        self._features = np.memmap(folder / FEATURES, precision, "r", shape=(len(stamps), width))
        self._done = np.memmap(folder / DONE, np.uint64, "r", shape=stamps.shape)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # A memory map would be pickled with its content.
        return type(self), (self.folder, self.stamps, self.width, self.precision)

    def __len__(self) -> int:
        return len(self.stamps)

    def has(self, row: int) -> bool:
        """Return whether the current version of the image has an embedding."""
        return bool(self.stamps[row]) and bool(self._done[row] == self.stamps[row])

    def count(self) -> int:
        """Return how many images have an embedding."""
        return int(((self._done == self.stamps) & (self.stamps > 0)).sum())

    def read(self, row: int) -> Tensor:
        """Return the embedding (E,) of an image that `has` one."""
        return torch.from_numpy(np.array(self._features[row]))

    def write(self, rows: Tensor, embeddings: Tensor) -> None:
        """Store embeddings (B, E) of the images ``rows`` (B,), without those that hold a NaN.

        Rows that another process has stored meanwhile are left alone: their marks never vanish under a reader.

        Raises:
            InputError: if a number is too large for the precision on disk.
        """
        values = embeddings.detach().to("cpu", getattr(torch, self.precision))
        if values.isinf().any():
            raise InputError(
                f"an embedding is too large for {self.precision}: set StoreGallery's `precision` to float32"
            )
        valid = ~values.isnan().any(1)
        index, data = rows.cpu()[valid].numpy(), values[valid].numpy()
        new = self._done[index] != self.stamps[index]
        index, data = index[new], data[new]
        if self._done[index].any():  # the mark of an older version must not outlive its row, even after a crash
            self._mark(index, np.zeros(len(index), np.uint64))
        write_rows(self.folder / FEATURES, index, data)
        self._mark(index, self.stamps[index])

    def _mark(self, index: np.ndarray, values: np.ndarray) -> None:
        write_rows(self.folder / DONE, index, values[:, None])


def write_rows(path: Path, rows: np.ndarray, data: np.ndarray) -> None:
    """Write rows of a matrix (B, ...) to their places in a file, and wait until they are on disk.

    Ordinary writes are used: through a memory map, two machines would overwrite each other's neighbouring rows, and a
    full disk would kill the process without a message.
    """
    with open(path, "r+b") as file:
        for row, values in zip(rows.tolist(), data, strict=True):
            file.seek(row * values.nbytes)
            file.write(values.tobytes())
        file.flush()
        os.fsync(file.fileno())


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
            "preprocess": preprocess_digest(preprocess),
            "images": hashlib.sha256(json.dumps(list(paths.items())).encode()).hexdigest(),
            "count": len(paths),
            "width": self.width,
            "precision": self.precision,
        }
        folder = self.folder / hashlib.sha256(json.dumps(about).encode()).hexdigest()
        stamps = file_stamps(list(paths.values()), states)
        self._open[split] = GalleryFeatures(folder, stamps, self.width, self.precision)
        # Not by a temporary name: ranks in containers may share the process id that it would be made of.
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return self._open[split]

    def write(self, split: str, rows: Tensor, embeddings: Tensor) -> GalleryFeatures:
        """Store embeddings (B, E) of the images ``rows`` (B,) of the gallery last opened for ``split``; return it."""
        features = self._open[split]
        features.write(rows, embeddings)
        return features
