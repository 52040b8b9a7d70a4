"""A tiny FashionIQ on disk, in the layouts that users have."""

from collections.abc import Callable
from pathlib import Path

from tests.helpers.make_data import write_image, write_json

CATEGORIES = ("dress", "shirt", "toptee")
VAL = [f"val_{category}" for category in CATEGORIES]


def make_fashioniq(
    root: Path,
    place: str = "",
    image: Callable[[str, str], str] = lambda category, name: f"images/{name}.png",
    queries: int = 3,
    size: int = 14,
) -> Path:
    """Write a FashionIQ whose queries go from image n to image n + 1 of ``size`` per category; return ``root``."""
    base = root / place
    for category in CATEGORIES:
        for split in ("train", "val", "test"):
            names = [f"B{category[0].upper()}{split[:2].upper()}{number:05d}" for number in range(size)]
            for name in names:
                write_image(base / image(category, name), name)
            records = [
                {
                    "target": names[number + 1],
                    "candidate": names[number],
                    "captions": [f"is {number} Shades darker.", f"has {number} buttons, "],
                }
                for number in range(queries)
            ]
            if split == "test":
                for record in records:
                    del record["target"]
            write_json(base / "captions" / f"cap.{category}.{split}.json", records)
            write_json(base / "image_splits" / f"split.{category}.{split}.json", names)
    return root
