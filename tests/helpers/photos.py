"""Photos that tests draw, an encoder that needs no model, and an index in memory that takes no short cut."""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contextcir.search.folder import ImageEncoder
from contextcir.search.index import Hit, Index, Photo, Stored, Where


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of soft blobs, another one for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def save(path: Path, seed: int, **options: Any) -> Path:
    """Write such a picture as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)
    return path


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return the bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def damaged(folder: Path) -> dict[str, str]:
    """Write files that are no whole photos; return words of the reason of each."""
    whole, small = encoded(picture(10, (300, 200))), encoded(picture(10), "PNG")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(small[:300])
    (folder / "cut.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(30))
    formats = "none of the formats"
    return {"cut.jpg": "truncated", "text.jpg": formats, "empty.png": formats, "cut.png": "", "cut.heic": ""}


class ColourEncoder(ImageEncoder):
    """Embeds a picture by 48 of its pixels; ``calls`` counts pictures."""

    side = 4

    def __init__(self) -> None:
        self.calls = 0

    @staticmethod
    def transform(image: Image.Image) -> Tensor:
        """Return 4 x 4 pixels."""
        small = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) - 128

    def encode(self, pixels: Tensor) -> Tensor:
        """Return them at length 1."""
        self.calls += len(pixels)
        return torch.nn.functional.normalize(pixels.flatten(1), dim=-1)


class MemoryIndex(Index):
    """Photos in a dictionary, searched one by one."""

    def __init__(self, about: Mapping[str, Any] | None = None) -> None:
        self.about = about or {}
        self.photos: dict[str, Photo] = {}
        self.vectors: dict[str, Tensor] = {}
        self.upserts = 0

    def upsert(self, photos: Sequence[Photo], embeddings: Tensor) -> None:
        self.upserts += 1
        for photo, embedding in zip(photos, embeddings, strict=True):
            self.photos[photo.path], self.vectors[photo.path] = photo, embedding

    def delete(self, paths: Collection[str]) -> int:
        there = [path for path in set(paths) if path in self.photos]
        for path in there:
            del self.photos[path], self.vectors[path]
        return len(there)

    def search(
        self,
        queries: Tensor,
        count: int,
        where: Where | None = None,
        without: Collection[str] = (),
        away: Tensor | None = None,
    ) -> list[list[Hit]]:
        if away is not None and len(away):
            queries = torch.nn.functional.normalize(2 * queries - away.mean(0), dim=-1)
        found = []
        for query in queries:
            hits = [
                Hit(photo, float(query @ self.vectors[path]))
                for path, photo in self.photos.items()
                if path not in without and (where is None or where.holds(photo))
            ]
            found.append(sorted(hits, key=lambda hit: (-hit.score, hit.photo.path))[:count])
        return found

    def fetch(
        self, paths: Collection[str] | None = None, embeddings: bool = False, thumbnails: bool = True
    ) -> Iterator[Stored]:
        for path in sorted(self.photos if paths is None else set(paths) & self.photos.keys()):
            photo = self.photos[path] if thumbnails else replace(self.photos[path], thumbnail=b"")
            yield Stored(photo, self.vectors[path] if embeddings else None)

    def count(self, where: Where | None = None) -> int:
        return sum(where is None or where.holds(photo) for photo in self.photos.values())

    def close(self) -> None:
        pass
