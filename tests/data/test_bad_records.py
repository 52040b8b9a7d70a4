"""Whatever is wrong with a record of a user is told in one line that names the file, the record and the field."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from contextcir.errors import InputError, MissingFileError
from data_modules import CIRCO, CIRR
from data_modules.reading.annotations import RecordError
from tests.helpers.make_data import edited, make_circo, make_cirr

CAPTIONS = "captions/cap.rc2.val.json"
SPLIT = "image_splits/split.rc2.val.json"
QUERIES = "annotations/val.json"
COCO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def complaint(action: Callable[[], object]) -> str:
    """The message of the error that an action ends with."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action()
    assert type(caught.value) in (InputError, RecordError, MissingFileError)
    message = str(caught.value)
    short = re.sub(r"/\S*?/pytest-\d+(/popen-gw\d+)?", "", message)  # how long the temporary folder is does not matter
    assert "\n" not in message and len(short) < 600
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
    (without("img_set"), "field img_set is missing"),
    (having(img_set=3), "field img_set must be an object, got 3"),
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
    (having(phrases=["the dog"]), "field phrases.0 must be an object, got 'the dog'"),
    (phrase(end="4"), "field phrases.0.end must be an integer, got '4'"),
    (phrase(end=400), "field phrases.0 has span [0, 400) outside the caption 'show 4 bottles instead'"),
    (phrase(start=-1), "field phrases.0 has span [-1, 4) outside the caption"),
    (phrase(start=4), "field phrases.0 has span [4, 4) outside the caption"),
    (phrase(text="bottles"), "field phrases.0 is 'bottles', but its span holds 'show'"),
    (phrase(box=[1, 2, 3]), "field phrases.0.box must be [x0, y0, x1, y1] in pixels"),
    (phrase(box=[5, 2, 3, 4]), "field phrases.0.box must be [x0, y0, x1, y1] in pixels"),
    (phrase(box=[1, 2, 1e308, 4]), "field phrases.0.box must be [x0, y0, x1, y1] in pixels"),
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
