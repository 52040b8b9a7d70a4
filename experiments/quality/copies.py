"""Measure how near-duplicates are told from other images: bits of the perceptual hash, and cosines of embeddings.

python -m experiments.quality.copies --images datasets/scenes/img_raw/val --model scenes-vit

Copies are made of the images: compressed again, made smaller, brighter, or cut at the edges.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.images import read_image
from contextcir.search.composing import ModelEncoder
from contextcir.search.folding import LEAST_COSINE, MOST_BITS
from contextcir.search.listing import list_photos
from contextcir.search.photos import look_of
from contextcir.training.models import load
from experiments.command import command, processor, publish, table

BATCH = 64


def compressed(image: Image.Image) -> Image.Image:
    """Return an image as a JPEG of quality 60 shows it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    """Return an image at half its size."""
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)


def brighter(image: Image.Image) -> Image.Image:
    """Return an image that is brighter by 15 %."""
    return ImageEnhance.Brightness(image).enhance(1.15)


def cut(image: Image.Image) -> Image.Image:
    """Return an image without 3 % of it at each edge."""
    left, top = round(0.03 * image.width), round(0.03 * image.height)
    return image.crop((left, top, image.width - left, image.height - top))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": compressed,
    "half the size": halved,
    "brighter by 15 %": brighter,
    "cut by 3 % at each edge": cut,
}


def copies(images: Path, model: str, most: int = 900, markdown: Path | None = None) -> None:
    """Compare images with each other, and with copies of themselves.

    Args:
        images: A folder of different images.
        model: Whose embeddings are compared: what `experiments.search index` takes.
        most: Images that are read, the first ones by path.
        markdown: Write the tables here too.
    """
    whole(most, 2, "most", 20_000)
    paths = sorted(list_photos(images).photos)[:most]
    if len(paths) < 2:
        raise InputError("holds fewer than two images", file=images, setting="images")
    encoder = ModelEncoder(load(model))
    pictures = [read_image(images / path, upright=True) for path in paths]
    looks = np.array([look_of(picture) for picture in pictures], np.uint64)  # (N,)
    vectors = embed(encoder, pictures)  # (N, E)
    rows = []
    for name, change in COPIES.items():
        changed = [change(picture) for picture in pictures]
        bits = np.bitwise_count(looks ^ np.array([look_of(copy) for copy in changed], np.uint64))  # (N,)
        cosines = (embed(encoder, changed) * vectors).sum(dim=1).numpy()
        both = (bits <= MOST_BITS) & (cosines >= LEAST_COSINE)
        rows.append([name, *quantiles(bits, (0.5, 0.9, 0.99), 0), *quantiles(cosines, (0.01, 0.5), 3), percent(both)])
    first, second = np.triu_indices(len(paths), 1)
    distance, cosine = np.bitwise_count(looks[first] ^ looks[second]), (vectors @ vectors.T).numpy()[first, second]
    near = distance <= MOST_BITS
    both = near & (cosine >= LEAST_COSINE)
    header = ["copies", "bits, median", "90 %", "99 %", "cosine, 1 %", "median", "folded, percent"]
    lines = [
        f"{len(paths):,} images, model {model}; {processor()}, {torch.get_num_threads()} thread(s)\n",
        table(header, rows),
        f"{len(first):,} pairs of different images: {near.sum():,} within {MOST_BITS} bits"
        + (f", with cosines of {cosine[near].min():.2f} to {cosine[near].max():.2f}" if near.any() else "")
        + f"; {both.sum():,} also have a cosine of at least {LEAST_COSINE}",
    ]
    publish("\n".join(lines), markdown)


def embed(encoder: ModelEncoder, pictures: list[Image.Image]) -> Tensor:
    """Return the embeddings of images (N, E)."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        batch = torch.stack([encoder.transform(picture) for picture in pictures[start : start + BATCH]])
        parts.append(encoder.encode(batch))
    return torch.cat(parts)


def quantiles(values: np.ndarray, shares: tuple[float, ...], digits: int) -> list[str]:
    """Return quantiles of some values as texts."""
    return [f"{np.quantile(values, share):.{digits}f}" for share in shares]


def percent(values: np.ndarray) -> str:
    """Return the share of true values, in percent."""
    return f"{100 * values.mean():.1f}"


def main() -> None:
    """Run the command."""
    command(copies)


if __name__ == "__main__":
    main()
