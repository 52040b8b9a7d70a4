"""The check of a benchmark lists everything that is wrong with its files, records and numbers, and nothing else."""

import importlib
import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_modules
from data_modules.checking.inspection import inspect
from data_modules.readers import READERS
from data_modules.reading.reader import BenchmarkReader
from data_modules.scenes.writer import Size, write_scenes
from experiments.check_data import main
from tests.helpers.make_data import edited, make_circo, make_cirr, write_image, write_json
from tests.helpers.paths import PROJECT

CAPTIONS = "captions/cap.rc2.val.json"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """Run the command; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    return end.value.code, capsys.readouterr().out


def report_of(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    code, text = run(capsys, *args, "--json")
    report = json.loads(text)
    assert report["ok"] == (code == 0)
    return report


def of_kind(report: dict[str, Any], *kinds: str) -> list[str]:
    return [problem["message"] for problem in report["problems"] if problem["kind"] in kinds]


def test_several_splits_share_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_circo(tmp_path)
    (root / "COCO2017_unlabeled" / "unlabeled2017" / "000000000103.jpg").unlink()
    report = report_of(capsys, "circo", f"--root={root}")
    assert len(of_kind(report, "missing")) == 1 and report["images"] == 8
    assert of_kind(report, "count") == [
        "expected 220 queries, found 3",
        "expected 123,403 gallery, found 9",
        "expected 800 queries, found 3",
        "expected 123,403 gallery, found 9",
    ]


def test_a_wrong_layout_lists_what_was_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_cirr(tmp_path / "cirr", splits=("val",))
    (root / "img_raw").rename(root / "pictures")
    report = report_of(capsys, "cirr", f"--root={root}", "--split", "train", "val")
    layout = of_kind(report, "layout")
    assert len(layout) == 2
    assert layout[0].startswith("no file split.*.train.json in ") and str(root / "cirr" / "image_splits") in layout[0]
    assert layout[1].startswith("no images: looked for ") and str(root / "img_raw") in layout[1]
    assert report["splits"]["val"]["found"] == {"queries": 6, "gallery": 12}
    report = report_of(capsys, "cirr", f"--root={tmp_path / 'nowhere'}")
    missing = f"no folder {tmp_path / 'nowhere'}: expected the folder of the benchmark (--root)"
    assert of_kind(report, "layout") == [missing]


def test_unusable_files_are_told_beside_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_cirr(tmp_path)
    (root / CAPTIONS).write_text("[{")
    report = report_of(capsys, "cirr", f"--root={root}")
    (message,) = of_kind(report, "file")
    assert message.startswith(f"{root / CAPTIONS}: not valid JSON") and set(report["splits"]) == {"train", "test1"}


def test_a_set_whose_records_are_all_broken_comes_to_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_cirr(tmp_path)
    with edited(root / CAPTIONS) as records:
        for record in records:
            del record["caption"]
    report = report_of(capsys, "cirr", f"--root={root}", "--split=val")
    assert len(of_kind(report, "record")) == 6 and of_kind(report, "file") == [f"{root / CAPTIONS}: holds no records"]


@given(broken=st.sets(st.integers(0, 23)), repeated=st.sets(st.integers(0, 23)))
@settings(max_examples=40, deadline=None)
def test_exactly_the_broken_records_are_found(
    tmp_path_factory: pytest.TempPathFactory, broken: set[int], repeated: set[int]
) -> None:
    """``repeated`` records have the id of the first one."""
    root = tmp_path_factory.mktemp("broken")
    records = [{"id": 0 if n in repeated else n, "reference": f"{n}", "target": "x", "caption": "a"} for n in range(24)]
    for number in broken:
        del records[number]["caption"]
    write_json(root / "train.json", records)
    same_id = sorted(number for number in range(24) if records[number]["id"] == 0)
    report = inspect("manifest", root, ["train"])
    found = [int(problem.message.split(" ")[1]) for problem in report.of_kind("record")]
    assert len(found) == len(set(found))
    if len(broken | set(same_id[1:])) < 24:
        good = set(range(24)) - set(found)
        assert broken <= set(found) <= broken | set(same_id)
        assert len({records[number]["id"] for number in good}) == len(good) == report.counts["train"]["triplets"]


def test_all_problems_of_all_records_are_listed_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_cirr(tmp_path)
    with edited(root / CAPTIONS) as records:
        records[1] |= {"caption": 3, "reference": "nowhere", "img_set": {"id": "a"}}
        records[2]["phrases"] = [{"start": 0, "end": 400}]
        del records[4]["target_hard"]
        records[5] = ["a list"]
    report = report_of(capsys, "cirr", f"--root={root}", "--split=val")
    file, listed_in = root / CAPTIONS, root / "image_splits" / "split.rc2.val.json"
    assert sorted(of_kind(report, "record")) == [
        f"record 1 (pairid 1001) of {file}: field caption must be a string, got 3",
        f"record 1 (pairid 1001) of {file}: field img_set.id must be an integer, got 'a'",
        f"record 1 (pairid 1001) of {file}: field img_set.members is missing",
        f"record 1 (pairid 1001) of {file}: field reference names image 'nowhere', which is not in {listed_in}",
        f"record 2 (pairid 1002) of {file}: field phrases.0 has span [0, 400) outside the caption "
        "'show 4 bottles instead'",
        f"record 4 (pairid 1011) of {file}: field target_hard is missing, but other records have it",
        f"record 5 of {file}: must be an object, got ['a list']",
    ]
    assert report["splits"]["val"]["found"]["queries"] == 2


@pytest.mark.parametrize("command", ["check_data", "convert", "phrases"])
def test_commands_about_annotations_start_without_torch(command: str, tmp_path: Path) -> None:
    root = make_cirr(tmp_path)
    code = (
        f"import sys, experiments.{command}\n"
        f"from data_modules.readers import READERS\n"
        f"assert len(READERS['cirr']({str(root)!r}).read_evaluation('val').records) == 6\n"
        "print({'torch', 'lightning', 'open_clip', 'transformers'} & set(sys.modules))"
    ).replace("experiments.phrases", "experiments.phrases.__main__")
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_file_that_is_missing_beside_broken_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "captions").mkdir()
    write_json(tmp_path / "image_splits" / "split.dress.val.json", ["a", "b"])
    write_json(tmp_path / "captions" / "cap.dress.val.json", [{"candidate": "a"}, {"target": "b"}])
    report = report_of(capsys, "fashioniq", f"--root={tmp_path}", "--split", "val_dress", "val_shirt")
    file = tmp_path / "captions" / "cap.dress.val.json"
    assert of_kind(report, "record") == [
        f"record 0 of {file}: field captions is missing",
        f"record 1 of {file}: field captions is missing",
        f"record 1 of {file}: field candidate is missing",
    ]
    assert of_kind(report, "file") == [f"{file}: holds no records"] and len(of_kind(report, "layout")) == 1


MANIFEST = [
    {"reference": "a.png", "target": "b.png", "caption": "x"},
    {"reference": "b.png", "target": "c.png", "caption": "y"},
    {"reference": "c.png", "target": "a.png", "caption": "z"},
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_json(tmp_path / "train.json", MANIFEST)
    write_json(tmp_path / "val.json", MANIFEST[:1])
    for name in "abc":
        write_image(tmp_path / f"{name}.png", name)
    return tmp_path


def test_a_manifest_is_checked_in_all_its_splits(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, "manifest", f"--root={manifest}")
    assert report["splits"] == {
        "train": {"found": {"triplets": 3, "images": 3}, "expected": {}},
        "val": {"found": {"queries": 1, "gallery": 2}, "expected": {}},
    }
    assert report["ok"] and report["images"] == 3
    (manifest / "lists").mkdir()
    (manifest / "train.json").rename(manifest / "lists" / "all.json")
    assert report_of(capsys, "manifest", f"--root={manifest}", "--file=lists/all.json")["splits"].keys() == {"train"}
    with edited(manifest / "lists" / "all.json") as records:
        records[0]["caption"], records[2]["split"] = None, "val"
    report = report_of(capsys, "manifest", f"--root={manifest}", "--file=lists/all.json")
    assert [message.split(":")[1].split(" is ")[0] for message in of_kind(report, "record")] == [
        " field split", " field split"
    ]  # fmt: skip


def test_a_table_shows_the_first_problems(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "manifest", f"--root={manifest}")
    assert code == 0 and "triplets" in text and "missing images" in text
    for name in "abc":
        (manifest / f"{name}.png").unlink()
    (manifest / "a.png").write_text("no image")
    code, text = run(capsys, "manifest", f"--root={manifest}", "--show=1")
    assert code == 1 and "missing images: 2" in text and "... and 1 more" in text
    assert f"image b.png: no file {manifest / 'b.png'}" in text and str(manifest / "c.png") not in text
    assert f"{manifest / 'a.png'} is damaged" in text
    assert str(manifest / "c.png") in run(capsys, "manifest", f"--root={manifest}", "--show=0")[1]


def test_duplicates_may_be_allowed(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(manifest / "a.png", manifest / "b.png")
    assert run(capsys, "manifest", f"--root={manifest}")[0] == 1
    report = report_of(capsys, "manifest", f"--root={manifest}", "--allow-duplicates")
    assert report["ok"] and len(of_kind(report, "duplicate")) == 1


def test_scenes_are_checked_against_the_size_that_was_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "scenes"
    write_scenes(root, 0, Size(train_references=2, references=2, shared_references=2), workers=1)
    capsys.readouterr()
    report = report_of(capsys, "scenes", f"--root={root}")
    assert report["ok"], report["problems"]
    assert report["splits"]["test_unseen"]["expected"] == {"queries": 8, "gallery": 42}
    assert report["splits"]["circo_val"]["expected"] == {"queries": 2}
    with edited(root / "captions" / "cap.scenes.val.json") as records:
        del records[-1]
    report = report_of(capsys, "scenes", f"--root={root}", "--no-decode")
    assert of_kind(report, "count") == ["expected 8 queries, found 7"]


@pytest.mark.parametrize("benchmark", ["fashioniq", "cirr"])
def test_the_official_annotations_have_the_official_numbers(shared: Path, benchmark: str) -> None:
    """Without images: those of every split are reported as not found, and nothing else is."""
    expected = READERS[benchmark].expected
    splits = [split for split in expected if (benchmark, split) != ("cirr", "train")]
    report = inspect(benchmark, shared / "data" / benchmark, splits)
    assert report.counts == {split: expected[split] for split in splits}
    assert [(problem.kind, problem.split) for problem in report.problems] == [("layout", split) for split in splits]


def test_the_official_genecis_tasks_have_the_official_numbers(shared: Path) -> None:
    report = inspect("genecis", shared / "data" / "genecis", ["focus_object", "change_object"])
    assert {split: found["queries"] for split, found in report.counts.items()} == {
        "focus_object": 1960,
        "change_object": 1960,
    }
    assert {problem.kind for problem in report.problems} == {"layout"}


def test_every_reader_of_the_project_is_known_by_name() -> None:
    names = [module.name for module in pkgutil.walk_packages(data_modules.__path__, "data_modules.")]
    modules = [importlib.import_module(name) for name in names]
    readers = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BenchmarkReader) and value is not BenchmarkReader
    }
    assert len(readers) == 11 and readers == set(READERS.values())


def test_every_benchmark_has_its_numbers() -> None:
    assert all(name == reader.benchmark for name, reader in READERS.items()) and len(READERS) == 11
    assert {name for name, reader in READERS.items() if not reader.expected} == {"manifest"}
    assert {name: reader.total for name, reader in READERS.items() if reader.total} == {
        "lasco": 389_305,
        "genecis": 8_032,
    }
    assert sum(numbers["queries"] for numbers in READERS["fashioniq"].expected.values()) == 18_000 + 6_016 + 6_118
    assert sum(next(iter(numbers.values())) for numbers in READERS["cirr"].expected.values()) == 36_554


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["cirr", "--file=x.json"], "only a manifest has a file of its own, not cirr (--file)"),
        (["cirr", "--split"], ""),
        (["nlvr"], ""),
    ],
)
def test_mistakes_on_the_command_line(
    args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*args[:1], f"--root={tmp_path}", *args[1:]])
    assert end.value.code not in (0, None) and words in str(end.value.code) + capsys.readouterr().err
