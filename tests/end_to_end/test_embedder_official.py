"""Official annotations through an embedder: real queries, stand-in images under the official names, a tiny CLIP."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextcir.embedders import OpenCLIPEmbedder
from experiments.evaluate.__main__ import main
from tests.end_to_end.test_official_end_to_end import write_images
from tests.helpers.make_data import write_json
from tests.helpers.scenes_flags import configs

pytestmark = [pytest.mark.usefixtures("runs"), pytest.mark.slow, pytest.mark.timeout(1200)]


def evaluated(names: tuple[str, ...], root: Path, clip: Path, runs: Path) -> dict:
    """Return the entry of val of an evaluation of a tiny CLIP."""
    model = ["--embedder=OpenCLIPEmbedder", f"--embedder.model=local-dir:{clip}", "--embedder.device=cpu"]
    main(["validate", *configs("base", *names), f"--data.root={root}", *model, "--name=b", "--unimodal=false"])
    return json.loads((runs / "b" / "id1" / "metrics.json").read_text())["validate"]["val"]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(clip: Path, files: list[Path], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised embeddings of images and of texts, a hundred at a time."""
    model = OpenCLIPEmbedder(f"local-dir:{clip}", device="cpu")
    images, words = [], []
    for start in range(0, len(files), 100):
        images.append(model.embed_image([Image.open(file).convert("RGB") for file in files[start : start + 100]]))
    for start in range(0, len(texts), 100):
        part = texts[start : start + 100]
        words.append(model.embed_query([None] * len(part), part))
    return unit(np.concatenate(images)), unit(np.concatenate(words))


def test_cirr_val(shared: Path, clip_folder: Path, runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "CIRR"
    for folder in ("captions", "image_splits"):
        shutil.copytree(shared / "data" / "cirr" / folder, root / folder)
    listed = json.loads((root / "image_splits" / "split.rc2.val.json").read_text())
    write_images(root / "img_raw", list(listed.values()))
    entry = evaluated(("cirr_b32",), root, clip_folder, runs)
    assert entry["seen"] == {"queries": 4181, "gallery": 2297} and entry["missing_images"] == 0

    records = json.loads((root / "captions" / "cap.rc2.val.json").read_text())
    files = [root / "img_raw" / path for path in listed.values()]
    gallery, texts = embedded(clip_folder, files, [record["caption"] for record in records])
    row = {name: number for number, name in enumerate(listed)}
    hits = {"recall_at_1": 0, "recall_at_10": 0, "recall_at_50": 0, "subset_recall_at_1": 0}
    for record, text in zip(records, texts, strict=True):
        reference, target = row[record["reference"]], row[record["target_hard"]]
        scores = gallery @ (gallery[reference] + text)
        scores[reference] = -np.inf
        for k in (1, 10, 50):
            hits[f"recall_at_{k}"] += int((scores > scores[target]).sum()) < k
        rivals = {row[name] for name in record["img_set"]["members"]} - {reference, target}
        hits["subset_recall_at_1"] += all(scores[rival] < scores[target] for rival in rivals)
    for metric, count in hits.items():  # of near ties one or two may fall the other way
        assert entry["rows"]["composed"][metric] == pytest.approx(100 * count / len(records), abs=0.05)


def test_circo_val(shared: Path, clip_folder: Path, runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "CIRCO"
    shutil.copytree(shared / "data" / "circo" / "annotations", root / "annotations")
    records = json.loads((root / "annotations" / "val.json").read_text())
    images = sorted({image for r in records for image in (r["reference_img_id"], *r["gt_img_ids"])})
    listed = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in images]
    coco = root / "COCO2017_unlabeled"
    write_json(coco / "annotations" / "image_info_unlabeled2017.json", {"images": listed})
    write_images(coco / "unlabeled2017", [image["file_name"] for image in listed])
    entry = evaluated(("cirr_b32", "circo"), root, clip_folder, runs)
    assert entry["seen"] == {"queries": 220, "gallery": len(images)}
    template = entry["protocol"]["query_text"]  # as recorded: it is all that is known of the text beside the record
    texts = [template.format(**{k: r[k] for k in ("relative_caption", "shared_concept")}) for r in records]

    files = [coco / "unlabeled2017" / image["file_name"] for image in listed]
    gallery, words = embedded(clip_folder, files, texts)
    row = {image: number for number, image in enumerate(images)}
    precisions = []
    for record, text in zip(records, words, strict=True):  # the reference stays in the gallery, as on the server
        ranking = np.argsort(-(gallery @ (gallery[row[record["reference_img_id"]]] + text)), kind="stable")[:10]
        right = {row[image] for image in record["gt_img_ids"]}
        found = [int(column) in right for column in ranking]
        precision = [sum(found[: k + 1]) / (k + 1) for k in range(10) if found[k]]
        precisions.append(sum(precision) / min(len(right), 10))
    assert entry["rows"]["composed"]["map_at_10"] == pytest.approx(100 * np.mean(precisions), abs=0.05)
