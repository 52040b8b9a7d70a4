"""Manifests: one's own triplets, in either format, for training, evaluation and prediction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules import Manifest
from tests.helpers.make_data import colour_of, preprocess, write_image, write_json

RECORDS = [
    {"reference": "a/0.jpg", "target": "a/1.jpg", "caption": "Make the red  dog green", "split": "train"},
    {"reference": "a/1.jpg", "target": "b/0.png", "caption": "add a cat", "split": "val"},
    {"reference": "./b/0.png", "target": "a/../a/0.jpg", "caption": "no cat", "split": "train"},
    {"reference": "b/0.png", "target": "b/1.png", "caption": "add a hat", "split": "val"},
]


def write_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(json.dumps(record) for record in records) + "\n")


def make_manifest(root: Path, records: list[dict], name: str = "manifest.jsonl", images: str = "") -> Path:
    """Write a manifest, and an image of its own colour under every path in it."""
    (write_lines if name.endswith("l") else write_json)(root / name, records)
    for record in records:
        for field in ("reference", "target"):
            if field in record:
                path = (root / images / record[field]).resolve()
                write_image(path, str(path.relative_to((root / images).resolve())))
    return root


def without(records: list[dict], field: str) -> list[dict]:
    return [{key: value for key, value in record.items() if key != field} for record in records]


def module(root: Path, **options: Any) -> Manifest:
    return Manifest(root, num_workers=0, preprocess=preprocess, **options)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.jsonl"])
@pytest.mark.parametrize("images", ["", "images", "img_raw"])
def test_one_file_holds_all_splits(tmp_path: Path, name: str, images: str) -> None:
    data = module(make_manifest(tmp_path, RECORDS, name, images), batch_size=2)
    (batch,) = data.train_dataloader()
    assert sorted(batch.query.captions) == ["Make the red  dog green", "no cat"]
    assert batch.query.reference.shape[0] == batch.target.shape[0] == 2
    protocol = data.protocols("val")[0]
    assert protocol.gallery == ("a/1.jpg", "b/0.png", "b/1.png")
    assert (protocol.references, protocol.targets, protocol.query_ids) == ((0, 1), ((1,), (2,)), (1, 3))
    assert not protocol.exclude_reference and protocol.describe()["recall_at"] == [1, 5, 10, 50, 100]
    assert protocol.describe()["gallery_of"] == "references and targets"
    assert data.reader.list_splits() == ["train", "val"]


def test_an_image_has_one_id_however_its_path_is_written(tmp_path: Path) -> None:
    data = module(make_manifest(tmp_path, RECORDS), batch_size=2)
    (batch,) = data.train_dataloader()
    first = batch.query.captions.index("no cat")
    assert batch.target_id[first] == batch.reference_id[1 - first]
    assert len({*batch.target_id.tolist(), *batch.reference_id.tolist()}) == 3


def test_every_split_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    plain = without(RECORDS, "split")
    make_manifest(tmp_path, plain[:3], "train.jsonl")
    make_manifest(tmp_path, plain[1:], "val.json")
    make_manifest(tmp_path, plain[:1], "lists/of-test.jsonl")
    data = module(tmp_path)
    assert len(data.read_training().records) == 3
    assert len(data.protocols("val")[0].query_ids) == 3
    assert data.reader.list_splits() == ["train", "val"]
    assert len(module(tmp_path, file="lists/of-{split}.jsonl").protocols("test")[0].query_ids) == 1
    assert module(tmp_path, file=str(tmp_path / "val.json")).reader.list_splits() == ["train"]


def test_images_reach_the_batch(tmp_path: Path) -> None:
    data = module(make_manifest(tmp_path, RECORDS))
    (gallery,) = data.val_dataloader()[0]
    for index, name in enumerate(data.protocols("val")[0].gallery[1:], start=1):  # the first one is a JPEG
        assert (gallery.image[index, :, 0, 0] * 255).round().tolist() == list(colour_of(name))
    assert data.target_image("val", 0, 1).getpixel((0, 0)) == colour_of("b/1.png")


def test_without_targets_queries_can_be_predicted(tmp_path: Path) -> None:
    root = make_manifest(tmp_path, without(RECORDS, "target"))
    data = module(root, test_splits=["val"])
    protocol = data.protocols("predict")[0]
    assert not protocol.labelled and protocol.gallery == ("a/1.jpg", "b/0.png") and protocol.targets == ((), ())
    with pytest.raises(ValueError, match="labels of manifest val are hidden"):
        data.setup("test")


def test_a_listed_gallery_takes_the_place_of_references_and_targets(tmp_path: Path) -> None:
    root = make_manifest(tmp_path, RECORDS)
    write_json(root / "val_gallery.json", ["far.png", "./b/1.png", "b/0.png"])
    data = module(root, gallery_file="{split}_gallery.json", exclude_reference=True, recall_at=[1, 2], name="own")
    protocol = data.protocols("val")[0]
    assert protocol.gallery == ("far.png", "b/1.png", "b/0.png")
    assert protocol.references == (-1, 2) and protocol.targets == ((2,), (1,))
    assert (protocol.benchmark, protocol.exclude_reference, protocol.metric_names()) == (
        "own",
        True,
        ("recall_at_1", "recall_at_2"),
    )
    assert protocol.describe()["gallery_of"] == "{split}_gallery.json"
    assert set(data._evaluations["val"].image_paths) == {"far.png", "b/1.png", "b/0.png", "a/1.jpg"}


def test_optional_fields_are_read(tmp_path: Path) -> None:
    records = [dict(record, id=70 - number) for number, record in enumerate(RECORDS)]
    records[1] |= {
        "phrases": [{"text": "a cat", "start": 4, "end": 9, "box": [10, 5, 25, 20]}],
        "image_size": [80, 60],
        "image_set": 4,
        "concepts": 2,
    }
    data = module(make_manifest(tmp_path, records))
    protocol = data.protocols("val")[0]
    assert protocol.query_ids == (69, 67) and protocol.strata == {"concepts_2": (0,)}
    batch = data.query_batch("val", 0, [0, 1])
    assert batch.phrases.owner.tolist() == [0] and batch.phrases.spans.tolist() == [[4, 9]]
    torch.testing.assert_close(batch.phrases.boxes, torch.tensor([[0.0, 5 / 60, 15 / 60, 20 / 60]]))
    assert [record.image_set for record in data._evaluations["val"].records] == [4, None]


BROKEN = [
    ({"reference": None}, "field reference must be a string, got None"),
    ({"reference": " "}, "field reference is empty"),
    ({"target": "b/0.png"}, "field target is the reference itself: 'b/0.png'"),
    ({"target": None}, "field target is missing, but other records have it"),
    ({"caption": 3}, "field caption must be a string, got 3"),
    ({"split": ""}, "field split is missing, but other records have it"),
    ({"id": 5}, "field id is given, but other records have none"),
    ({"image_set": "a"}, "field image_set must be an integer, got 'a'"),
    ({"phrases": [{"start": 0, "end": 40}]}, "field phrases.0 has span [0, 40) outside the caption 'add a hat'"),
]


@pytest.mark.parametrize(("change", "problem"), BROKEN)
def test_broken_records_are_named(tmp_path: Path, change: dict, problem: str) -> None:
    make_manifest(tmp_path, RECORDS)
    write_lines(tmp_path / "manifest.jsonl", [*RECORDS[:3], RECORDS[3] | change])
    with pytest.raises(ValueError) as caught:
        module(tmp_path).setup("validate")
    message = str(caught.value)
    assert message.startswith("record 3 ") and f"of {tmp_path / 'manifest.jsonl'}: " in message and problem in message


def test_a_record_of_a_split_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    data = module(make_manifest(tmp_path, RECORDS))
    (tmp_path / "b" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"target of record 3 of .*manifest\.jsonl"):
        data.target_image("val", 0, 1)


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_can_not_be_used(tmp_path: Path) -> None:
    message = complaint(module(tmp_path).read_training)
    assert str(tmp_path / "train.jsonl") in message and str(tmp_path / "manifest.json") in message
    assert "expected the folder of the manifest, and one of its splits (data.root)" in message
    assert complaint(module(tmp_path, file="my.json").read_training).endswith("(data.file)")
    (tmp_path / "manifest.jsonl").write_text('{"a": 1}\nreference\n\n{"b": 2\n')
    assert complaint(module(tmp_path).read_training).endswith("manifest.jsonl: not valid JSON in line 2, 4")
    (tmp_path / "manifest.jsonl").write_text("\n")
    assert complaint(module(tmp_path).read_training).endswith("holds no records")
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe")
    assert "expected text in UTF-8, found byte 0xff at 0" in complaint(module(tmp_path).read_training)
    write_lines(tmp_path / "manifest.jsonl", RECORDS)
    assert "no record has split 'test' (data.test_splits)" in complaint(lambda: module(tmp_path).setup("test"))
    missing = complaint(lambda: module(tmp_path, gallery_file="g.json").setup("validate"))
    assert str(tmp_path / "g.json") in missing
    write_json(tmp_path / "g.json", ["b/0.png"])
    message = complaint(lambda: module(tmp_path, gallery_file="g.json").setup("validate"))
    assert f"field target names image 'b/1.png', which is not in the gallery file {tmp_path / 'g.json'}" in message
    write_json(tmp_path / "g.json", ["b/0.png", 3])
    message = complaint(lambda: module(tmp_path, gallery_file="g.json").setup("validate"))
    assert message == f"record 1 of {tmp_path / 'g.json'}: must be the name of an image, got 3"


def test_training_needs_targets(tmp_path: Path) -> None:
    root = make_manifest(tmp_path, without(RECORDS, "target"))
    assert "record 0 of" in (message := complaint(module(root).read_training)) and "field target" in message


def test_training_triplets_are_not_scored_by_accident(tmp_path: Path) -> None:
    root = make_manifest(tmp_path, without(RECORDS, "split"))
    message = complaint(lambda: module(root).setup("fit"))
    assert "val would be the same triplets" in message and "(data.val_splits)" in message
    module(root).setup("validate")
    data = module(root, val_splits=["train"])
    data.setup("fit")
    assert len(data.protocols("val")[0].query_ids) == len(data._training.records) == 4
