"""Tiny benchmarks on disk: real image files and annotation files in the layouts that users have."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 8


def preprocess(image: Image.Image) -> Tensor:
    """Squash to (3, SIDE, SIDE) in [0, 1]; a plain function, so that loader processes can have it."""
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image.resize((SIDE, SIDE)))).permute(2, 0, 1).float() / 255


def colour_of(name: str) -> tuple[int, int, int]:
    """A colour of its own for every image name."""
    red, green, blue = np.random.default_rng(list(name.encode())).integers(0, 256, 3)
    return int(red), int(green), int(blue)


def write_image(path: Path, name: str, size: tuple[int, int] = (40, 30)) -> None:
    """Write an image of one colour, in the format of its extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour_of(name)).save(path, quality=95)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    write_json(path, content)


def official(split: str, image_set: int, member: int) -> str:
    """Where CIRR lists an image: training images are in numbered sub-folders."""
    folder = {"train": f"train/{image_set}", "val": "dev"}.get(split, split)
    return f"./{folder}/{split}-{image_set}-0-img{member}.png"


def make_cirr(
    root: Path,
    annotations: str = "",
    images: str = "img_raw",
    sets: int = 2,
    place: Callable[[str], str] = lambda listed: listed,
    hidden: tuple[str, ...] = ("test1",),
    splits: tuple[str, ...] = ("train", "val", "test1"),
    version: str = "rc2",
) -> Path:
    """Write a CIRR of ``sets`` six-member image sets per split, with three queries each; return ``root``.

    ``place`` maps the listed path of an image to the one where it is written, below ``images``.
    """
    for number, split in enumerate(splits):
        paths, records = {}, []
        for image_set in range(sets):
            members = [f"{split}-{image_set}-0-img{member}" for member in range(6)]
            for member, name in enumerate(members):
                paths[name] = official(split, image_set, member)
                write_image(root / images / place(paths[name]), name)
            for query in range(3):
                record = {
                    "pairid": 1000 * number + 10 * image_set + query,
                    "reference": members[query],
                    "target_hard": members[query + 1],
                    "target_soft": {members[query + 1]: 1.0},
                    "caption": f"Show {query + 2} bottles instead",
                    "img_set": {"id": image_set, "members": members, "reference_rank": query, "target_rank": query + 1},
                }
                if split in hidden:
                    del record["target_hard"], record["target_soft"], record["img_set"]["target_rank"]
                records.append(record)
        write_json(root / annotations / "captions" / f"cap.{version}.{split}.json", records)
        write_json(root / annotations / "image_splits" / f"split.{version}.{split}.json", paths)
    return root


def make_circo(root: Path, coco: str = "COCO2017_unlabeled", images: str = "unlabeled2017", size: int = 9) -> Path:
    """Write a CIRCO with ``size`` gallery images and three queries per split; return ``root``."""
    listed = [{"id": 100 + number, "file_name": f"{100 + number:012d}.jpg"} for number in range(size)]
    for image in listed:
        write_image(root / coco / images / image["file_name"], str(image["id"]))
    write_json(root / coco / "annotations" / "image_info_unlabeled2017.json", {"images": listed})
    for split in ("val", "test"):
        records = []
        for query in range(3):
            record = {
                "id": query,
                "reference_img_id": 100 + query,
                "relative_caption": f"has {query + 2} Bottles",
                "shared_concept": "a table",
            }
            if split == "val":
                record["target_img_id"] = 104 + query
                record["gt_img_ids"] = [104 + query, 103] if query else [104]
                record["semantic_aspects"] = ["cardinality"] if query else ["cardinality", "addition"]
            records.append(record)
        write_json(root / "annotations" / f"{split}.json", records)
    return root
