"""Pairs of existing sets: of small files that are written here, and of the official ones."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from contextcir.synthesis.pairs import pair_key
from contextcir.synthesis.records import Pair
from data_modules.pairs import CIRRPairs, HotelPairs, LaSCoPairs, ManifestPairs, SetPairs
from tests.helpers.make_convertible import HOTEL, make_hotel, make_lasco_files
from tests.helpers.make_data import edited, make_cirr, write_json


def sides(source: SetPairs) -> list[tuple[str, str]]:
    return [(pair.reference, pair.target) for pair in source.pairs()]


def test_cirr_pairs_are_those_of_its_captions_with_the_members_of_their_sets(shared: Path) -> None:
    root = shared / "data" / "cirr"
    found = list(CIRRPairs(root, "val").pairs())
    paths = json.loads((root / "image_splits" / "split.rc2.val.json").read_text())
    expected: dict[tuple[str, str], list[str]] = {}
    for record in json.loads((root / "captions" / "cap.rc2.val.json").read_text()):
        pair = tuple(paths[record[side]].removeprefix("./") for side in ("reference", "target_hard"))
        members = [paths[name].removeprefix("./") for name in record["img_set"]["members"]]
        expected.setdefault(pair, members)  # type: ignore[arg-type]
    assert [(pair.reference, pair.target) for pair in found] == list(expected)
    assert [list(pair.image_set) for pair in found] == list(expected.values())
    assert {len(pair.image_set) for pair in found} == {6} and {pair.source for pair in found} == {"cirr"}
    assert all(pair.reference in pair.image_set and pair.target in pair.image_set for pair in found)
    assert found[0].key == pair_key("dev/dev-244-0-img0.png", "dev/dev-1028-1-img1.png")
    assert len(found) == 4181


def test_cirr_without_targets_has_no_pairs(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"target_hard is missing: there are no pairs"):
        list(CIRRPairs(shared / "data" / "cirr", "test1").pairs())


def test_lasco_pairs_on_the_official_corpus(shared: Path, tmp_path: Path) -> None:
    corpus = json.loads((shared / "data/lasco/downloads/lasco_val_corpus.json").read_text())
    (tmp_path / "lasco_val_corpus.json").write_text(json.dumps(corpus))
    records = [
        {
            "qid": number,
            "query-image": [one["id"], one["path"].removeprefix("val/")],
            "query-text": "there is one more",
            "target-image": [other["id"], other["path"].removeprefix("val/")],
        }
        for number, (one, other) in enumerate(zip(corpus[:50], corpus[50:100], strict=True))
    ]
    write_json(tmp_path / "lasco_val.json", records)
    names = [image["path"].rsplit("/", 1)[-1] for image in corpus[:100]]
    expected = [(f"val2014/{one}", f"val2014/{other}") for one, other in zip(names[:50], names[50:], strict=True)]
    assert sides(LaSCoPairs(tmp_path, "val")) == expected


def test_lasco_pairs_lie_below_the_folder_of_coco(tmp_path: Path) -> None:
    root = make_lasco_files(tmp_path)
    found = list(LaSCoPairs(root, "val").pairs())
    names = [f"val2014/COCO_val2014_{number:012d}.jpg" for number in range(10, 14)]
    assert [(pair.reference, pair.target) for pair in found] == list(pairwise(names))
    assert all((root / pair.target).is_file() and pair.image_set == () for pair in found)
    assert {pair.source for pair in found} == {"lasco"}


@pytest.mark.parametrize("split", ["train", "val"])
def test_hotel_pairs_lie_below_its_root(split: str, tmp_path: Path) -> None:
    root = make_hotel(tmp_path, split)
    folder = "images/train" if split == "train" else "images/val_test"
    expected = [(f"{folder}/{n}/expedia/{n}.jpg", f"{folder}/{n}/travel/t{n}.jpg") for n in range(3)]
    assert sides(HotelPairs(root, split)) == expected
    assert all((root / path).is_file() for pair in expected for path in pair)


def test_broken_records_of_a_set_are_an_error_or_counted(tmp_path: Path) -> None:
    root = make_hotel(tmp_path)
    with edited(root / HOTEL) as records:
        records[1]["query_image"] = "a.jpg"
    with pytest.raises(ValueError, match=r"record 1 of .*query_image .*\(pairs\.skip_broken\)"):
        sides(HotelPairs(root))
    with pytest.warns(UserWarning, match=r"1 records are left out \(1: field query_image must be a path"):
        assert len(sides(HotelPairs(root, skip_broken=True))) == 2


def manifest(root: Path, *rows: tuple[str, str, int | None]) -> Path:
    lines = [
        json.dumps({"reference": one, "target": other, "caption": "a text", "image_set": number})
        for one, other, number in rows
    ]
    (root / "train.jsonl").write_text("\n".join(lines))
    return root


def test_manifest_pairs_come_once_with_the_images_of_their_set(tmp_path: Path) -> None:
    root = manifest(
        tmp_path, ("a.jpg", "./b.jpg", 0), ("b.jpg", "c.jpg", 0), ("a.jpg", "b.jpg", 0), ("x/y.jpg", "z.jpg", None)
    )
    found = list(ManifestPairs(root).pairs())
    assert [(pair.reference, pair.target, pair.image_set) for pair in found] == [
        ("a.jpg", "b.jpg", ("a.jpg", "b.jpg", "c.jpg")),
        ("b.jpg", "c.jpg", ("a.jpg", "b.jpg", "c.jpg")),
        ("x/y.jpg", "z.jpg", ()),
    ]
    assert found[0] == Pair(pair_key("a.jpg", "b.jpg"), "a.jpg", "b.jpg", ("a.jpg", "b.jpg", "c.jpg"), None, "manifest")


def test_a_set_of_more_than_six_images_is_none(tmp_path: Path) -> None:
    six = manifest(tmp_path, *((f"{n}.jpg", f"{n + 1}.jpg", 7) for n in range(5)))
    assert {len(pair.image_set) for pair in ManifestPairs(six).pairs()} == {6}
    seven = manifest(tmp_path, *((f"{n}.jpg", f"{n + 1}.jpg", 7) for n in range(6)))
    assert {len(pair.image_set) for pair in ManifestPairs(seven).pairs()} == {0}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (CIRRPairs, r"expected the folder of cirr \(pairs\.root\)"),
        (LaSCoPairs, r"expected the folder of LaSCo \(pairs\.root\)"),
        (HotelPairs, r"expected the folder of the official files, and one of their splits \(pairs\.root\)"),
        (ManifestPairs, r"expected the folder of the manifest, and one of its splits \(pairs\.root\)"),
    ],
)
def test_what_is_not_there_is_told_with_the_flags_of_a_synthesis(
    source: Callable[[Path], SetPairs], words: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=words):
        list(source(tmp_path).pairs())


def test_paths_that_lead_out_of_the_image_folder_are_told(tmp_path: Path) -> None:
    root = manifest(tmp_path, ("../a.jpg", "b.jpg", None))
    with pytest.raises(ValueError, match=r"record 0 .*train.jsonl: field reference must be a path below the folder"):
        list(ManifestPairs(root).pairs())


def test_cirr_in_another_layout(tmp_path: Path) -> None:
    root = make_cirr(tmp_path, annotations="cirr")
    found = list(CIRRPairs(root).pairs())
    assert found and all((root / "img_raw" / path).is_file() for pair in found for path in pair.image_set)
