"""Whatever is wrong with the files of a user is told in one line that names the file, the record and the field."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_modules import CIRCO, CIRR, CompositionDataModule
from tests.make_data import edited, make_circo, make_cirr, preprocess, write_json

CAPTIONS = "captions/cap.rc2.val.json"
SPLIT = "image_splits/split.rc2.val.json"
QUERIES = "annotations/val.json"
COCO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def complaint(action: Callable[[], object]) -> str:
    """The message of the error that an action ends with."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action()
    assert type(caught.value) in (ValueError, FileNotFoundError)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def without(path: str) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        *outer, last = path.split(".")
        for key in outer:
            record = record[key]
        del record[last]

    return change


def having(**fields: object) -> Callable[[dict], None]:
    return lambda record: record.update(fields)


def phrase(**fields: object) -> Callable[[dict], None]:
    return having(phrases=[{"start": 0, "end": 4} | fields])


CIRR_RECORDS = [
    (without("caption"), "field caption is missing"),
    (having(caption=None), "field caption must be a string, got None"),
    (having(caption=["a", "b"]), "field caption must be a string, got ['a', 'b']"),
    (having(caption=5), "field caption must be a string, got 5"),
    (without("reference"), "field reference is missing"),
    (having(reference=12), "field reference must be a string, got 12"),
    (having(reference="dev-9"), "field reference names image 'dev-9', which is not in {root}/" + SPLIT),
    (having(reference="x" * 500), "field reference names image 'xxxx"),
    (without("target_hard"), "field target_hard is missing, but other records have it"),
    (having(target_hard="dev-9"), "field target_hard names image 'dev-9', which is not in {root}/" + SPLIT),
    (having(target_hard="val-0-0-img2"), "field target_hard is the reference itself: 'val-0-0-img2'"),
    (without("img_set"), "field img_set.id is missing"),
    (having(img_set=3), "field img_set.id is missing"),
    (without("img_set.id"), "field img_set.id is missing"),
    (without("img_set.members"), "field img_set.members is missing"),
    (having(img_set={"id": 1, "members": "abc"}), "field img_set.members must be a list, got 'abc'"),
    (having(img_set={"id": 1, "members": ["val-0-0-img1", "q"]}), "field img_set.members.1 names image 'q', which is"),
    (having(img_set={"id": 1, "members": ["val-0-0-img1"] * 2}), "field img_set.members names an image twice"),
    (having(concepts="two"), "field concepts must be an integer, got 'two'"),
    (having(concepts=True), "field concepts must be an integer, got True"),
    (having(image_size=[10]), "field image_size must be [width, height] in pixels, got [10]"),
    (having(image_size=[10, 0]), "field image_size must be [width, height] in pixels, got [10, 0]"),
    (having(phrases="the dog"), "field phrases must be a list, got 'the dog'"),
    (having(phrases=["the dog"]), "field phrases.0.start is missing"),
    (phrase(end="4"), "field phrases.0.end must be an integer, got '4'"),
    (phrase(end=400), "field phrases.0 has span [0, 400) outside the caption 'show 4 bottles instead'"),
    (phrase(start=-1), "field phrases.0 has span [-1, 4) outside the caption"),
    (phrase(start=4), "field phrases.0 has span [4, 4) outside the caption"),
    (phrase(text="bottles"), "field phrases.0 is 'bottles', but its span holds 'show'"),
    (phrase(box=[1, 2, 3]), "field phrases.0.box must be [x0, y0, x1, y1] in pixels"),
    (phrase(box=[5, 2, 3, 4]), "field phrases.0.box must be [x0, y0, x1, y1] in pixels"),
    (phrase(box=[1, 2, float("nan"), 4]), "field phrases.0.box must be [x0, y0, x1, y1] in pixels"),
    (phrase(box="here"), "field phrases.0.box must be a list, got 'here'"),
]


@pytest.mark.parametrize(("change", "problem"), CIRR_RECORDS)
def test_cirr_records(tmp_path: Path, change: Callable[[dict], None], problem: str) -> None:
    root = make_cirr(tmp_path)
    with edited(root / CAPTIONS) as records:
        change(records[2])
    message = complaint(lambda: CIRR(root).setup("validate"))
    assert message.startswith(f"record 2 (pairid 1002) of {root / CAPTIONS}: ")
    assert problem.format(root=root) in message


CIRCO_RECORDS = [
    (without("relative_caption"), "field relative_caption is missing"),
    (having(relative_caption=3), "field relative_caption must be a string, got 3"),
    (without("shared_concept"), "field shared_concept is missing"),
    (without("reference_img_id"), "field reference_img_id is missing"),
    (having(reference_img_id="101"), "field reference_img_id must be an integer, got '101'"),
    (having(reference_img_id=7), "field reference_img_id names image '7', which is not in {root}/" + COCO),
    (without("gt_img_ids"), "field gt_img_ids is missing, but other records have it"),
    (having(gt_img_ids=[105, 7]), "field gt_img_ids.1 names image '7', which is not in {root}/" + COCO),
    (having(gt_img_ids=[105, 105]), "field gt_img_ids names an image twice: ['105', '105']"),
    (having(gt_img_ids=[103]), "field target_img_id is 105, which is not among gt_img_ids"),
    (without("target_img_id"), "field target_img_id is missing"),
    (having(semantic_aspects="negation"), "field semantic_aspects must be a list, got 'negation'"),
    (having(semantic_aspects=[1]), "field semantic_aspects.0 must be a string, got 1"),
    (having(concepts=1.5), "field concepts must be an integer, got 1.5"),
    (phrase(start=-2), "field phrases.0 has span [-2, 4) outside the caption 'has 3 bottles.'"),
    (phrase(text="three"), "field phrases.0 is 'three', but its span holds 'has '"),
]


@pytest.mark.parametrize(("change", "problem"), CIRCO_RECORDS)
def test_circo_records(tmp_path: Path, change: Callable[[dict], None], problem: str) -> None:
    root = make_circo(tmp_path)
    with edited(root / QUERIES) as records:
        change(records[1])
    message = complaint(lambda: CIRCO(root).setup("validate"))
    assert message.startswith(f"record 1 (id 1) of {root / QUERIES}: ")
    assert problem.format(root=root) in message


KEYS = [
    (without("pairid"), "record 2 of {file}: field pairid is missing"),
    (having(pairid="1002"), "record 2 of {file}: field pairid must be an integer, got '1002'"),
    (having(pairid=1001), "record 2 (pairid 1001) of {file}: field pairid is 1001, as in record 1"),
]


@pytest.mark.parametrize(("change", "problem"), KEYS)
def test_every_record_needs_its_own_key(tmp_path: Path, change: Callable[[dict], None], problem: str) -> None:
    root = make_cirr(tmp_path)
    with edited(root / CAPTIONS) as records:
        change(records[2])
    assert complaint(lambda: CIRR(root).setup("validate")).startswith(problem.format(file=root / CAPTIONS))


@pytest.mark.parametrize(("first", "blamed"), [(0, 0), (1, 1)])
def test_the_record_without_a_label_is_the_one_that_is_named(tmp_path: Path, first: int, blamed: int) -> None:
    root = make_cirr(tmp_path)
    with edited(root / CAPTIONS) as records:
        del records[first]["target_hard"]
    assert complaint(lambda: CIRR(root).setup("validate")).startswith(f"record {blamed} (pairid {1000 + blamed})")


def test_training_needs_targets(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    message = complaint(lambda: CIRR(root, train_split="test1").setup("fit"))
    assert message.startswith(f"record 0 (pairid 2000) of {root / 'captions/cap.rc2.test1.json'}: field target_hard")


FILES = [
    (CIRR, CAPTIONS, "{}", "expected a list, got {}"),
    (CIRR, CAPTIONS, "[]", "holds no records"),
    (CIRR, CAPTIONS, "[1]", "record 0 of "),
    (CIRR, CAPTIONS, '[{"pairid": 1', "not valid JSON (Expecting"),
    (CIRR, CAPTIONS, "", "not valid JSON (Expecting value: line 1"),
    (CIRR, SPLIT, "[]", "expected an object, got []"),
    (CIRR, SPLIT, "{}", "lists no images"),
    (CIRR, SPLIT, '{"a": 3}', "the path of image a must be a string, got 3"),
    (CIRCO, QUERIES, "null", "expected a list, got None"),
    (CIRCO, COCO, "{}", "field images must be a list of images, got None"),
    (CIRCO, COCO, '{"images": []}', "field images must be a list of images, got []"),
    (CIRCO, COCO, '{"images": [{"id": 1}]}', "image 0 of "),
    (CIRCO, COCO, '{"images": [4]}', "image 0 of "),
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
    assert f"{root / CAPTIONS}: not valid JSON" in complaint(lambda: CIRR(root).setup("validate"))


def test_an_image_listed_twice(tmp_path: Path) -> None:
    root = make_circo(tmp_path)
    with edited(root / COCO) as content:
        content["images"][3]["id"] = 101
    message = complaint(lambda: CIRCO(root).setup("validate"))
    assert message == f"image 3 of {root / COCO}: field id is 101, as in an image before it"


@pytest.mark.parametrize("benchmark", [CIRR, CIRCO])
def test_a_folder_that_is_not_there(tmp_path: Path, benchmark: type[CompositionDataModule]) -> None:
    message = complaint(lambda: benchmark(tmp_path / "nowhere").setup("validate"))
    assert message == f"no folder {tmp_path / 'nowhere'}: set --data.root to the folder of the benchmark"


def test_a_folder_of_another_layout_lists_what_was_tried(tmp_path: Path) -> None:
    message = complaint(lambda: CIRR(tmp_path).setup("validate"))
    for folder in ("", "cirr", "annotations", "cirr/annotations"):
        assert f"{tmp_path / folder / 'image_splits'}" in message
    assert message.startswith("no file split.*.val.json in ") and "--data.root" in message
    message = complaint(lambda: CIRCO(tmp_path).setup("validate"))
    assert str(tmp_path / COCO) in message and str(tmp_path / "CIRCO" / COCO) in message and "--data.root" in message
    write_json(tmp_path / COCO, {"images": [{"id": 1, "file_name": "1.jpg"}]})
    message = complaint(lambda: CIRCO(tmp_path).setup("validate"))
    assert str(tmp_path / QUERIES) in message and str(tmp_path / "CIRCO" / QUERIES) in message


@pytest.mark.parametrize(
    ("stage", "options", "flag"),
    [
        ("fit", {"train_split": "trian"}, "--data.train_split"),
        ("validate", {"val_splits": ["vall"]}, "--data.val_splits"),
        ("predict", {"test_splits": ["tset"]}, "--data.test_splits"),
    ],
)
def test_a_misspelt_split_names_the_flag(tmp_path: Path, stage: str, options: dict, flag: str) -> None:
    root = make_cirr(tmp_path)
    message = complaint(lambda: CIRR(root, **options).setup(stage))
    assert flag in message and str(root / "image_splits") in message


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
    image.unlink()
    assert f"no file {image} (image 1 of the gallery)" in complaint(lambda: list(data.val_dataloader()[0]))


def test_no_images_at_all(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    (root / "img_raw").rename(root / "pictures")
    data = CIRR(root, batch_size=2, num_workers=0, preprocess=preprocess)
    for action in (data.train_dataloader, data.val_dataloader, lambda: data.reference_image("val", 0, 0)):
        message = complaint(action)
        assert str(root / "img_raw") in message and str(root / "cirr" / "images") in message


def test_settings_that_can_not_work(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    assert "--data.batch_size must be at least 1, got 0" in complaint(lambda: CIRR(root, batch_size=0))
    assert "--data.num_workers must be at least 0, got -1" in complaint(lambda: CIRR(root, num_workers=-1))
    message = complaint(CIRR(root, batch_size=7, preprocess=preprocess).train_dataloader)
    assert (
        message.startswith(f"{root / 'captions/cap.rc2.train.json'} holds 6 triplets")
        and "--data.batch_size" in message
    )
    data = CIRR(root, batch_size=4, preprocess=preprocess)
    data.trainer = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2, "rank": 0})
    data.setup("validate")
    assert "fewer than a batch of 4 on each of 2 ranks" in complaint(data.train_dataloader)
    assert "expected stage val, test, predict, got 'valid'" in complaint(lambda: CIRR(root).protocols("valid"))
    assert "no preprocess" in complaint(CIRR(root).val_dataloader)
    with pytest.raises(TypeError, match="bach_size"):
        CIRR(root, bach_size=3)
