"""Small folders of images, an encoder that needs no weights, and vectors on the disk, for tests of mining."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from contextcir.synthesis.mining.encoder import Floats, ImageEncoder, OpenEncoder, Vectors

SIDE = 8


class _Pixels(OpenEncoder):
    side = SIDE

    def transform(self, image: Image.Image) -> torch.Tensor:
        small = np.asarray(image.resize((SIDE, SIDE)), np.float32)
        return torch.from_numpy(small / 255 - 0.5).permute(2, 0, 1)  # (3, S, S)

    def encode(self, pixels: torch.Tensor) -> Floats:
        return pixels.flatten(1).numpy()  # (B, 3 S S)


class PixelEncoder(ImageEncoder):
    """Images as vectors of their pixels.

    Args:
        log: file that gets a line when the encoder is opened; None for none.
    """

    name = "pixels"

    def __init__(self, log: Path | None = None) -> None:
        self.log = log

    def open(self) -> OpenEncoder:
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write("opened\n")
        return _Pixels()


def draw_photos(folder: Path, kinds: int = 5, each: int = 4, seed: int = 0) -> Path:
    """Write images of several kinds that look alike within a kind: ``KIND/NUMBER.png``."""
    random = np.random.default_rng(seed)
    for kind in range(kinds):
        ground = random.integers(0, 256, (SIDE, SIDE, 3))
        for number in range(each):
            noise = random.integers(-40, 41, ground.shape)
            small = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
            path = folder / f"kind{kind}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            small.resize((64, 64), Image.Resampling.NEAREST).save(path)
    return folder


def save_vectors(path: Path, rows: np.ndarray) -> Vectors:
    """Write a matrix of vectors."""
    np.save(path, rows.astype(np.float16))
    return Vectors(path)


def grouped(images: int, dim: int, groups: int, seed: int = 0) -> np.ndarray:
    """Return normalised vectors (images, dim) around some centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((groups, dim))
    vectors = centres[random.integers(groups, size=images)] + 0.5 * random.standard_normal((images, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
