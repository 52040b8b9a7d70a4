"""Official annotations from files to figures: real queries, stand-in images under the official names, a tiny model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.training.module import ContextCIR
from experiments.run import main
from tests.helpers.make_data import write_json
from tests.helpers.paths import CONFIGS

pytestmark = pytest.mark.usefixtures("runs")


def write_images(root: Path, paths: list[str]) -> None:
    """Write a small image of its own noise for every path."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(file)


def validate(name: str, root: Path, small: list[str]) -> ContextCIR:
    """Run the command line on the benchmark, with the flags of a tiny model."""
    configs = [
        f"--config={CONFIGS / file}.yaml" for file in ("base", "cirr_b32", *([] if name == "cirr_b32" else [name]))
    ]
    cli = main(["validate", *configs, *small, f"--data.root={root}", "--data.eval_batch_size=64"])
    return cli.model.eval()


@torch.no_grad()
def embed(model: ContextCIR, files: list[Path]) -> torch.Tensor:
    images = torch.stack([model.preprocess(Image.open(file).convert("RGB")) for file in files])
    return torch.cat([model.embed_image(part) for part in images.split(64)])


@pytest.mark.slow
def test_cirr_val_through_the_command_line(shared: Path, small: list[str], runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "CIRR"
    for folder in ("captions", "image_splits"):
        shutil.copytree(shared / "data" / "cirr" / folder, root / folder)
    listed = json.loads((root / "image_splits" / "split.rc2.val.json").read_text())
    write_images(root / "img_raw", list(listed.values()))
    model = validate("cirr_b32", root, small)
    entry = json.loads((runs / "cirr_b32" / "id1" / "metrics.json").read_text())["validate"]["val"]
    assert entry["seen"] == {"queries": 4181, "gallery": 2297} and entry["missing_images"] == 0

    names = list(listed)
    gallery = embed(model, [root / "img_raw" / listed[name] for name in names]).numpy()
    row = {name: number for number, name in enumerate(names)}
    records = json.loads((root / "captions" / "cap.rc2.val.json").read_text())
    hits = {"recall_at_10": 0, "recall_at_50": 0, "subset_recall_at_1": 0}
    for record in records:  # the image-only row: the reference's own embedding is the query
        scores = gallery @ gallery[row[record["reference"]]]
        scores[row[record["reference"]]] = -np.inf
        own = scores[row[record["target_hard"]]]
        for k in (10, 50):
            hits[f"recall_at_{k}"] += int((scores > own).sum()) < k
        rivals = set(record["img_set"]["members"]) - {record["reference"], record["target_hard"]}
        hits["subset_recall_at_1"] += all(scores[row[rival]] < own for rival in rivals)
    for metric, count in hits.items():
        assert entry["rows"]["image_only"][metric] == pytest.approx(100 * count / len(records), abs=0.01)


def test_circo_val_through_the_command_line(shared: Path, small: list[str], runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "CIRCO"
    shutil.copytree(shared / "data" / "circo" / "annotations", root / "annotations")
    records = json.loads((root / "annotations" / "val.json").read_text())
    # COCO's list of 123,403 images is not at hand: one of all images that occur stands in for it.
    images = sorted({image for r in records for image in (r["reference_img_id"], *r["gt_img_ids"])})
    listed = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in images]
    coco = root / "COCO2017_unlabeled"
    write_json(coco / "annotations" / "image_info_unlabeled2017.json", {"images": listed})
    write_images(coco / "unlabeled2017", [image["file_name"] for image in listed])
    model = validate("circo", root, small)
    entry = json.loads((runs / "circo" / "id1" / "metrics.json").read_text())["validate"]["val"]
    assert entry["seen"] == {"queries": 220, "gallery": len(images)}

    gallery = embed(model, [coco / "unlabeled2017" / f"{image:012d}.jpg" for image in images]).numpy()
    row = {image: number for number, image in enumerate(images)}
    precisions = []
    for record in records:  # the reference stays in the gallery, as on the server, and is its own best match
        ranking = np.argsort(-(gallery @ gallery[row[record["reference_img_id"]]]), kind="stable")[:10]
        right = {row[image] for image in record["gt_img_ids"]}
        found = [int(column) in right for column in ranking]
        precision = [sum(found[: k + 1]) / (k + 1) for k in range(10) if found[k]]
        precisions.append(sum(precision) / min(len(right), 10))
    assert entry["rows"]["image_only"]["map_at_10"] == pytest.approx(100 * np.mean(precisions), abs=0.01)
