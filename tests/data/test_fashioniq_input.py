"""FashionIQ: missing images, broken records and files, wrong options."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contextcir.training.module import ContextCIR
from data_modules import BothOrders, FashionIQ
from tests.data.test_fashioniq_official import quiet_trainer
from tests.helpers import tiny
from tests.helpers.make_data import edited, preprocess, write_json
from tests.helpers.make_fashioniq import make_fashioniq


def test_dead_images_are_an_error_with_their_names_before_training(tmp_path: Path) -> None:
    root = make_fashioniq(tmp_path)
    for name in ("BSTR00001", "BTTR00003", "BDTR00009"):  # no triplet needs the last one
        (root / "images" / f"{name}.png").unlink()
    options = {"num_workers": 0, "batch_size": 2, "preprocess": preprocess}
    with pytest.raises(FileNotFoundError) as caught:
        FashionIQ(root, **options).train_dataloader()
    message = str(caught.value)
    assert "2 of 12 images are" in message and "BSTR00001" in message and "BTTR00003" in message
    assert "experiments.check_data fashioniq" in message and "BDTR00009" not in message and "\n" not in message
    data = FashionIQ(root, train_text=BothOrders(), allow_missing=True, **options)
    with pytest.warns(UserWarning, match="2 of 12 images"):
        loader = data.train_dataloader()
    kept = [record for record in data._training.records if record.reference[:2] == "BS"]
    assert [record.caption[:4] for record in kept] == ["Is 2", "Has "] and len(loader.dataset) == 2 * (3 + 1 + 2)
    for record in data._training.records:
        named, number = str(record.origin), int(record.reference[-1])
        assert named.startswith(f"record {number} of ") and f"cap.{record_category(record.reference)}" in named


def record_category(name: str) -> str:
    return {"D": "dress", "S": "shirt", "T": "toptee"}[name[1]]


def test_dead_gallery_images_are_an_error_before_scoring(tmp_path: Path) -> None:
    root = make_fashioniq(tmp_path)
    (root / "images" / "BTVA00009.png").unlink()
    data = FashionIQ(root, num_workers=0)
    with pytest.raises(FileNotFoundError, match="fashioniq val_toptee: 1 of 14 images are .*BTVA00009"):
        quiet_trainer(tmp_path).validate(ContextCIR(tiny.backbone()), data, verbose=False)


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[tuple[Path, Callable[..., str]]]:
    root = make_fashioniq(tmp_path, queries=3, size=4)

    def complain(**options: object) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            FashionIQ(root, **options).setup("fit")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    yield root, complain


RECORDS = [
    ({"candidate": 3}, "field candidate must be a string, got 3"),
    ({"candidate": "B1"}, "field candidate names image 'B1', which is not in {root}/image_splits/split.shirt.val.json"),
    ({"target": "B1"}, "field target names image 'B1', which is not in {root}/image_splits/split.shirt.val.json"),
    ({"target": None}, "field target is missing, but other records have it"),
    ({"target": "BSVA00001"}, "field target is the candidate itself: 'BSVA00001'"),
    ({"captions": "is red"}, "field captions must be a list, got 'is red'"),
    ({"captions": ["is red"]}, "field captions must be a list of two captions, got 1"),
    ({"captions": ["is red", 5]}, "field captions.1 must be a string, got 5"),
]


@pytest.mark.parametrize(("change", "problem"), RECORDS)
def test_broken_records_are_named(
    broken: tuple[Path, Callable[..., str]], change: dict[str, object], problem: str
) -> None:
    root, complain = broken
    file = root / "captions" / "cap.shirt.val.json"
    with edited(file) as records:
        records[1] |= change
    assert complain() == f"record 1 of {file}: {problem.format(root=root)}"


def test_a_training_triplet_needs_a_target(broken: tuple[Path, Callable[..., str]]) -> None:
    root, complain = broken
    with edited(root / "captions" / "cap.toptee.train.json") as records:
        del records[2]["target"]
    expected = f"record 2 of {root}/captions/cap.toptee.train.json: field target is missing: there is nothing to train"
    assert complain().startswith(expected)


def test_broken_files_and_options_are_named(broken: tuple[Path, Callable[..., str]]) -> None:
    root, complain = broken
    assert "no file split.dress.dev.json" in complain(val_splits=["dev_dress"])
    assert "splits like val_dress, val_shirt and val_toptee, got 'val'" in complain(val_splits=["val"])
    message = complain(train_categories=["hat"])
    assert message == "expected some of dress, shirt, toptee, got ['hat'] (data.train_categories)"
    split = root / "image_splits" / "split.dress.train.json"
    with edited(split) as names:
        names[2] = names[0]
    assert complain() == f"record 2 of {split}: is 'BDTR00000', as record 0"
    with edited(split) as names:
        names[2] = 7
    assert complain() == f"record 2 of {split}: must be the name of an image, got 7"
    write_json(split, [])
    assert complain() == f"{split}: lists no images"
    split.write_text("[")
    assert complain().startswith(f"{split}: not valid JSON")
    split.unlink()
    assert complain().startswith("no file split.dress.train.json in ") and complain().endswith("(data.train_split)")
