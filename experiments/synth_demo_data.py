"""What the fits of the synthetic-triplets demo are trained on: manifests, and the config that names them."""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from data_modules.scenes.writer import Size, image_path

TRAIN = Path("img_raw") / "train"  # below the root of scenes: the folder that image paths of manifests are relative to
KEPT = ("caption", "concepts", "phrases", "image_size")


def count_records(manifest: Path) -> int:
    """Return how many triplets a manifest holds; raises FileNotFoundError if it is not there."""
    if not manifest.is_file():
        raise FileNotFoundError(f"no file {manifest}: give another --out, so that it is made again")
    with manifest.open(encoding="utf-8") as file:
        return sum(1 for line in file if line.strip())


def hand_made(root: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return so many of a benchmark's training triplets as records of a manifest: all of some references, of the last
    one a part.

    Args:
        root: of the benchmark.
        count: of triplets.
        seed: draws the references.

    Raises:
        ValueError: if there are fewer.
    """
    listed = json.loads((root / "captions" / "cap.scenes.train.json").read_text(encoding="utf-8"))
    if len(listed) < count:
        raise ValueError(
            f"{root} holds {len(listed):,} hand-made triplets, fewer than the {count:,} synthetic ones: raise "
            "--size.train_references, or lower --triplets"
        )
    of: dict[str, list[dict[str, Any]]] = {}
    for record in listed:
        of.setdefault(record["reference"], []).append(record)
    references = sorted(of)
    Random(seed).shuffle(references)
    chosen = [record for reference in references for record in of[reference]][:count]
    return [
        {
            "reference": _path(record["reference"]),
            "target": _path(record["target_hard"]),
            "image_set": record["img_set"]["id"],
            **{name: record[name] for name in KEPT},
        }
        for record in chosen
    ]


def write_records(records: list[dict[str, Any]], path: Path) -> None:
    """Write a manifest, whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    new.replace(path)


def study_data(root: Path, size: Size, hand: Path, unlabelled: Path, synthetic: Path) -> dict[str, Any]:
    """Return the config of the data of the fits: a mixture of the benchmark, to be evaluated on, and two manifests.

    Args:
        root: of the benchmark.
        size: of it.
        hand: manifest with images of the benchmark.
        unlabelled: root of the scenes that the other manifest is made from.
        synthetic: that manifest.
    """

    def manifest(name: str, scenes: Path, file: Path) -> dict[str, Any]:
        arguments = {"root": str((scenes / TRAIN).resolve()), "file": str(file.resolve()), "name": name}
        return {"class_path": "data_modules.manifest.Manifest", "init_args": arguments}

    benchmark = {"root": str(root.resolve()), "size": asdict(size)}
    sets = [
        {"class_path": "data_modules.scenes.Scenes", "init_args": benchmark},
        manifest("hand_made", root, hand),
        manifest("synthetic", unlabelled, synthetic),
    ]
    return {
        "data": {
            "class_path": "data_modules.frozen.FrozenMixture",
            "init_args": {"sets": sets, "evaluate": "scenes"},
        }
    }


def _path(name: str) -> str:
    return str(Path(image_path(name)).relative_to(TRAIN))
