"""The command line on the official example files, and on random rankings of the official queries."""

import io
import json
import random
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from contextcir.evaluation.submission import FORMATS, make
from contextcir.evaluation.submission_check import check, lists_of, parse
from data_modules import CIRR
from experiments.submission import circo_without_images, main
from tests.helpers import submission_oracle
from tests.helpers.make_data import make_circo, make_cirr, write_json

RECALL, SUBSET = FORMATS["cirr"]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def command(name: str, benchmark: str, files: Sequence[Path], annotations: Path, split: str) -> None:
    main([name, benchmark, *map(str, files), f"--annotations={annotations}", f"--split={split}"])


def scores(*arguments: Any, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    command("score", *arguments)
    return json.loads(capsys.readouterr().out)


def random_cirr(records: Sequence[dict[str, Any]], names: Sequence[str], order: random.Random) -> list[dict[str, Any]]:
    """Both files of a model that ranks at random, but finds some targets early."""
    recall, subset = dict(RECALL.header), dict(SUBSET.header)
    for record in records:
        ranked = [name for name in order.sample(names, 60) if name != record["reference"]]
        if order.random() < 0.5:
            place = order.randrange(60)
            ranked = [name for name in ranked if name != record["target_hard"]]
            ranked.insert(place, record["target_hard"])
        recall[str(record["pairid"])] = ranked[:50]
        members = [name for name in record["img_set"]["members"] if name != record["reference"]]
        subset[str(record["pairid"])] = order.sample(members, 3)
    return [recall, subset]


@pytest.fixture(scope="module")
def cirr(shared: Path) -> Path:
    return shared / "data" / "cirr"


@pytest.fixture(scope="module")
def circo(shared: Path) -> Path:
    return shared / "data" / "circo"


def test_the_demo_files_of_cirr_pass(cirr: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((cirr / "demo_files").glob("*.json"))
    command("validate", "cirr", files, cirr, "test1")
    recall, subset = capsys.readouterr().out.splitlines()
    assert recall == f"valid {files[0]}: cirr test1 recall, 4,148 queries x 50 images, 4,192,413 bytes"
    assert subset == f"valid {files[1]}: cirr test1 recall_subset, 4,148 queries x 3 images, 294,618 bytes"


def test_the_demo_files_of_cirr_are_written_again_in_under_five_megabytes(cirr: Path) -> None:
    protocol = CIRR(cirr).protocols("predict")[0]
    for form, size in ((RECALL, 3_980_862), (SUBSET, 278_023)):
        content = (cirr / "demo_files" / f"test1_pred_ranks_{form.name}.json").read_bytes()
        text = make(form, protocol, lists_of(form, protocol, parse(content)))
        assert json.loads(text) == json.loads(content)
        assert len(text) == size


@pytest.mark.parametrize(("split", "queries"), [("val", 220), ("test", 800)])
def test_the_examples_of_circo_pass(split: str, queries: int, circo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = circo / "submission_examples" / f"submission_{split}.json"
    command("validate", "circo", [file], circo, split)
    printed = capsys.readouterr().out
    assert printed.startswith(f"valid {file}: circo {split}, {queries} queries x 50 images, {file.stat().st_size:,} by")
    assert "gallery membership not checked: no image_info_unlabeled2017.json" in printed


def test_the_example_of_circo_scores_as_published(circo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = circo / "submission_examples" / "submission_val.json"
    result = scores("circo", [file], circo, "val", capsys=capsys)
    figures = result.pop("metrics")
    assert result == {"benchmark": "circo", "split": "val", "queries": 220, "gallery": None, "files": [str(file)]}
    assert figures == {
        "map_at_5": 0.4861, "map_at_10": 0.5178, "map_at_25": 0.5400, "map_at_50": 0.6020,
        "recall_at_5": 0.9091, "recall_at_10": 0.9091, "recall_at_25": 1.3636, "recall_at_50": 3.6364,
        "map_at_10_aspect_comparative_statement": 1.05, "map_at_10_aspect_direct_addressing": 0.9197,
        "map_at_10_aspect_statement_with_conjunction": 0.6183, "map_at_10_aspect_viewpoint": 0.6173,
        "map_at_10_aspect_spatial_relations_background": 0.1808, "map_at_10_aspect_addition": 0.0871,
        "map_at_10_aspect_compare_change": 0.0242, "map_at_10_aspect_cardinality": 0.0,
        "map_at_10_aspect_negation": 0.0,
    }  # fmt: skip
    naive = submission_oracle.circo(read(circo / "annotations" / "val.json"), read(file))
    assert figures == pytest.approx(naive, abs=1e-4)


def test_random_rankings_of_circo_score_by_the_definition(
    circo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Queries with 1 to 14 answers, some of them first, some not listed."""
    order = random.Random(5)
    records = read(circo / "annotations" / "val.json")
    content = {}
    for record in records:
        found = order.sample(record["gt_img_ids"], order.randint(0, len(record["gt_img_ids"])))
        ranked = found + order.sample(range(600_000, 700_000), 50 - len(found))
        order.shuffle(ranked)
        content[str(record["id"])] = ranked
    write_json(tmp_path / "file.json", content)
    figures = scores("circo", [tmp_path / "file.json"], circo, "val", capsys=capsys)["metrics"]
    assert figures == pytest.approx(submission_oracle.circo(records, content), abs=1e-4)
    assert figures["map_at_50"] > 5


def test_random_rankings_of_cirr_score_by_the_definition(
    cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read(cirr / "captions" / "cap.rc2.val.json")
    names = list(read(cirr / "image_splits" / "split.rc2.val.json"))
    contents = random_cirr(records, names, random.Random(6))
    files = [tmp_path / "recall.json", tmp_path / "subset.json"]
    for file, content in zip(files, contents, strict=True):
        write_json(file, content)
    result = scores("cirr", files, cirr, "val", capsys=capsys)
    assert (result["queries"], result["gallery"]) == (4181, 2297)
    assert result["metrics"] == pytest.approx(submission_oracle.cirr(records, *contents), abs=1e-4)


def test_a_broken_file_is_told_apart_by_the_exit_code(
    cirr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, content = (cirr / "demo_files" / f"test1_pred_ranks_recall{kind}.json" for kind in ("_subset", ""))
    content = read(content)
    content["12063"][3] = content["12063"][4]
    content["12064"][0] = "dev-244-0-img0"
    del content["27098"]
    write_json(tmp_path / "broken.json", content)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        command(
            "validate", "cirr", [good, *(tmp_path / f"{n}.json" for n in ("broken", "text", "none"))], cirr, "test1"
        )
    assert ended.value.code == 1
    assert [line.replace(str(tmp_path), ".") for line in capsys.readouterr().out.splitlines()[1:]] == [
        "INVALID ./broken.json",
        "  - query 27098 is missing",
        '  - query 12063: lists image "test1-127-0-img1" more than once',
        '  - query 12064: image "dev-244-0-img0" is not in the gallery of test1',
        "INVALID ./text.json",
        "  - is not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        "INVALID ./none.json",
        "  - can't be read (No such file or directory)",
    ]


def test_a_file_of_another_split_is_invalid(circo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = circo / "submission_examples" / "submission_val.json"
    with pytest.raises(SystemExit):
        command("validate", "circo", [file], circo, "test")
    assert "query 220 is missing (and 579 more)" in capsys.readouterr().out


def test_with_coco_s_list_circo_s_gallery_is_known(
    circo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(circo / "annotations", tmp_path / "annotations")
    file = circo / "submission_examples" / "submission_val.json"
    named = {image for row in read(file).values() for image in row}
    for record in read(circo / "annotations" / "val.json"):
        named |= {record["reference_img_id"], *record["gt_img_ids"]}
    images = [{"id": image, "file_name": f"{image:012d}.jpg"} for image in sorted(named)]
    listed = tmp_path / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    write_json(listed, {"images": images})
    command("validate", "circo", [file], tmp_path, "val")
    assert "not checked" not in capsys.readouterr().out
    result = scores("circo", [file], tmp_path, "val", capsys=capsys)
    without = scores("circo", [file], circo, "val", capsys=capsys)
    assert result["gallery"] == len(named)
    assert result["metrics"] == without["metrics"]

    content = read(file)
    first = content["0"][0] = 999_999
    write_json(tmp_path / "file.json", content)
    with pytest.raises(SystemExit):
        command("validate", "circo", [tmp_path / "file.json"], tmp_path, "val")
    assert f"query 0: image {first} is not in the gallery of val" in capsys.readouterr().out


def test_circo_s_records_give_the_same_protocol_with_and_without_images(tmp_path: Path) -> None:
    root = make_circo(tmp_path / "CIRCO").parent
    protocol = circo_without_images(root, "val", [])
    assert protocol.query_ids == (0, 1, 2)
    assert [[protocol.gallery[target] for target in row] for row in protocol.targets] == [
        ["104"], ["105", "103"], ["106", "103"]
    ]  # fmt: skip
    assert [protocol.gallery[reference] for reference in protocol.references] == ["100", "101", "102"]
    assert protocol.strata == {"aspect_addition": (0,), "aspect_cardinality": (0, 1, 2)}
    assert not circo_without_images(root, "test", []).labelled


def test_a_small_gallery_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = CIRR(make_cirr(tmp_path)).protocols("val")[0]
    lists = [[image for image in range(12) if image != reference] for reference in protocol.references]
    text = make(RECALL, protocol, lists)
    assert check(RECALL, protocol, parse(text.encode())) == []
    (tmp_path / "file.json").write_text(text)
    command("validate", "cirr", [tmp_path / "file.json"], tmp_path, "val")
    assert "6 queries x 11 images" in (printed := capsys.readouterr().out)
    assert "(fewer than 50 images: there are no more to choose from)" in printed


def complaint(*arguments: Any) -> str:
    """The one line by which the command ends."""
    with pytest.raises(SystemExit) as ended, redirect_stderr(io.StringIO()) as printed:
        command(*arguments)
    assert ended.value.code == 1 and printed.getvalue().count("\n") == 1
    return printed.getvalue().strip()


def test_what_can_not_be_scored_is_told_in_one_line(cirr: Path, circo: Path, tmp_path: Path) -> None:
    demo = sorted((cirr / "demo_files").glob("*.json"))
    example = circo / "submission_examples" / "submission_val.json"
    assert complaint("score", "cirr", demo, cirr, "test1").startswith("error: the labels of cirr test1 are hidden")
    assert "query 12060 is missing (and 4,180 more) (`validate` lists" in complaint("score", "cirr", demo, cirr, "val")
    shutil.copy(example, tmp_path / "copy.json")
    message = complaint("score", "circo", [example, tmp_path / "copy.json"], circo, "val")
    assert message == f"error: {tmp_path / 'copy.json'} is a second circo file: score the files of one model at a time"


def test_wrong_folders_and_splits_are_told_by_this_command_s_flags(cirr: Path, circo: Path, tmp_path: Path) -> None:
    for benchmark, root in (("cirr", cirr), ("circo", circo)):
        for folder, split, flag in ((tmp_path, "val", "--annotations"), (root, "vla", "--split")):
            message = complaint("validate", benchmark, [tmp_path / "none"], folder, split)
            assert f"{split}.json in {folder}" in message or f"{folder}/annotations/{split}.json" in message
            assert message.endswith(f"({flag})") and "--data" not in message and "data." not in message
