"""Embeddings for mining: the model that computes them, any of open_clip, and the vectors on disk, read in blocks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file
from contextcir.synthesis.clip import Floats, half_on_gpu, load_clip, unit_vectors
from contextcir.synthesis.mining.images import Transform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from contextcir.encoders.backbone import OpenCLIPBackbone

BLOCK = 16_384  # rows in memory at a time
SETTING = "pairs.encoder"
Rows = NDArray[np.int64]


class ImageEncoder(ABC):
    """Turns images into vectors; the similarity of two images is the cosine of theirs."""

    name: str  # of the weights: vectors of one name can be compared

    @abstractmethod
    def open(self) -> "OpenEncoder":
        """Load the model; raises InputError if that fails."""


class OpenEncoder(ABC):
    """A model in memory: ``transform`` makes its input (3, S, S) of an image, ``side`` is S."""

    transform: Transform
    side: int

    @abstractmethod
    def encode(self, pixels: "Tensor") -> Floats:
        """Return the vectors (B, D) of images (B, 3, S, S), on the CPU; they need not be normalised."""


class ClipEncoder(ImageEncoder):
    """The image tower of an open_clip model.

    Args:
        model: name that open_clip knows, ``local-dir:FOLDER``, or ``scenes-vit`` for the embedded one.
        pretrained: tag or file of its weights; null for a folder and for the embedded model, which bring their own.
        device: "cuda", "cuda:1", "cpu"; null for a GPU where there is one.
    """

    def __init__(
        self, model: str = "ViT-B-32", pretrained: str | None = "laion2b_s34b_b79k", device: str | None = None
    ) -> None:
        self.model = model
        self.pretrained = pretrained
        self.device = device
        self.name = model if pretrained is None else f"{model} {pretrained}"

    def open(self) -> OpenEncoder:
        """Load the weights; open_clip downloads them where they are missing."""
        return _OpenClip(*load_clip(self.model, self.pretrained, self.device, SETTING))


class _OpenClip(OpenEncoder):
    def __init__(self, backbone: "OpenCLIPBackbone", device: "torch.device") -> None:
        self.backbone = backbone
        self.device = device
        self.transform = backbone.preprocess
        self.side = backbone.image_size

    def encode(self, pixels: "Tensor") -> Floats:
        import torch

        with torch.inference_mode(), half_on_gpu(self.device):
            vectors = self.backbone.encode_image(pixels.to(self.device, non_blocking=True)).embedding  # (B, D)
        return vectors.float().cpu().numpy()


def normalised(vectors: Floats, name: str) -> np.ndarray:
    """Return vectors (B, D) at length 1 in half precision; raises InputError if one is zero or not finite."""
    return unit_vectors(vectors, name, SETTING).astype(np.float16)


def load_array(path: Path, mapped: bool = False) -> np.ndarray:
    """Return an array of the folder for intermediate results; raises InputError if it is damaged."""
    try:
        return np.load(ordinary_file(path), mmap_mode="r" if mapped else None)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        problem = f"damaged ({shown(str(error), 80)[1:-1]}): remove the folder that it is in, which is made again"
        raise InputError(problem, file=path) from None


class Vectors:
    """Rows of a matrix (N, D) of unit vectors in half precision in a ``.npy`` file: all or some of them.

    The file is mapped anew for every block, because the pages of a lasting mapping count as memory of the process.

    Args:
        path: the file.
        rows: which rows, in ascending order; None for all.
    """

    def __init__(self, path: Path, rows: Rows | None = None) -> None:
        self.path = path
        stored = load_array(path, mapped=True)
        if stored.ndim != 2:
            raise InputError(f"damaged: expected a matrix, found the shape {stored.shape}", file=path)
        total, self.dim = stored.shape
        self.rows = np.arange(total) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Rows | slice) -> Floats:
        """Return the vectors at some positions, (n, D), in single precision."""
        return np.load(self.path, mmap_mode="r")[self.rows[places]].astype(np.float32)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """Yield all vectors in order, as blocks: the position of the first, and the block (n, D)."""
        for start in range(0, len(self), size):
            yield start, self.take(slice(start, start + size))
