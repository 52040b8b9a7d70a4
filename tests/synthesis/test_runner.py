"""Stages on disk: each item is requested once, answers survive, failures are kept apart, and errors have one line."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from contextcir.errors import InputError
from contextcir.synthesis.describe import DescribeReference
from contextcir.synthesis.models.base import Answer, BudgetSpent, Request, VisionLanguageModel
from contextcir.synthesis.pairs import PairFile, PairStage, pair_key
from contextcir.synthesis.request_stage import run_requests
from contextcir.synthesis.stages import Run, Tally
from contextcir.synthesis.store import GroupWriter, Lookup, Shard, read_stage
from tests.helpers.synthesis_model import ScriptedModel, write_pairs

COUNT = 40
STAGE = DescribeReference(Path("photos"))
NAMES = [f"r{number}.jpg" for number in range(COUNT)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = write_pairs(tmp_path / "pairs.json", [(name, "target.jpg") for name in NAMES])
    PairStage(PairFile(file)).run(Run(tmp_path / "out"))
    return tmp_path / "out"


def keys(folder: Path, stage: str = STAGE.name) -> list[str]:
    return sorted(record["key"] for record in read_stage(folder, stage))


def test_each_item_is_asked_once_and_a_second_run_asks_nothing(folder: Path) -> None:
    model = ScriptedModel()
    assert run_requests(Run(folder), STAGE, model).done == COUNT
    again = run_requests(Run(folder), STAGE, model)
    assert (again.done, again.before, again.left) == (0, COUNT, 0)
    assert sorted(request.key for request in model.requests) == sorted(NAMES) == keys(folder)


def test_a_spent_budget_keeps_all_that_was_answered(folder: Path) -> None:
    model = ScriptedModel(budget=15)
    with pytest.raises(BudgetSpent, match=r"the budget of 1.00 is spent \(describe-reference: 15 done, .* 25 left\)"):
        run_requests(Run(folder), STAGE, model)
    assert len(keys(folder)) == 15
    assert run_requests(Run(folder), STAGE, ScriptedModel()).done == COUNT - 15
    assert keys(folder) == sorted(NAMES)


def test_failures_are_asked_again_only_if_that_is_wanted(folder: Path) -> None:
    tally = run_requests(Run(folder), STAGE, ScriptedModel(failing=("r1",)))
    assert tally.failed == {"refused": 11} and "11 failed (11 refused; the first refused: I would rather not)" in str(
        tally
    )
    (record, *_) = read_stage(folder, f"{STAGE.name}-failures")
    assert record["detail"] == "I would rather not" and record["provenance"]["usage"]["cost"] == 0.5
    model = ScriptedModel()
    assert run_requests(Run(folder), STAGE, model).left == 0 and model.requests == []
    assert run_requests(Run(folder, retry=True), STAGE, model).done == 11
    assert keys(folder) == sorted(NAMES)


def test_shards_share_the_work_whatever_their_number(folder: Path) -> None:
    model = ScriptedModel()
    for index in range(3):
        run_requests(Run(folder, index, 3), STAGE, model)
    assert len(list((folder / STAGE.name).glob("*.jsonl"))) == 3
    assert run_requests(Run(folder), STAGE, model).before == COUNT
    assert sorted(request.key for request in model.requests) == sorted(NAMES) == keys(folder)


def test_two_runs_do_not_write_one_shard(folder: Path) -> None:
    message = "another process writes shard 0 of 1 of the stage describe-reference"
    with Run(folder).claimed(STAGE.name), pytest.raises(InputError, match=message):
        run_requests(Run(folder), STAGE, ScriptedModel())


class Broken(VisionLanguageModel):
    """Answers what it was not asked, or nothing."""

    name = "broken"

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers

    async def answer(self, requests: Iterable[Request]) -> AsyncIterator[Answer]:
        next(iter(requests))
        for answer in self.answers:
            yield answer


@pytest.mark.parametrize(("answers", "words"), [([Answer("x", {})], "'x', which was not asked"), ([], "1 requests un")])
def test_a_model_that_does_not_keep_to_its_part_is_told(answers: list[Answer], words: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=words):
        run_requests(Run(folder), STAGE, Broken(answers))


def test_pairs_are_written_once_and_of_one_kind(folder: Path, tmp_path: Path) -> None:
    found = list(read_stage(folder, "pairs"))
    assert [record["reference"] for record in found] == NAMES
    assert found[0]["key"] == pair_key("r0.jpg", "target.jpg") and found[0]["source"] == "pairs.json"
    other = PairFile(write_pairs(tmp_path / "more.json", [("x.jpg", "y.jpg")]))
    assert PairStage(other).run(Run(folder)).before == COUNT and len(list(read_stage(folder, "pairs"))) == COUNT
    with pytest.raises(ValueError, match="made with other settings"):
        PairStage(other, settings={"file": "more.json"}).run(Run(folder))
    with pytest.raises(ValueError, match="run the stage pairs first"):
        PairStage(other).run(Run(tmp_path / "new", 0, 2))


def test_pairs_that_were_cut_off_go_on(folder: Path, tmp_path: Path) -> None:
    path = folder / "pairs" / "00000-of-00001.jsonl"
    whole = path.read_bytes()
    (folder / "pairs" / "complete.json").unlink()
    path.write_bytes(whole[: len(whole) // 2])
    tally = PairStage(PairFile(tmp_path / "pairs.json")).run(Run(folder))
    assert 0 < tally.before < COUNT and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"reference": "../../etc/passwd", "target": "b"}]', "leads out of the image folder"),
        ('[{"reference": "/etc/passwd", "target": "b"}]', "leads out of the image folder"),
        ('[{"reference": "a", "target": "b\\u0000"}]', "expected the path of an image"),
        ('[{"reference": "a", "target": "\\ud800"}]', "half a surrogate pair"),
        ('[{"reference": "./a", "target": "a"}]', "the same image"),
        ('[{"reference": "a"}]', "the fields reference and target"),
        ('{"reference": "a"}', "expected a JSON list"),
        ("[", "not valid JSON"),
        ("[]", "has no pairs"),
    ],
)
def test_a_bad_file_of_pairs_is_told(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        PairStage(PairFile(tmp_path / "pairs.json")).run(Run(tmp_path / "out"))


def test_a_manifest_is_a_file_of_pairs(tmp_path: Path) -> None:
    lines = [{"reference": "a", "target": "b", "caption": text, "image_set": 3} for text in ("x", "y")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (pair,) = PairFile(tmp_path / "m.jsonl").pairs()
    assert (pair.reference, pair.target, pair.image_set) == ("a", "b", ())


def test_records_of_one_answer_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "s" / "00000-of-00001.jsonl"
    group = [{"key": f"b#{number}", "text": "x" * 50} for number in range(3)]
    with Shard(path) as shard:
        shard.append([{"key": "a"}, group])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(Shard(path).read()) == [{"key": "a"}]
    path.write_bytes(whole)
    assert list(Shard(path).read()) == [{"key": "a"}, *group]
    assert [Lookup(tmp_path, "s")[record["key"]] for record in group] == group
    with pytest.raises(ValueError, match="does not have its checksum"):
        path.write_bytes(whole.replace(b"x", b"y", 1))
        list(Shard(path).read())


@pytest.mark.parametrize("tail", [b"", b"abc", b"x" * 3_000_000])
def test_a_cut_off_line_is_taken_away_before_the_next(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "00000-of-00001.jsonl"
    with Shard(path) as shard:
        shard.append([{"key": "a"}])
    with path.open("ab") as file:
        file.write(tail)
    with Shard(path) as shard:
        shard.append([{"key": "b"}])
    assert list(Shard(path).read()) == [{"key": "a"}, {"key": "b"}]


def test_what_comes_together_is_written_together() -> None:
    groups: list[list[int]] = []

    async def put() -> None:
        async with GroupWriter(groups.append, 8) as writer:
            for number in range(100):
                await writer.put(number)

    asyncio.run(put())
    assert [number for group in groups for number in group] == list(range(100))
    assert max(map(len, groups)) <= 9


def test_a_disk_that_is_full_ends_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shard, "append", full)
    model = ScriptedModel()
    with pytest.raises(OSError, match="No space left"):
        run_requests(Run(folder), STAGE, model)
    assert len(model.requests) < COUNT


def test_a_tally_says_what_is_left() -> None:
    assert str(Tally("x", total=5, before=2, done=1)) == "x: 1 done, 2 were done before, 0 failed, 2 left"
