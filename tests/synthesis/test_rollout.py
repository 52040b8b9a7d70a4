"""A stage as a rollout: the records of the stage itself, and what one began the other ends."""

import asyncio
import json
import pickle
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contextcir.errors import InputError
from contextcir.synthesis.describe import DescribeReference
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.pairs import PairFile, PairStage
from contextcir.synthesis.request_stage import run_requests
from contextcir.synthesis.rollout import StageRollout
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import read_stage
from tests.helpers.mining_cases import draw_photos
from tests.helpers.synthesis_model import ScriptedModel, write_pairs

NAMES = [f"kind{kind}/{number}.png" for kind in range(3) for number in range(4)]
GOOD = json.dumps({"objects": [{"object": "ball", "descriptors": ["red"]}]})


@dataclass
class Document:
    text: str
    id: str
    metadata: dict = field(default_factory=dict)


@dataclass
class Result:
    text: str
    finish_reason: str = "stop"
    usage: dict = field(default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 2})
    reasoning: str = ""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package, data = ModuleType("datatrove"), ModuleType("datatrove.data")
    data.Document = Document  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datatrove", package)
    monkeypatch.setitem(sys.modules, "datatrove.data", data)
    draw_photos(tmp_path / "photos", kinds=3, each=4)
    pairs = [(name, "t.png") for name in [*NAMES, "none.png"]]
    PairStage(PairFile(write_pairs(tmp_path / "pairs.json", pairs))).run(Run(tmp_path / "out"))
    return tmp_path / "out"


def rollout(out: Path) -> StageRollout:
    made = StageRollout(out, DescribeReference(out.parent / "photos"), ChatModel("m"))
    return pickle.loads(pickle.dumps(made))  # as an executor sends it to its tasks


async def runner(made: StageRollout, documents: list[Any], answers: dict[str, list[Result]], asked: Counter) -> list:
    """What datatrove's runner does: all documents at once, each with a callback that sends a payload."""

    def callback(document: Document) -> Any:
        async def generate(payload: dict) -> Result:
            assert "model" not in payload and payload["messages"][1]["content"][0]["type"] == "image_url"
            asked[document.id] += 1
            await asyncio.sleep(0)
            waiting = answers.get(document.id)
            return waiting.pop(0) if waiting else Result(GOOD)

        return generate

    return await asyncio.gather(*(made(document, callback(document), shared=1) for document in documents))


def test_a_rollout_writes_the_records_of_the_stage_and_the_stage_goes_on(out: Path) -> None:
    made, asked = rollout(out), Counter[str]()
    answers = {NAMES[0]: [Result("nonsense"), Result(GOOD)], NAMES[1]: [Result(GOOD[:20], "length")]}
    results = asyncio.run(runner(made, list(made.documents()), answers, asked))
    assert Counter("records" in result for result in results) == {True: 11, False: 2}
    assert asked == {name: 2 if name == NAMES[0] else 1 for name in NAMES}
    records = {record["key"]: record for record in read_stage(out, "describe-reference")}
    assert records.keys() == {*NAMES} - {NAMES[1]}
    assert records[NAMES[0]]["provenance"]["usage"]["input_tokens"] == 14 and records[NAMES[2]]["objects"]
    failures = {record["key"]: record["reason"] for record in read_stage(out, "describe-reference-failures")}
    assert failures == {NAMES[1]: "cut off", "none.png": "unreadable image"}
    del made
    model = ScriptedModel()
    assert run_requests(Run(out), DescribeReference(out.parent / "photos"), model).before == 13 and not model.requests


def test_tasks_share_the_items_and_ask_nothing_that_was_answered(out: Path) -> None:
    asked = Counter[str]()
    for rank in range(3):
        made = rollout(out)
        asyncio.run(runner(made, list(made.documents(None, rank, 3)), {}, asked))
        del made
    assert asked == dict.fromkeys(NAMES, 1) and list(rollout(out).documents()) == []


def test_an_error_of_the_runner_fails_no_item(out: Path) -> None:
    made = rollout(out)
    (first, *_) = made.documents()

    async def gone(payload: dict) -> Result:
        raise RuntimeError("no server")

    with pytest.raises(RuntimeError):
        asyncio.run(made(first, gone))
    assert not list(read_stage(out, "describe-reference")) + list(read_stage(out, "describe-reference-failures"))


def test_without_datatrove_the_error_says_what_to_install(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datatrove.data", None)
    with pytest.raises(InputError, match="pip install"):
        next(rollout(out).documents())
