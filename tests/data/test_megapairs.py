"""MegaPairs becomes a manifest with hard negatives, a row at a time."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules import Manifest
from data_modules.streamed import MegaPairsConverter
from experiments.convert import main
from tests.helpers.make_data import preprocess, write_image

ROWS = [
    {
        "q_img": "a/1.jpg", "q_text": ["in red", " make it red "], "t_img": "a/2.jpg",
        "hns": ["a/1.jpg", "b/3.jpg", "b/4.jpg"],
    },
    {"q_img": "a/2.jpg", "q_text": ["seen from above"], "t_img": "b/3.jpg", "hns": ["a/2.jpg", "b/3.jpg"]},
    {"q_img": "b/3.jpg", "q_text": "as a drawing", "t_img": "b/4.jpg", "hns": None},
]  # fmt: skip
TRIPLETS = [
    {"reference": "a/1.jpg", "target": "a/2.jpg", "caption": "in red", "negatives": ["b/3.jpg", "b/4.jpg"]},
    {"reference": "a/2.jpg", "target": "b/3.jpg", "caption": "seen from above"},
    {"reference": "b/3.jpg", "target": "b/4.jpg", "caption": "as a drawing"},
]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        lists = [row | {"q_text": [row["q_text"]] if isinstance(row["q_text"], str) else row["q_text"]} for row in rows]
        parquet.write_table(arrow.Table.from_pylist(lists), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def converted(root: Path, out: Path, *flags: str) -> list[Any]:
    main(["megapairs", f"--root={root}", f"--out={out}", *flags])
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("name", ["set.jsonl", "set.parquet"])
def test_rows_become_triplets_with_hard_negatives(tmp_path: Path, name: str) -> None:
    root = write(tmp_path / name, ROWS)
    assert converted(root, tmp_path / "train.jsonl") == TRIPLETS
    for image in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        write_image(tmp_path / image, image)
    data = Manifest(tmp_path, val_splits=[], batch_size=3, num_workers=0, preprocess=preprocess)
    (batch,) = data.train_dataloader()
    assert len(batch.negatives.image_id) == 2


def test_the_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "in" / "b.jsonl", ROWS[1:])
    write(tmp_path / "in" / "a.jsonl", ROWS[:1])
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    assert converted(tmp_path / "in", tmp_path / "train.jsonl") == TRIPLETS
    assert len(converted(tmp_path / "in", tmp_path / "two.jsonl", "--most=2")) == 2
    every = converted(tmp_path / "in", tmp_path / "all.jsonl", "--texts=separate", "--negatives=1")
    assert [triplet["caption"] for triplet in every[:2]] == ["in red", "make it red"]
    assert every[0]["negatives"] == ["b/3.jpg"] and len(every) == 4


def test_only_the_row_at_hand_is_read(tmp_path: Path) -> None:
    converter = MegaPairsConverter(write(tmp_path / "set.jsonl", [ROWS[0], {"q_img": 3}]))
    triplets = converter.triplets()
    assert next(triplets) == TRIPLETS[0], "the broken row behind it has not been looked at"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_img": "../x.jpg"}, "field q_img must be a path below the folder of images"),
        ({"t_img": "a/1.jpg"}, "field t_img is the query image itself"),
        ({"q_text": [" "]}, "field q_text holds no text"),
        ({"hns": ["a/1.jpg", 7]}, "field hns.1 must be a string, got 7"),
    ],
)
def test_a_broken_row_is_named_or_left_out(
    tmp_path: Path, change: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write(tmp_path / "set.jsonl", [ROWS[0] | change, *ROWS[1:]]), tmp_path / "train.jsonl"
    with pytest.raises(SystemExit) as end:
        converted(root, out)
    said = f"{end.value.code}{capsys.readouterr().err}"
    assert message in said and "record 0 of" in said and "--skip-broken" in said and not out.exists()
    assert converted(root, out, "--skip-broken") == TRIPLETS[1:]
    assert "records left out: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=train.json"], "the name of this file must end in .jsonl (--out)"),
        (["--root=nowhere"], "no file nowhere"),
        (["--most=0"], "expected a whole number from 1 on, got 0 (--most)"),
        (["--negatives=-1"], "expected a whole number from 0"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "set.jsonl", ROWS)
    with pytest.raises(SystemExit) as end:
        main(["megapairs", f"--root={root}", "--out=train.jsonl", *flags])
    assert message in f"{end.value.code}{capsys.readouterr().err}"
