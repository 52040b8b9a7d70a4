"""Gallery embeddings on disk: the same weights encode the same image once.

One folder per combination of weights, preprocessing and image list, named by their SHA-256, with two raw files:
``features.bin``, a matrix with a row per image, and ``done.bin``, a number per image: the stamp of the file that the
row was made from, 0 where there is no row yet. A row is valid while its image still has that stamp, so an interrupted
evaluation goes on where it stopped, and an image that has changed is encoded again, alone.
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

Precision = Literal["float16", "float32"]
FileState = tuple[int, int]  # size in bytes and mtime in nanoseconds

FEATURES, DONE, ABOUT = "features.bin", "done.bin", "about.json"


def state_digest(state: Mapping[str, Tensor], settings: str = "") -> str:
    """Return the SHA-256 over the names, types, shapes and contents of tensors, and over ``settings``.

    Reads every weight: about a second per gigabyte. A cheaper test (version counters, addresses) would miss weights
    that were exchanged in place, as weight averaging does.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_digest(tower: nn.Module, settings: str = "") -> str:
    """Return the `state_digest` of a module that also tells its architecture, and ``settings`` that change results."""
    return state_digest(tower.state_dict(), f"{settings}\n{tower}\n")


def preprocess_digest(preprocess: Callable[[Image.Image], Tensor]) -> str:
    """Return the SHA-256 over what ``preprocess`` says of itself and what it makes of a wide and a tall probe image.

    Raises:
        ValueError: if it is random: its results can't be kept.
    """
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    probes = [Image.fromarray(noise), Image.fromarray(noise.transpose(1, 0, 2).copy())]
    first, second = ([preprocess(probe).float() for probe in probes] for _ in range(2))
    if not all(torch.equal(one, other) for one, other in zip(first, second, strict=True)):
        raise ValueError("the preprocessing gives another result each time: run without the StoreGallery callback")
    named = getattr(preprocess, "__qualname__", None) or repr(preprocess)
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", named).encode())
    for image in first:
        digest.update(f"{tuple(image.shape)}".encode())
        digest.update(image.contiguous().numpy())
    return digest.hexdigest()


def file_stamps(paths: Sequence[str], states: Iterable[FileState | None]) -> np.ndarray:
    """Return a number (N,) uint64 for each file, another one whenever its size or mtime is; 0 for files not there."""
    stamps = np.zeros(len(paths), np.uint64)
    for row, (path, state) in enumerate(zip(paths, states, strict=True)):
        if state is not None:
            digest = hashlib.sha256(f"{path}\n{state[0]}\n{state[1]}".encode()).digest()
            stamps[row] = int.from_bytes(digest[:8], "little") or 1
    return stamps


class GalleryFeatures:
    """The embeddings of one list of images, as far as they are there.

    Several processes may read and write at once. What is read is what was written completely: the data are on disk
    before the mark that says so.

    Args:
        folder: of the two files; made with empty ones if it is new.
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
                    file.truncate(size)  # zeros, which take no space; another process that does the same does no harm
        self._features = np.memmap(folder / FEATURES, precision, "r", shape=(len(stamps), width))
        self._done = np.memmap(folder / DONE, np.uint64, "r", shape=stamps.shape)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        # a mapped array would be pickled with all it maps
        return type(self), (self.folder, self.stamps, self.width, self.precision)

    def __len__(self) -> int:
        return len(self.stamps)

    def has(self, row: int) -> bool:
        """Tell whether there is an embedding of the image as it is now."""
        return bool(self.stamps[row]) and bool(self._done[row] == self.stamps[row])

    def count(self) -> int:
        """Return how many images have an embedding."""
        return int(((self._done == self.stamps) & (self.stamps > 0)).sum())

    def read(self, row: int) -> Tensor:
        """Return the embedding (E,) of an image that `has` one."""
        return torch.from_numpy(np.array(self._features[row]))

    def write(self, rows: Tensor, embeddings: Tensor) -> None:
        """Keep embeddings (B, E) of the images ``rows`` (B,). One that holds a NaN is not kept.

        Raises:
            ValueError: if a number is too large for the precision on disk.
        """
        values = embeddings.detach().to("cpu", getattr(torch, self.precision))
        if values.isinf().any():
            raise ValueError(
                f"an embedding is too large for {self.precision}: set StoreGallery's `precision` to float32"
            )
        valid = ~values.isnan().any(1)
        index, data = rows.cpu()[valid].numpy(), values[valid].numpy()
        if self._done[index].any():  # of an older version of the image: not even a crash must leave its mark
            self._mark(index, np.zeros(len(index), np.uint64))
        write_rows(self.folder / FEATURES, index, data)
        self._mark(index, self.stamps[index])

    def _mark(self, index: np.ndarray, values: np.ndarray) -> None:
        write_rows(self.folder / DONE, index, values[:, None])


def write_rows(path: Path, rows: np.ndarray, data: np.ndarray) -> None:
    """Write rows of a matrix (B, ...) to their places in a file, and wait until they are on disk.

    By ordinary writes: through a memory map, two machines would overwrite each other's neighbouring rows, and a full
    disk would end the process without a word.
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
        weights: returns the digest of the weights as they are now; None while nothing shall be stored or read.
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
        """Return the embeddings of a gallery for the weights as they are now; None while nothing is stored.

        Args:
            split: under which `write` finds them again, until it is opened anew.
            paths: of the images by name, in the order of the gallery.
            states: size and mtime of these files, None where there is no such file.
            preprocess: PIL image to tensor.
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
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        return self._open[split]

    def write(self, split: str, rows: Tensor, embeddings: Tensor) -> GalleryFeatures:
        """Keep embeddings (B, E) of the images ``rows`` (B,) of the gallery opened last under ``split``; return it."""
        features = self._open[split]
        features.write(rows, embeddings)
        return features
