"""GeneCIS: the official object tasks, crops of the attribute tasks, ranking within small galleries."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from contextcir.evaluation.composition import CompositionMetric
from contextcir.training.module import ContextCIR
from data_modules import GeneCIS
from tests.data.test_crops import published_pixels
from tests.helpers import tiny
from tests.helpers.make_data import edited, preprocess, write_image, write_json
from tests.helpers.make_genecis import ATTRIBUTES, OBJECTS, make_genecis


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    return shared / "data" / "genecis"


def test_official_object_tasks(official: Path) -> None:
    data = GeneCIS(official, val_splits=OBJECTS)
    for protocol, images in zip(data.protocols("val"), (2734, 2192), strict=True):
        records = json.loads((official / "genecis" / f"{protocol.split}.json").read_text())
        assert len(protocol.query_ids) == len(records) == 1960 and len(protocol.gallery) == images
        assert protocol.metric_names() == tuple(f"subset_recall_at_{k}" for k in (1, 2, 3))
        assert (protocol.headline, protocol.averaged_as) == ("subset_recall_at_1", "genecis")
        sizes = []
        for query, record in enumerate(records):
            own = {str(image["val_image_id"]) for image in (record["target"], *record["gallery"])}
            subset = protocol.subsets[query]
            assert {protocol.gallery[image] for image in subset} == own and len(own) == len(subset)
            assert protocol.gallery[protocol.targets[query][0]] == str(record["target"]["val_image_id"])
            assert str(record["reference"]["val_image_id"]) not in own
            sizes.append(len(own))
        assert sizes.count(15) == (1959 if protocol.split == "change_object" else 1960) and min(sizes) >= 14
    first = data._evaluations["focus_object"].records[0]
    assert (first.caption, first.reference, first.target) == ("cardboard", "189213", "153527")
    assert data._evaluations["focus_object"].image_paths["189213"] == "val2017/000000189213.jpg"


def test_all_four_tasks_are_the_default(tmp_path: Path) -> None:
    protocols = GeneCIS(make_genecis(tmp_path)).protocols("val")
    assert [protocol.split for protocol in protocols] == [*ATTRIBUTES, "focus_object", "change_object"]
    assert all(protocol.subsets[0] and protocol.labelled for protocol in protocols)
    assert protocols[0].gallery[:2] == ("2@1,10.5,21,30", "3@2,10.5,22,30")
    with pytest.raises(ValueError, match="GeneCIS has no training split"):
        GeneCIS(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("genome", "coco"),
    [
        (("VG_100K", "VG_100K_2"), "val2017"),
        (("visual_genome/VG_100K", "visual_genome/VG_100K_2"), "coco/val2017"),
        (("VG_100K_all",), ""),
        (("visual_genome",), "images/val2017"),
        (("",), "val2017"),
    ],
)
def test_every_common_layout_is_found(tmp_path: Path, genome: tuple[str, ...], coco: str) -> None:
    data = GeneCIS(make_genecis(tmp_path, genome, coco), num_workers=0, preprocess=preprocess)
    for loader, protocol in zip(data.val_dataloader()[::2], data.protocols("val"), strict=True):
        assert sum(len(batch.index) for batch in loader) == len(protocol.gallery)
    file = next(tmp_path.rglob("[2].jpg"))
    expected = published_pixels(np.asarray(Image.open(file).convert("RGB")), (1, 10.5, 21, 30))
    assert np.array_equal(np.asarray(data.target_image("val", 0, 0)), expected)
    assert data.target_image("val", 3, 0).size == (40, 30)


@pytest.mark.parametrize("task", [*OBJECTS, *ATTRIBUTES])
def test_end_to_end_as_a_plain_loop_finds_it(tmp_path: Path, task: str) -> None:
    data = GeneCIS(make_genecis(tmp_path), val_splits=[task], num_workers=0, eval_batch_size=4)
    check_against_loops(data, task, tmp_path)


def test_some_official_queries_end_to_end(official: Path, tmp_path: Path) -> None:
    for task in OBJECTS:
        records = json.loads((official / "genecis" / f"{task}.json").read_text())[:6]
        write_json(tmp_path / f"{task}.json", records)
        for record in records:
            for image in (record["reference"], record["target"], *record["gallery"]):
                name = f"{image['val_image_id']:012d}"
                size = random.Random(name)
                write_image(tmp_path / "val2017" / f"{name}.jpg", name, (size.randrange(9, 40), size.randrange(9, 40)))
    figures = {}
    for task in OBJECTS:
        figures |= check_against_loops(GeneCIS(tmp_path, val_splits=[task], num_workers=0), task, tmp_path)
    both = validate(tiny_model(), GeneCIS(tmp_path, val_splits=OBJECTS, num_workers=0), tmp_path)
    for k in (1, 2, 3):
        mean = sum(figures[f"{task}_subset_recall_at_{k}"] for task in OBJECTS) / 2
        assert both[f"genecis_subset_recall_at_{k}"] == pytest.approx(mean, abs=1e-3)


def tiny_model() -> ContextCIR:
    torch.manual_seed(0)
    return ContextCIR(tiny.backbone())


def validate(model: ContextCIR, data: GeneCIS, folder: Path) -> dict[str, float]:
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return dict(Trainer(accelerator="cpu", default_root_dir=folder, **off).validate(model, data, verbose=False)[0])


def check_against_loops(data: GeneCIS, task: str, folder: Path) -> dict[str, float]:
    """Compare with every query's own gallery of target and distractors, ranked in a plain loop."""
    model = tiny_model()
    figures = validate(model, data, folder)
    records = json.loads(next(folder.rglob(f"{task}.json")).read_text())

    def show(image: dict) -> torch.Tensor:
        if task in OBJECTS:
            picture = Image.open(next(folder.rglob(f"{image['val_image_id']:012d}.jpg"))).convert("RGB")
        else:
            pixels = np.asarray(Image.open(next(folder.rglob(f"{image['image_id']}.jpg"))).convert("RGB"))
            picture = Image.fromarray(published_pixels(pixels, image["instance_bbox"]))
        return model.preprocess(picture)[None]

    found = {1: 0, 2: 0, 3: 0}
    for record in records:
        query = model.embed_query(show(record["reference"]), [record["condition"]])[0]
        own = float(query @ model.embed_image(show(record["target"]))[0])
        others = {json.dumps(image): image for image in record["gallery"] if image != record["target"]}
        scores = [float(query @ model.embed_image(show(image))[0]) for image in others.values()]
        rank = 1 + sum(score >= own for score in scores)
        found = {k: count + (rank <= k) for k, count in found.items()}
    for k, count in found.items():
        assert figures[f"{task}_subset_recall_at_{k}"] == pytest.approx(100 * count / len(records), abs=1e-3), k
    return figures


def test_constant_embeddings_find_nothing(official: Path) -> None:
    for protocol in GeneCIS(official, val_splits=OBJECTS).protocols("val"):
        metric = CompositionMetric(protocol)
        metric.update_gallery(torch.arange(len(protocol.gallery)), torch.ones(len(protocol.gallery), 8))
        metric.update_queries(torch.arange(1960), torch.ones(1960, 8))
        figures = metric.figures()
        assert {name: float(value) for name, value in figures.items()} == {
            "subset_recall_at_1": 0, "subset_recall_at_2": 0, "subset_recall_at_3": 0
        }  # fmt: skip


def test_chance_is_one_in_fifteen(official: Path) -> None:
    (protocol,) = GeneCIS(official, val_splits=["focus_object"]).protocols("val")
    random_numbers = torch.Generator().manual_seed(0)
    metric = CompositionMetric(protocol)
    metric.update_gallery(
        torch.arange(len(protocol.gallery)), torch.randn(len(protocol.gallery), 64, generator=random_numbers)
    )
    metric.update_queries(torch.arange(1960), torch.randn(1960, 64, generator=random_numbers))
    figures = metric.figures()
    for k in (1, 2, 3):
        assert float(figures[f"subset_recall_at_{k}"]) == pytest.approx(100 * k / 15, abs=3)


def test_a_copy_of_the_target_is_no_rival(tmp_path: Path) -> None:
    root = make_genecis(tmp_path)
    with edited(root / "genecis" / "focus_object.json") as records:
        records[0]["gallery"][2] = records[0]["target"]
    (protocol,) = GeneCIS(root, val_splits=["focus_object"]).protocols("val")
    assert [len(subset) for subset in protocol.subsets] == [5, 6, 6]
    assert protocol.describe()["subset_size_min"] == 5 and protocol.describe()["subset_size_max"] == 6
