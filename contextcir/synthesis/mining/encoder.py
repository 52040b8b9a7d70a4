"""What turns images into vectors: any model of open_clip.

Embeddings on the disk, read in blocks, so that memory does not grow with their number.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from contextcir.synthesis.mining.images import Transform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from contextcir.encoders.backbone import OpenCLIPBackbone
from collections.abc import Iterator
from pathlib import Path

from numpy.typing import NDArray

BLOCK = 16_384  # rows that are in memory at a time

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Vectors:
    """Rows of a matrix (N, D) of normalised half-precision vectors in a ``.npy`` file, or some of them.

    The file is mapped anew for every block: pages of a mapping that stays count as memory of the process.

    Args:
        path: the file.
        rows: which rows, in rising order; None for all.
    """

    def __init__(self, path: Path, rows: Rows | None = None) -> None:
        self.path = path
        total, self.dim = np.load(path, mmap_mode="r").shape
        self.rows = np.arange(total) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Rows | slice) -> Floats:
        """Return the vectors at some places, (n, D), in single precision."""
        return np.load(self.path, mmap_mode="r")[self.rows[places]].astype(np.float32)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Floats]]:
        """Yield all vectors in order: where a block begins, and the block (n, D)."""
        for start in range(0, len(self), size):
            yield start, self.take(slice(start, start + size))


class ImageEncoder(ABC):
    """Turns images into vectors; two images are as similar as the cosine of theirs."""

    name: str  # of the weights: vectors of one name can be compared

    @abstractmethod
    def open(self) -> "OpenEncoder":
        """Load the model; raises ValueError or FileNotFoundError if that fails."""


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
        """Load the weights; open_clip downloads them where they are not there yet."""
        import torch  # takes seconds, which a command that only reads its flags does without

        from contextcir.encoders.backbone import OpenCLIPBackbone

        try:
            backbone = OpenCLIPBackbone(self.model, self.pretrained, 0, 0)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(str(error).replace("--model.backbone", "--pairs.encoder")) from None
        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return _OpenClip(backbone.eval().to(device), device)


class _OpenClip(OpenEncoder):
    def __init__(self, backbone: "OpenCLIPBackbone", device: "torch.device") -> None:
        self.backbone = backbone
        self.device = device
        self.transform = backbone.preprocess
        self.side = backbone.image_size

    def encode(self, pixels: "Tensor") -> Floats:
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, self.device.type == "cuda"):
            vectors = self.backbone.encode_image(pixels.to(self.device, non_blocking=True)).embedding  # (B, D)
        return vectors.float().cpu().numpy()


def normalised(vectors: Floats, name: str) -> np.ndarray:
    """Return vectors (B, D) at length 1 in half precision; raises ValueError if one is not finite, or all zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (B, 1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError(f"{name} gives vectors that are not finite or zero: change --pairs.encoder")
    return (vectors / lengths).astype(np.float16)
