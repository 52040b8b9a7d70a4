"""GeneCIS: broken records, missing files and images, and boxes outside of their image are named."""

from pathlib import Path

import pytest

from data_modules import GeneCIS
from tests.helpers.make_data import edited, preprocess
from tests.helpers.make_genecis import make_genecis


def complaint(root: Path, **options: object) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        GeneCIS(root, **options).setup("validate")
    assert "\n" not in str(caught.value)
    return str(caught.value)


RECORDS = [
    ("focus_object", {"condition": 3}, "field condition must be a string, got 3"),
    ("focus_object", {"gallery": []}, "field gallery is empty: there is nothing to rank"),
    ("focus_object", {"gallery": "none"}, "field gallery must be a list, got 'none'"),
    ("focus_object", {"gallery": [{}]}, "field gallery.0.val_image_id is missing"),
    ("focus_object", {"target": {"val_image_id": "7"}}, "field target.val_image_id must be an integer, got '7'"),
    ("focus_object", {"target": {"val_image_id": 2}}, "field target is the reference itself: 2"),
    ("focus_object", {"gallery": [{"val_image_id": 2}]}, "field gallery.0 is the reference itself: 2"),
    ("focus_attribute", {"reference": {"image_id": 3}}, "field reference.instance_bbox is missing"),
    ("focus_attribute", {"reference": {"instance_bbox": [1, 2, 3, 4]}}, "field reference.image_id is missing"),
    *(
        (
            "change_attribute",
            {"target": {"image_id": 3, "instance_bbox": box}},
            "field target.instance_bbox must be [left, top, width, height] in pixels, got ",
        )
        for box in ([1, 2, 3], [1, 2, 0, 4], [1, 2, 3, -4], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, 1e308])
    ),
]


@pytest.mark.parametrize(("task", "change", "problem"), RECORDS)
def test_broken_records_are_named(tmp_path: Path, task: str, change: dict[str, object], problem: str) -> None:
    file = make_genecis(tmp_path) / "genecis" / f"{task}.json"
    with edited(file) as records:
        records[1] |= change
    assert complaint(tmp_path).startswith(f"record 1 of {file}: {problem}")


def test_wrong_tasks_and_missing_files_are_named(tmp_path: Path) -> None:
    root = make_genecis(tmp_path)
    assert "GeneCIS has the tasks focus_attribute, change_attribute" in complaint(root, val_splits=["val"])
    (root / "genecis" / "change_object.json").unlink()
    assert complaint(root).startswith(f"no file change_object.json in {root}/genecis, {root}: ")


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    root = make_genecis(tmp_path)
    (root / "VG_100K_2" / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="3@2,10.5,22,30"):
        GeneCIS(root, num_workers=0, preprocess=preprocess).val_dataloader()
    for file in root.rglob("VG_100K*/*.jpg"):
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no images: looked for .*\.jpg and \d+ others in .*VG_100K.*\(data\.root\)"
    ):
        GeneCIS(root, num_workers=0, preprocess=preprocess).val_dataloader()


def test_a_box_outside_of_its_image_is_named(tmp_path: Path) -> None:
    root = make_genecis(tmp_path)
    with edited(root / "genecis" / "focus_attribute.json") as records:
        records[0]["target"]["instance_bbox"] = [500, 0, 10, 10]
    data = GeneCIS(root, num_workers=0, preprocess=preprocess)
    with pytest.raises(ValueError, match=r"2@500,0,10,10.*outside of the 90 x 60 pixels of .*2\.jpg") as caught:
        data.target_image("val", 0, 0)
    assert "\n" not in str(caught.value) and "record 0" in str(caught.value)
