"""The check of a benchmark finds the images that are missing, damaged or there twice, in an official set too."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.checking import images as image_check
from data_modules.checking.images import find_duplicates, unwatched
from data_modules.checking.inspection import inspect
from tests.commands.test_check_data import CAPTIONS, of_kind, report_of
from tests.helpers.make_data import edited, make_cirr


def write_tiny(path: Path, number: int) -> None:
    """Write an image that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([[[number >> 16, number >> 8 & 255, number & 255]] * 2], np.uint8)).save(path)


@pytest.fixture(scope="module")
def whole_cirr(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official CIRR val, with small images of different colours under the official names."""
    root = tmp_path_factory.mktemp("cirr")
    for folder, name in (("captions", "cap.rc2.val.json"), ("image_splits", "split.rc2.val.json")):
        (root / folder).mkdir()
        shutil.copyfile(shared / "data" / "cirr" / folder / name, root / folder / name)
    listed = json.loads((root / "image_splits" / "split.rc2.val.json").read_text())
    for number, path in enumerate(listed.values()):
        write_tiny(root / "img_raw" / path, number)
    return root


@pytest.mark.parametrize("options", [[], ["--no-decode"], ["--workers=1"]])
def test_an_official_set_that_is_whole_has_no_problem(
    whole_cirr: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(capsys, "cirr", f"--root={whole_cirr}", "--split=val", *options)
    assert report == {
        "benchmark": "cirr",
        "root": str(whole_cirr),
        "ok": True,
        "images": 2297,
        "decoded": "--no-decode" not in options,
        "splits": {
            "val": {
                "found": {"queries": 4181, "gallery": 2297},
                "expected": {"queries": 4181, "gallery": 2297},
            }
        },
        "problems": [],
    }


def test_everything_that_is_wrong_with_an_official_set_is_listed(
    whole_cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cirr"
    shutil.copytree(whole_cirr, root)
    images = sorted((root / "img_raw" / "dev").glob("*.png"))
    for path in images[5:9]:
        path.unlink()
    images[20].write_bytes(images[20].read_bytes()[:50])
    images[21].write_bytes(b"")
    images[22].write_text("<html>404</html>")
    shutil.copyfile(images[31], images[30])
    os.unlink(images[32])
    os.link(images[31], images[32])
    with edited(root / CAPTIONS) as records:
        del records[7]["caption"], records[4000]["img_set"]["members"]
        records[90]["target_hard"] = "dev-0-0-img9"
        records[91]["pairid"] = records[17]["pairid"]
        duplicated = records[91]["pairid"]
        del records[-1]
    report = report_of(capsys, "cirr", f"--root={root}", "--split=val")
    assert of_kind(report, "missing") == [
        f"image {path.stem}: no file {path}" for path in by_listing(root, images[5:9])
    ]
    assert sorted(message.split(":")[0] for message in of_kind(report, "damaged")) == sorted(
        f"image {path.stem}" for path in images[20:23]
    )
    assert any(f"{images[21]} is empty" in message for message in of_kind(report, "damaged"))
    (same,) = of_kind(report, "duplicate")
    assert {Path(path) for path in same.removeprefix("the same bytes: ").split(" = ")} == set(images[30:33])
    file = root / CAPTIONS
    told = sorted(of_kind(report, "record"))
    assert len(told) == 4
    assert [message.split(" ")[1] for message in told] == ["4000", "7", "90", "91"]
    assert all(f"of {file}: field " in message for message in told)
    assert f"field pairid is {duplicated}, as in record 17" in told[3]
    assert of_kind(report, "count") == ["expected 4,181 queries, found 4,176"]
    assert len(report["problems"]) == 4 + 3 + 1 + 4 + 1


def by_listing(root: Path, paths: list[Path]) -> list[Path]:
    listed = list(json.loads((root / "image_splits" / "split.rc2.val.json").read_text()))
    return sorted(paths, key=lambda path: listed.index(path.stem))


def test_without_decoding_only_damage_inside_of_files_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_cirr(tmp_path)
    images = sorted((root / "img_raw" / "dev").glob("*.png")) or sorted((root / "img_raw" / "val").glob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:60])
    images[1].write_bytes(b"")
    images[2].unlink()
    shutil.copyfile(images[4], images[3])
    fast = report_of(capsys, "cirr", f"--root={root}", "--split", "val", "--no-decode")
    slow = report_of(capsys, "cirr", f"--root={root}", "--split", "val")
    assert len(of_kind(fast, "damaged")) == 1 and len(of_kind(slow, "damaged")) == 2
    for kind in ("missing", "duplicate", "count"):
        assert of_kind(fast, kind) == of_kind(slow, kind) != []


@given(contents=st.lists(st.integers(0, 3), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_duplicates_are_exactly_the_files_of_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int]
) -> None:
    """Contents that differ in length, in the first bytes, or far behind these."""
    long = bytes(image_check.HEAD + 10)
    kinds = [b"abc", b"abd", long + b"x", long + b"y"]
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for number, kind in enumerate(contents):
        paths.append(folder / str(number))
        paths[-1].write_bytes(kinds[kind])
    sizes = {path: path.stat().st_size for path in paths}
    found = find_duplicates(paths, sizes, 1, unwatched)
    expected = [
        [path for path, other in zip(paths, contents, strict=True) if other == kind] for kind in sorted(set(contents))
    ]
    assert sorted(found) == sorted(group for group in expected if len(group) > 1)


def test_worker_processes_find_what_one_process_finds(whole_cirr: Path, tmp_path: Path) -> None:
    root = tmp_path / "cirr"
    shutil.copytree(whole_cirr, root)
    for number, path in enumerate(sorted((root / "img_raw" / "dev").glob("*.png"))):
        if number % 100 == 3:
            path.write_bytes(path.read_bytes()[:40] + bytes([number // 100]))
    one, two = (inspect("cirr", root, ["val"], workers=workers) for workers in (1, 2))
    assert one.problems == two.problems and len(one.of_kind("damaged")) == 23


def test_a_killed_worker_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_cirr(tmp_path, sets=11)
    monkeypatch.setattr(image_check, "_load", _die)
    with pytest.raises(ValueError, match=r"a worker process was killed.*use 1 \(workers\)"):
        inspect("cirr", root, ["val"], workers=2)


def _die(task: object) -> None:
    os._exit(9)
