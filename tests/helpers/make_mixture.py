"""Three small training sets on disk that share images and names of images, and a mixture of them."""

from pathlib import Path
from typing import Any

from data_modules import CIRR, Manifest, Mixture
from tests.helpers.make_data import make_cirr, preprocess, write_image, write_json


def make_sets(root: Path) -> dict[str, Path]:
    """CIRR with 6 triplets; `again`, other captions for two of its pairs; `own`, a set with equal names of images."""
    cirr = make_cirr(root / "cirr")
    again = [
        {
            "reference": f"train/0/train-0-0-img{n}.png",
            "target": f"train/0/train-0-0-img{n + 1}.png",
            "caption": f"a {n}",
        }
        for n in range(2)
    ]
    write_json(root / "again.json", again)
    own = [
        {"reference": f"train/0/train-0-0-img{n}.png", "target": f"{n}.png", "caption": f"o {n}", "image_set": 0}
        for n in range(5)
    ]
    write_json(root / "own" / "train.json", own)
    for record in own:
        for field in ("reference", "target"):
            write_image(root / "own" / record[field], f"own {record[field]}")
    return {"cirr": cirr, "again": root / "again.json", "own": root / "own"}


def mixture(folders: dict[str, Path], **options: Any) -> Mixture:
    """The three sets in one, without loader processes."""
    sets = [
        CIRR(folders["cirr"]),
        Manifest(folders["cirr"], file=str(folders["again"]), name="again"),
        Manifest(folders["own"], name="own"),
    ]
    return Mixture(sets, num_workers=0, preprocess=preprocess, **options)
