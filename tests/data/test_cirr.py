"""CIRR: the official annotations, every layout that users have, and the optional fields."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_modules import CIRR, CompositionDataModule
from data_modules.cirr import CIRRReader
from tests.helpers.make_data import colour_of, edited, make_cirr, preprocess


@pytest.fixture(scope="module")
def official(shared: Path) -> CIRR:
    return CIRR(shared / "data" / "cirr")


def test_official_counts(official: CIRR) -> None:
    (val,), (test1,) = official.protocols("val"), official.protocols("predict")
    assert (len(val.query_ids), len(val.gallery)) == (4181, 2297)
    assert (len(test1.query_ids), len(test1.gallery)) == (4148, 2315)
    assert (val.benchmark, val.split, test1.split) == ("cirr", "val", "test1")
    assert len(set(val.references)) == 2165 and len(set(test1.references)) == 2178
    assert val.labelled and not test1.labelled


def test_official_protocol(official: CIRR) -> None:
    val = official.protocols("val")[0]
    hard = [*(f"recall_at_{k}" for k in (1, 5, 10, 50)), *(f"subset_recall_at_{k}" for k in (1, 2, 3))]
    assert val.metric_names() == (*hard, *(f"soft_{name}" for name in hard), "mean_recall")
    assert val.exclude_reference and not val.strata and val.headline == "recall_at_1" and val.averaged_as is None
    assert val.describe()["means"] == {"mean_recall": ["recall_at_5", "subset_recall_at_1"]}
    for protocol in (val, official.protocols("predict")[0]):
        for subset, reference, targets in zip(protocol.subsets, protocol.references, protocol.targets, strict=True):
            assert len(subset) == 6 and reference in subset and reference not in targets
            assert len(targets) == (protocol is val) and set(targets) <= set(subset)


def test_official_image_sets_have_six_images_each(shared: Path) -> None:
    training = CIRRReader(shared / "data" / "cirr").read_training("val")
    assert {len(members) for members in training.image_sets} == {6}
    assert len(training.image_sets) == len({record.image_set for record in training.records})
    assert all(set(members) <= set(training.image_paths) for members in training.image_sets)


@pytest.mark.parametrize("left", [0, 2, 6, None])
def test_members_of_training_sets_that_are_not_listed_do_not_count(tmp_path: Path, left: int | None) -> None:
    def change_members(record: dict) -> None:
        members = record["img_set"].pop("members")
        if left is not None:
            record["img_set"]["members"] = [*members[:left], "elsewhere"]

    root = make_cirr(tmp_path, sets=1)
    with edited(root / "captions" / "cap.rc2.train.json") as records:
        for record in records:
            change_members(record)
    names = tuple(f"train-0-0-img{member}" for member in range(left or 0))
    assert CIRRReader(root).read_training("train").image_sets == ((names,) if left else ())


def test_an_official_record_is_read_as_it_stands(official: CIRR) -> None:
    val = official.protocols("val")[0]
    assert val.query_ids[0] == 12060
    assert val.gallery[val.references[0]] == "dev-244-0-img0"
    assert [val.gallery[target] for target in val.targets[0]] == ["dev-1028-1-img1"]
    assert [val.gallery[member] for member in val.subsets[0]] == [
        "dev-430-3-img0", "dev-63-0-img1", "dev-1028-1-img1", "dev-1028-2-img1", "dev-244-0-img0", "dev-1028-2-img0",
    ]  # fmt: skip


def test_official_soft_targets_are_taken_as_they_are_written(official: CIRR) -> None:
    val, test1 = official.protocols("val")[0], official.protocols("predict")[0]
    assert test1.graded_targets is None and len(val.graded_targets) == 4181
    values = [relevance for grades in val.graded_targets for relevance in grades.values()]
    assert {value: values.count(value) for value in set(values)} == {1.0: 4216, -1.0: 807, 0.5: 62, 0.2: 6}
    hard = [grades.get(target) for grades, (target,) in zip(val.graded_targets, val.targets, strict=True)]
    assert {value: hard.count(value) for value in set(hard)} == {1.0: 4139, None: 37, -1.0: 3, 0.2: 1, 0.5: 1}
    assert sum(max(grades.values()) <= 0 for grades in val.graded_targets) == 3
    references = zip(val.graded_targets, val.references, strict=True)
    assert sum(grades.get(reference, 0.0) > 0 for grades, reference in references) == 37
    assert "soft_recall_at_50" in val.metric_names() and "soft_subset_recall_at_3" in val.metric_names()


def test_the_blank_caption_is_kept(official: CIRR) -> None:
    protocol = official.protocols("predict")[0]
    record = official._evaluations["test1"].records[protocol.query_ids.index(27098)]
    assert (record.id, record.caption, record.phrases) == (27098, " ", ())
    assert protocol.gallery[protocol.references[protocol.query_ids.index(27098)]] == "test1-252-3-img1"


def test_hidden_labels_can_be_predicted_but_not_tested(official: CIRR) -> None:
    official.setup("predict")
    with pytest.raises(ValueError, match=r"^the labels of cirr test1 are hidden.*\(data\.test_splits\)"):
        official.setup("test")


def without_sub_folders(listed: str) -> str:
    parts = listed.split("/")
    return f"{parts[1]}/{parts[-1]}"


LAYOUTS = {
    "official": ("", "img_raw", str),
    "official, one folder up": ("cirr", "cirr/img_raw", str),
    "CLIP4Cir": ("cirr", "", str),
    "CLIP4Cir with flattened train images": ("cirr", "", without_sub_folders),
    "CoVR": ("", "images", str),
    "peft-cir": ("cirr/annotations", "cirr/images", str),
    "peft-cir, from inside": ("annotations", "images", str),
    "images as JPEG": ("", "img_raw", lambda listed: listed.replace(".png", ".jpg")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_common_layout_is_found(tmp_path: Path, layout: str) -> None:
    annotations, images, place = LAYOUTS[layout]
    data = CIRR(make_cirr(tmp_path, annotations, images, place=place), batch_size=2, num_workers=0)
    data.preprocess = preprocess
    assert len(list(data.train_dataloader())) == 3
    for stage in ("val", "predict"):
        expected = colour_of(data.protocols(stage)[0].gallery[1])
        found = data.reference_image(stage, 0, 1).getpixel((9, 9))
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 4


def test_extended_captions_beside_the_captions_are_not_taken_for_them(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    (root / "captions" / "cap.ext.rc2.val.json").write_text("[]")
    assert len(CIRR(root).protocols("val")[0].query_ids) == 6


def test_a_split_is_not_confused_with_one_that_begins_like_it(tmp_path: Path) -> None:
    class ScenesInCIRRFormat(CIRRReader):
        benchmark = "scenes"

    root = make_cirr(tmp_path, splits=("train", "val", "test", "test_unseen"), version="scenes")
    data = CompositionDataModule(ScenesInCIRRFormat(root), test_splits=("test", "test_unseen"))
    data.setup("test")
    assert [(protocol.benchmark, protocol.split) for protocol in data.protocols("test")] == [
        ("scenes", "test"),
        ("scenes", "test_unseen"),
    ]
    assert all(name.startswith("test-") for name in data.protocols("test")[0].gallery)


def change(root: Path, position: int, change_record: Callable[[dict], object], split: str = "val") -> CIRR:
    with edited(root / "captions" / f"cap.rc2.{split}.json") as records:
        change_record(records[position])
    return CIRR(root, batch_size=2, num_workers=0, preprocess=preprocess)


def test_phrases_boxes_and_image_size_are_read(tmp_path: Path) -> None:
    caption = "Make the red  dog green &amp; remove a cat"  # cleaned: "make the red dog green & remove a cat"
    fields = {
        "caption": caption,
        "phrases": [
            {"text": "the red dog", "start": 5, "end": 16, "box": [10, 5, 25, 20]},
            {"text": "a cat", "start": 32, "end": 37, "box": None},
        ],
        "image_size": [80, 60],
    }
    data = change(make_cirr(tmp_path), 2, lambda record: record.update(fields))
    batch = data.query_batch("val", 0, [0, 2])
    assert batch.captions[1] == caption
    assert batch.phrases.owner.tolist() == [1, 1] and batch.phrases.spans.tolist() == [[5, 16], [32, 37]]
    assert batch.phrases.boxes[0].tolist() == pytest.approx([0.0, 5 / 60, 15 / 60, 20 / 60])
    assert batch.phrases.boxes[1].isnan().all()


def test_queries_are_grouped_by_number_of_concepts(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    for position, concepts in ((0, 2), (1, 10), (3, 2)):
        change(root, position, lambda record, concepts=concepts: record.update(concepts=concepts))
    assert CIRR(root).protocols("val")[0].strata == {"concepts_2": (0, 3), "concepts_10": (1,)}


@pytest.mark.parametrize(
    "caption", ["", " ", "заменить собаку", "把狗换成猫", "word " * 300, "<b>bold</b> &amp; 😀\n\t"]
)
def test_captions_of_any_kind_are_kept(tmp_path: Path, caption: str) -> None:
    data = change(make_cirr(tmp_path), 1, lambda record: record.update(caption=caption))
    assert data.query_batch("val", 0, [1]).captions == [caption]


def test_soft_targets_are_an_addition_to_records_that_have_them(tmp_path: Path) -> None:
    data = change(make_cirr(tmp_path), 1, lambda record: record.update(target_soft={}))
    assert [list(grades.values()) for grades in data.protocols("val")[0].graded_targets] == [[1.0], [], *[[1.0]] * 4]
    for position in range(6):
        data = change(tmp_path, position, lambda record: record.update(target_soft=None))
    protocol = data.protocols("val")[0]
    assert protocol.graded_targets is None and not any(name.startswith("soft") for name in protocol.metric_names())


def test_soft_targets_that_only_repeat_the_hard_ones_make_no_table_of_their_own(tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    with edited(root / "captions" / "cap.rc2.val.json") as records:
        assert all(record["target_soft"] == {record["target_hard"]: 1.0} for record in records)
        other = records[3]["img_set"]["members"][5]
    protocol = CIRR(root).protocols("val")[0]
    assert protocol.graded_targets is None and not any(name.startswith("soft") for name in protocol.metric_names())
    protocol = change(root, 3, lambda record: record["target_soft"].update({other: 0.2})).protocols("val")[0]
    hard = [{target: 1.0} for (target,) in protocol.targets]
    assert list(protocol.graded_targets) == [*hard[:3], hard[3] | {protocol.gallery.index(other): 0.2}, *hard[4:]]
    assert "soft_recall_at_1" in protocol.metric_names()


@pytest.mark.parametrize(
    ("soft", "problem"),
    [
        (["val-0-0-img3"], r"field target_soft must be an object, got \['val-0-0-img3'\]"),
        (
            {"val-0-0-img9": 1.0},
            r"field target_soft names image 'val-0-0-img9', which is not in .*split\.rc2\.val\.json",
        ),
        ({"val-0-0-img3": "1"}, "field target_soft must hold numbers from -1 to 1, got '1'"),
        ({"val-0-0-img3": True}, "field target_soft must hold numbers from -1 to 1, got True"),
        ({"val-0-0-img3": 2.0}, "field target_soft must hold numbers from -1 to 1, got 2.0"),
        ({"val-0-0-img3": 1e308}, "field target_soft must hold numbers from -1 to 1, got 1e.308"),
        (None, "field target_soft is missing, but other records have it"),
    ],
)
def test_wrong_soft_targets_are_told_by_record(tmp_path: Path, soft: object, problem: str) -> None:
    data = change(make_cirr(tmp_path), 2, lambda record: record.update(target_soft=soft))
    with pytest.raises(ValueError, match=rf"^record 2 \(pairid 1002\) of .*cap\.rc2\.val\.json: {problem}"):
        data.setup("validate")


def test_soft_targets_without_hard_ones_are_refused(tmp_path: Path) -> None:
    make_cirr(tmp_path)
    for position in range(6):
        data = change(tmp_path, position, lambda record: record.update(target_hard=None))
    with pytest.raises(ValueError, match=r"^record 0 .*field target_soft is there without target_hard"):
        data.setup("validate")
