"""Whatever is wrong with the files, folders, images or settings of a user is told in one line that names them."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from data_modules import CIRCO, CIRR, CompositionDataModule
from tests.data.test_bad_records import CAPTIONS, COCO, QUERIES, SPLIT, complaint
from tests.helpers.make_data import edited, make_circo, make_cirr, preprocess, write_json

FILES = [
    (CIRR, CAPTIONS, "{}", "expected a list, got {}"),
    (CIRR, CAPTIONS, "[]", "holds no records"),
    (CIRR, CAPTIONS, "[1]", "record 0 of "),
    (CIRR, CAPTIONS, '[{"pairid": 1', "not valid JSON: Expecting"),
    (CIRR, CAPTIONS, "", "not valid JSON: Expecting value in line 1"),
    (CIRR, SPLIT, "[]", "expected an object, got []"),
    (CIRR, SPLIT, "{}", "lists no images"),
    (CIRR, SPLIT, '{"a": 3}', "the path of image a must be a string, got 3"),
    (CIRCO, QUERIES, "null", "expected a list, got None"),
    (CIRCO, COCO, "{}", "field images must be a list of images, got None"),
    (CIRCO, COCO, '{"images": []}', "field images must be a list of images, got []"),
    (CIRCO, COCO, '{"images": [{"id": 1}]}', "record 0 (id 1) of "),
    (CIRCO, COCO, '{"images": [{"id": 1}]}', "field file_name is missing"),
    (CIRCO, COCO, '{"images": [4]}', "record 0 of "),
    (CIRCO, COCO, '{"images": [4]}', "must be an object, got 4"),
]


@pytest.mark.parametrize(("benchmark", "file", "content", "problem"), FILES)
def test_files_of_another_kind(
    tmp_path: Path, benchmark: type[CompositionDataModule], file: str, content: str, problem: str
) -> None:
    root = (make_cirr if benchmark is CIRR else make_circo)(tmp_path)
    (root / file).write_text(content)
    message = complaint(lambda: benchmark(root).setup("validate"))
    assert str(root / file) in message and problem in message


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    (root / CAPTIONS).write_bytes(b"\xff\xfe\x00")
    assert f"{root / CAPTIONS}: expected text in UTF-8" in complaint(lambda: CIRR(root).setup("validate"))


def test_an_image_listed_twice(tmp_path: Path) -> None:
    root = make_circo(tmp_path)
    with edited(root / COCO) as content:
        content["images"][3]["id"] = 101
    message = complaint(lambda: CIRCO(root).setup("validate"))
    assert message == f"record 3 (id 101) of {root / COCO}: field id is 101, as in record 1: every record needs its own"


@pytest.mark.parametrize("benchmark", [CIRR, CIRCO])
def test_a_folder_that_is_not_there(tmp_path: Path, benchmark: type[CompositionDataModule]) -> None:
    message = complaint(lambda: benchmark(tmp_path / "nowhere").setup("validate"))
    assert message == f"no folder {tmp_path / 'nowhere'}: expected the folder of the benchmark (data.root)"


def test_a_folder_of_another_layout_lists_what_was_tried(tmp_path: Path) -> None:
    message = complaint(lambda: CIRR(tmp_path).setup("validate"))
    for folder in ("", "cirr", "annotations", "cirr/annotations"):
        assert f"{tmp_path / folder / 'image_splits'}" in message
    assert message.startswith("no file split.*.val.json in ") and message.endswith("(data.root)")
    message = complaint(lambda: CIRCO(tmp_path).setup("validate"))
    assert str(tmp_path / COCO) in message and str(tmp_path / "CIRCO" / COCO) in message and "(data.root)" in message
    write_json(tmp_path / COCO, {"images": [{"id": 1, "file_name": "1.jpg"}]})
    message = complaint(lambda: CIRCO(tmp_path).setup("validate"))
    assert str(tmp_path / QUERIES) in message and str(tmp_path / "CIRCO" / QUERIES) in message


@pytest.mark.parametrize(
    ("stage", "options", "setting"),
    [
        ("fit", {"train_split": "trian"}, "data.train_split"),
        ("validate", {"val_splits": ["vall"]}, "data.val_splits"),
        ("predict", {"test_splits": ["tset"]}, "data.test_splits"),
    ],
)
def test_a_misspelt_split_names_the_setting(tmp_path: Path, stage: str, options: dict, setting: str) -> None:
    root = make_cirr(tmp_path)
    message = complaint(lambda: CIRR(root, **options).setup(stage))
    assert f"({setting})" in message and str(root / "image_splits") in message


def test_two_versions_of_one_split_are_not_chosen_from(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    write_json(root / "captions" / "cap.rc1.val.json", [])
    message = complaint(lambda: CIRR(root).setup("validate"))
    assert "cap.rc1.val.json and cap.rc2.val.json" in message


def test_missing_and_truncated_images_are_traced_to_their_records(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    data = CIRR(root, num_workers=0, preprocess=preprocess)
    image = root / "img_raw" / "dev" / "val-0-0-img1.png"
    image.write_bytes(image.read_bytes()[:60])
    message = complaint(lambda: data.query_batch("val", 0, [1]))
    assert str(image) in message and f"(reference of record 1 (pairid 1001) of {root / CAPTIONS})" in message
    assert "(target of record 0 (pairid 1000)" in complaint(lambda: data.target_image("val", 0, 0))
    loader = data.val_dataloader()[0]
    image.unlink()  # while it is being evaluated
    assert f"no file {image} (image 1 of the gallery)" in complaint(lambda: list(loader))


def test_no_images_at_all(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    (root / "img_raw").rename(root / "pictures")
    data = CIRR(root, batch_size=2, num_workers=0, preprocess=preprocess)
    for action in (data.train_dataloader, data.val_dataloader, lambda: data.reference_image("val", 0, 0)):
        message = complaint(action)
        assert str(root / "img_raw") in message and str(root / "cirr" / "images") in message


def test_settings_that_can_not_work(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    assert "expected a whole number from 1 on, got 0 (data.batch_size)" in complaint(lambda: CIRR(root, batch_size=0))
    assert "expected a whole number from 0 to 1024, got -1 (data.num_workers)" in complaint(
        lambda: CIRR(root, num_workers=-1)
    )
    message = complaint(CIRR(root, batch_size=7, preprocess=preprocess).train_dataloader)
    assert (
        message.startswith(f"{root / 'captions/cap.rc2.train.json'} holds 6 triplets")
        and "(data.batch_size)" in message
    )
    data = CIRR(root, batch_size=4, preprocess=preprocess)
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"num_replicas": 2, "rank": 0}, limit_val_batches=0, training=True,
        lightning_module=SimpleNamespace(concept=None),
    )  # fmt: skip
    data.setup("validate")
    assert "fewer than a batch of 4 on each of 2 ranks" in complaint(data.train_dataloader)
    assert "expected stage val, test, predict, got 'valid'" in complaint(lambda: CIRR(root).protocols("valid"))
    assert "no preprocess" in complaint(CIRR(root).val_dataloader)
    with pytest.raises(TypeError, match="bach_size"):
        CIRR(root, bach_size=3)
