"""LaSCo: the official corpus, triplets in the official format, and resolution by image id."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from contextcir.training.module import ContextCIR
from data_modules import LaSCo
from tests.helpers import tiny
from tests.helpers.make_data import colour_of, edited, preprocess, write_json
from tests.helpers.make_lasco import make_lasco, path_of, triplet


def test_official_corpus(shared: Path, tmp_path: Path) -> None:
    corpus = json.loads((shared / "data" / "lasco" / "downloads" / "lasco_val_corpus.json").read_text())
    identities = [image["id"] for image in corpus]
    write_json(tmp_path / "lasco_val_corpus.json", corpus)
    records = [triplet(n, identities[n % 30000], identities[-1 - n]) for n in range(3000)]
    write_json(tmp_path / "lasco_val.json", records)
    data = LaSCo(tmp_path)
    (val,) = data.protocols("val")
    assert len(val.gallery) == 39826 and len(val.query_ids) == 3000
    assert val.gallery[:2] == ("42", "73") and val.targets[5] == (39820,) and val.references[5] == 5
    assert val.describe()["recall_at"] == [1, 5, 10, 50, 100, 500, 1000] and not val.exclude_reference and val.labelled
    assert data._evaluations["val"].image_paths["42"] == "val2014/COCO_val2014_000000000042.jpg"
    assert LaSCo(tmp_path, exclude_reference=True).protocols("val")[0].describe()["exclude_reference"] is True


@pytest.mark.parametrize("annotations", ["", "downloads", "LaSCo", "annotations"])
@pytest.mark.parametrize("images", ["{}", "coco/{}", "images/{}", "val/{}", "images/val/{}"])
def test_every_common_layout_is_found(tmp_path: Path, annotations: str, images: str) -> None:
    root = make_lasco(tmp_path, annotations, images.format)
    data = LaSCo(root, num_workers=0, batch_size=5, preprocess=preprocess)
    gallery, queries = data.val_dataloader()
    assert sum(len(batch.index) for batch in gallery) == 12 and sum(len(batch.index) for batch in queries) == 5
    pixel = data.target_image("val", 0, 1).getpixel((5, 5))
    assert max(abs(a - b) for a, b in zip(pixel, colour_of("109"), strict=True)) < 4
    (batch,) = data.train_dataloader()
    assert sorted(batch.query.captions) == [f"There are {n} horses" for n in range(5)]


def test_training_needs_no_corpus(tmp_path: Path) -> None:
    records, paths, file, image_sets = LaSCo(make_lasco(tmp_path)).read_training()
    assert image_sets == ()
    assert [(record.reference, record.target) for record in records] == [
        ("0", "6"), ("0", "9"), ("3", "12"), ("3", "15"), ("999", "0"),
    ]  # fmt: skip
    assert paths["15"] == "train2014/COCO_train2014_000000000015.jpg" and len(paths) == 7
    assert file == f"{tmp_path}/downloads/lasco_train.json" and str(records[3].origin) == f"record 3 of {file}"


def test_a_query_image_may_be_outside_of_the_corpus(tmp_path: Path) -> None:
    data = LaSCo(make_lasco(tmp_path), num_workers=0, preprocess=preprocess)
    (val,) = data.protocols("val")
    assert "999" not in val.gallery and val.references == (0, 0, 1, 1, -1)
    assert data.reference_image("val", 0, 4).size == (40, 30)


@pytest.mark.parametrize("exclude", [False, True])
def test_end_to_end_as_a_plain_loop_finds_it(tmp_path: Path, exclude: bool) -> None:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone())
    data = LaSCo(make_lasco(tmp_path), exclude_reference=exclude, num_workers=0, eval_batch_size=5)
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **off)
    figures = trainer.validate(model, data, verbose=False)[0]

    def image(identity: int) -> object:
        return model.preprocess(data._images("val", {}).load(str(identity)))[None]

    corpus = json.loads((tmp_path / "downloads" / "lasco_val_corpus.json").read_text())
    records = json.loads((tmp_path / "downloads" / "lasco_val.json").read_text())
    gallery = {entry["id"]: model.embed_image(image(entry["id"]))[0] for entry in corpus}
    ranks = []
    for record in records:
        (query, _), (target, _) = record["query-image"], record["target-image"]
        fused = model.embed_query(image(query), [record["query-text"]])[0]
        rivals = [identity for identity in gallery if identity != target and not (exclude and identity == query)]
        own = float(fused @ gallery[target])
        ranks.append(1 + sum(float(fused @ gallery[identity]) >= own for identity in rivals))
    for k in (1, 5, 10, 50, 100, 500, 1000):
        expected = 100 * sum(rank <= k for rank in ranks) / len(ranks)
        assert figures[f"val_recall_at_{k}"] == pytest.approx(expected, abs=1e-3), k
    assert max(ranks) > 1


def complaint(root: Path, **options: object) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        LaSCo(root, **options).setup("fit")
    assert "\n" not in str(caught.value)
    return str(caught.value)


RECORDS = [
    ({"query-image": 5}, "field query-image must be a list, got 5"),
    ({"query-image": []}, "field query-image.0 is missing"),
    ({"query-image": ["5", path_of(5)]}, "field query-image.0 must be an integer, got '5'"),
    ({"query-image": [103]}, "field query-image.1 is missing"),
    ({"query-image": [103, 103]}, "field query-image.1 must be a string, got 103"),
    ({"query-image": [103, path_of(7)]}, f"field query-image.1 is {path_of(7)!r}, but elsewhere 103 is {path_of(103)}"),
    ({"query-text": None}, "field query-text must be a string, got None"),
    ({"target-image": [7, path_of(7)]}, "field target-image.0 names image '7', which is not in "),
    ({"target-image": [100, path_of(100)]}, "field target-image.0 is the query image itself: 100"),
]


@pytest.mark.parametrize(("change", "problem"), RECORDS)
def test_broken_records_are_named(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    file = make_lasco(tmp_path) / "downloads" / "lasco_val.json"
    with edited(file) as records:
        records[1] |= change
    assert complaint(tmp_path).startswith(f"record 1 of {file}: {problem}")


def test_broken_files_are_named(tmp_path: Path) -> None:
    corpus = make_lasco(tmp_path) / "downloads" / "lasco_val_corpus.json"
    with edited(corpus) as images:
        images[2] = {"id": images[0]["id"], "path": "val/val2014/a.jpg"}
    repeated = "field id is 100, as in record 0: every record needs its own"
    assert complaint(tmp_path) == f"record 2 (id 100) of {corpus}: {repeated}"
    for broken, problem in (
        ("val2014/a.jpg", "record 0 of {}: must be an object, got 'val2014/a.jpg'"),
        ({"path": "a.jpg"}, "record 0 of {}: field id is missing"),
        ({"id": 3}, "record 0 (id 3) of {}: field path is missing"),
        ({"id": True, "path": "a.jpg"}, "record 0 of {}: field id must be an integer, got True"),
    ):
        write_json(corpus, [broken])
        assert complaint(tmp_path) == problem.format(corpus)
    write_json(corpus, [])
    assert complaint(tmp_path) == f"{corpus}: holds no records"
    corpus.unlink()
    assert complaint(tmp_path).startswith("no file lasco_val_corpus.json in ")
    assert complaint(tmp_path, train_split="all").startswith("no file lasco_all.json in ")
    assert complaint(tmp_path / "nowhere").startswith("no folder ")
