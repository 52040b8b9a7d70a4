"""Official files that can't be converted: broken records are an error or counted, whole files an error."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_modules.converters import HotelConverter
from experiments.convert import main
from tests.helpers.make_convertible import HOTEL, REWRITTEN, make_hotel, make_lasco_files, make_rewritten, read_lines
from tests.helpers.make_data import edited, make_cirr


def having(**fields: object) -> Callable[[dict], None]:
    return lambda record: record.update(fields)


def lacking(field: str) -> Callable[[dict], None]:
    return lambda record: record.pop(field)


BROKEN: list[tuple[str, Callable[[dict], Any], str, str]] = [
    ("hotel", lacking("difference"), "field difference is missing", "field difference is missing"),
    ("hotel", having(difference=3), "field difference must be a string, got 3", "field difference must be a string"),
    ("hotel", having(difference=" "), "field difference holds no text", "field difference holds no text"),
    (
        "hotel",
        having(query_image="b/1.jpg"),
        "field query_image must be a path of at least three parts, got 'b/1.jpg'",
        "field query_image must be a path of at least three parts",
    ),
    (
        "hotel",
        having(distractors=["a/b/c.jpg", 5]),
        "field distractors.1 must be a string, got 5",
        "field distractors must be a string",
    ),
    (
        "hotel",
        having(result_image="x/1/expedia/1.jpg"),
        "field result_image is the reference itself: 'images/train/1/expedia/1.jpg'",
        "field result_image is the reference itself",
    ),
    (
        "cirr_rewritten",
        having(query_image_url="http://h/train-7-0-img0.png"),
        "field query_image_url names an image that is not in {root}/image_splits/split.rc2.train.json: 'train-7-",
        "field query_image_url names an image that is not in {root}/image_splits/split.rc2.train.json",
    ),
    (
        "cirr_rewritten",
        having(difference_captions=["", " "]),
        "field difference_captions holds no text",
        "field difference_captions holds no text",
    ),
    (
        "cirr_rewritten",
        having(difference_captions=["a", None]),
        "field difference_captions.1 must be a string, got None",
        "field difference_captions must be a string",
    ),
    ("lasco", lacking("qid"), "field qid is missing", "field qid is missing"),
    (
        "lasco",
        having(**{"query-image": "val2014/x.jpg"}),
        "field query-image must be a list, got 'val2014/x.jpg'",
        "field query-image must be a list",
    ),
]
FILES = {"hotel": HOTEL, "cirr_rewritten": REWRITTEN, "lasco": Path("lasco_train.json")}


@pytest.mark.parametrize(("dataset", "change", "problem", "reason"), BROKEN)
def test_broken_records_are_an_error_or_counted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dataset: str,
    change: Callable[[dict], None],
    problem: str,
    reason: str,
) -> None:
    makers = {
        "hotel": make_hotel,
        "cirr_rewritten": lambda root: make_rewritten(make_cirr(root)),
        "lasco": lambda root: make_lasco_files(root, "train"),
    }
    root = makers[dataset](tmp_path)
    with edited(root / FILES[dataset]) as records:
        change(records[1])
        whole = len(records)
    args = [dataset, f"--root={root}", "--split=train", f"--out={tmp_path / 'out.jsonl'}"]
    with pytest.raises(SystemExit) as failure:
        main(args)
    message = capsys.readouterr().err
    assert failure.value.code == 1 and message.endswith("or leave such records out (--skip-broken)\n")
    told = f"error: record 1 of {root / FILES[dataset]}: {problem.format(root=root)}"
    assert message.startswith(told[:23]) and message.count("\n") == 1
    words = re.findall(r"[^/]{3,}", told.replace(str(root), ""))  # long messages leave folders out
    assert all(word in message for word in words), message
    assert not (tmp_path / "out.jsonl").exists()
    main([*args, "--skip-broken"])
    told = capsys.readouterr().out
    assert len(read_lines(tmp_path / "out.jsonl")) == whole - 1
    assert f"records left out: 1\n  1: {reason.format(root=root)}\n" in told


def test_reasons_are_counted_together(tmp_path: Path) -> None:
    root = make_hotel(tmp_path)
    with edited(root / HOTEL) as records:
        records[0]["difference"], records[2]["difference"] = 1, ["a", 2]
    conversion = HotelConverter(root, "train").run(skip_broken=True)
    assert conversion.broken == Counter({"field difference must be a string": 2}) and len(conversion.records) == 1


def test_what_can_not_be_converted_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*args: str) -> str:
        with pytest.raises(SystemExit) as failure:
            main([*args, f"--root={tmp_path}", "--split=train"])
        assert failure.value.code == 1
        return capsys.readouterr().err

    out = f"--out={tmp_path / 'out.jsonl'}"
    assert (
        error("hotel", out)
        == f"error: no file {tmp_path / HOTEL}: expected the folder of the official files, and one of their splits "
        "(--root)\n"
    )
    assert error("cirr_rewritten", out).startswith("error: no file split.*.train.json in ")
    assert error("lasco", out).startswith("error: no file lasco_train.json in ")
    make_hotel(tmp_path)
    assert "must end in .json or .jsonl" in error("hotel", f"--out={tmp_path / 'out.csv'}")
    assert "must end in .json (--gallery)" in error("hotel", out, f"--gallery={tmp_path / 'g.txt'}")
    with edited(tmp_path / HOTEL) as records:
        for record in records:
            del record["difference"]
    assert "none of its 3 records can be converted" in error("hotel", out, "--skip-broken")
