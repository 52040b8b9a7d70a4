"""Official annotations through an embedder: real queries, stand-in images under the official names, a tiny CLIP."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.evaluate.__main__ import main
from experiments.run import main as run
from tests.end_to_end.test_official_end_to_end import write_images
from tests.helpers.make_data import write_json
from tests.helpers.scenes_flags import configs

pytestmark = [pytest.mark.usefixtures("runs"), pytest.mark.slow]


def both(name: str, root: Path, small: list[str], clip: Path, runs: Path) -> tuple[dict, dict]:
    """Return the entries of a run with the sum, and of the embedder."""
    data = [*configs("base", "cirr_b32", *([] if name == "cirr_b32" else [name])), f"--data.root={root}"]
    run(["validate", *data, *small, "--model.fusion=Sum", "--model.concept=null", "--name=a"])
    model = ["--embedder=OpenCLIPEmbedder", f"--embedder.model=local-dir:{clip}", "--embedder.device=cpu"]
    main(["validate", *data, *model, "--name=b"])
    read = [json.loads((runs / which / "id1" / "metrics.json").read_text())["validate"]["val"] for which in "ab"]
    return read[0], read[1]


def test_cirr_val(shared: Path, small: list[str], clip_folder: Path, runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "CIRR"
    for folder in ("captions", "image_splits"):
        shutil.copytree(shared / "data" / "cirr" / folder, root / folder)
    listed = json.loads((root / "image_splits" / "split.rc2.val.json").read_text())
    write_images(root / "img_raw", list(listed.values()))
    trained, embedded = both("cirr_b32", root, small, clip_folder, runs)
    assert embedded["seen"] == {"queries": 4181, "gallery": 2297} == trained["seen"]
    assert embedded["protocol"] == trained["protocol"]
    for row, figures in trained["rows"].items():  # a near tie may fall the other way: batches have other sizes
        assert embedded["rows"][row] == pytest.approx(figures, abs=0.06)


def test_circo_val(shared: Path, small: list[str], clip_folder: Path, runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "CIRCO"
    shutil.copytree(shared / "data" / "circo" / "annotations", root / "annotations")
    records = json.loads((root / "annotations" / "val.json").read_text())
    images = sorted({image for r in records for image in (r["reference_img_id"], *r["gt_img_ids"])})
    listed = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in images]
    coco = root / "COCO2017_unlabeled"
    write_json(coco / "annotations" / "image_info_unlabeled2017.json", {"images": listed})
    write_images(coco / "unlabeled2017", [image["file_name"] for image in listed])
    trained, embedded = both("circo", root, small, clip_folder, runs)
    assert embedded["seen"] == {"queries": 220, "gallery": len(images)} and "query_text" in embedded["protocol"]
    for row, figures in trained["rows"].items():
        assert embedded["rows"][row] == pytest.approx(figures, abs=0.5)  # a query is 0.45 %
