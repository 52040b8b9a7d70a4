"""Batch files: limits of a file, answers in any order, partial, doubled, broken or with errors, and restarts."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contextcir.synthesis.models.base import Answer, AnswersAwaited, Budget, BudgetSpent, Request, Stopped
from contextcir.synthesis.models.batch_files import BatchFiles
from contextcir.synthesis.models.chat import ChatModel
from tests.helpers.asking import GOOD, ask, request, requests
from tests.helpers.model_batches import answer_lines, expired, request_files, run_batches, write_lines
from tests.helpers.model_faults import Reply, broken, error, no_format, raw, refuses, says
from tests.helpers.model_server import ModelServer

pytest.importorskip("jsonschema")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(lambda body: GOOD) as server:
        yield server


def files(folder: Path, **options: Any) -> BatchFiles:
    return BatchFiles(ChatModel("m"), folder, **{"requests": 4, **options})


def until_stop(model: BatchFiles, asked: Iterable[Request]) -> tuple[dict[str, Answer], Stopped]:
    """The answers until the model stops, and how it stops."""
    answers = []

    async def collect() -> None:
        async for answer in model.answer(asked):
            answers.append(answer)

    with pytest.raises(Stopped) as caught:
        asyncio.run(collect())
    assert model.account.in_flight == 0
    return {answer.key: answer for answer in answers}, caught.value


def ask_until_done(server: ModelServer, folder: Path, asked: list[Request], **options: Any) -> dict[str, Answer]:
    """All answers, after as many rounds of files as it takes; answers are kept as a run keeps them."""
    kept: dict[str, Answer] = {}
    for _ in range(9):
        left = [one for one in asked if one.key not in kept]
        try:
            return kept | ask(files(folder, **options), left)
        except AnswersAwaited:
            answers, _ = until_stop(files(folder, **options), left)
            kept |= answers
            assert run_batches(server, folder)
    raise AssertionError("no end")


def test_the_first_run_writes_files_and_says_what_to_do(tmp_path: Path) -> None:
    answers, stop = until_stop(files(tmp_path), requests(10))
    assert not answers and isinstance(stop, AnswersAwaited)
    assert re.search(r"3 new request files \(requests-\w+\.jsonl, .*\); 10 requests wait: run them", str(stop))
    written = [json.loads(line) for path in request_files(tmp_path) for line in path.read_bytes().splitlines()]
    assert sorted(len(path.read_bytes().splitlines()) for path in request_files(tmp_path)) == [2, 4, 4]
    assert len({line["custom_id"] for line in written}) == 10
    assert all((line["method"], line["url"], line["body"]["model"]) == ("POST", "/v1/chat/completions", "m")
               for line in written)  # fmt: skip


def test_every_request_is_answered_once(server: ModelServer, tmp_path: Path) -> None:
    answers = ask_until_done(server, tmp_path, requests(10))
    assert sorted(map(int, answers)) == list(range(10))
    assert all(answer.content == GOOD and answer.usage["requests"] == 1 for answer in answers.values())
    assert len(server.asked) == 10 and server.paid_twice() == []


def test_a_file_stays_below_its_size(tmp_path: Path) -> None:
    until_stop(files(tmp_path, largest_file=2000), requests(8))
    sizes = [path.stat().st_size for path in request_files(tmp_path)]
    assert len(sizes) > 2 and max(sizes) <= 2000


def test_a_restart_without_answers_writes_nothing_twice(tmp_path: Path) -> None:
    until_stop(files(tmp_path), requests(6))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    _, stop = until_stop(files(tmp_path), requests(6))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "has no answer to some requests (remove the file" in str(stop) and "6 requests wait" in str(stop)


def test_partial_answers_in_several_files_are_taken_as_they_come(server: ModelServer, tmp_path: Path) -> None:
    until_stop(files(tmp_path), requests(4))
    (path,) = request_files(tmp_path)
    lines = answer_lines(server, path)
    write_lines(tmp_path / "b.jsonl", lines[2:3])
    write_lines(tmp_path / "a.jsonl", lines[:1])
    answers, stop = until_stop(files(tmp_path), requests(4))
    assert sorted(answers) == ["0", "2"] and "2 requests wait" in str(stop)
    write_lines(tmp_path / "c.jsonl", lines)  # all of them, two for the second time
    assert all(answer.content == GOOD for answer in ask(files(tmp_path), requests(4)).values())


def test_requests_without_an_answer_are_written_again_when_their_file_is_removed(
    server: ModelServer, tmp_path: Path
) -> None:
    until_stop(files(tmp_path), requests(4))
    (path,) = request_files(tmp_path)
    write_lines(tmp_path / "answers.jsonl", answer_lines(server, path)[1:])
    path.unlink()
    answers, _ = until_stop(files(tmp_path), requests(4))
    assert len(answers) == 3
    (again,) = request_files(tmp_path)
    (line,) = again.read_bytes().splitlines()
    assert "this is 0." in line.decode()


def test_an_error_is_written_again_and_the_answer_counts_in_the_end(server: ModelServer, tmp_path: Path) -> None:
    until_stop(files(tmp_path), requests(3))
    (path,) = request_files(tmp_path)
    good = answer_lines(server, path)
    write_lines(tmp_path / "a-errors.jsonl", [expired(line) for line in good[1:]])
    write_lines(tmp_path / "b-output.jsonl", good[:2])  # the second was run once more, and now has both
    answers, _ = until_stop(files(tmp_path), requests(3))
    assert sorted(answers) == ["0", "1"]
    assert run_batches(server, tmp_path) == 2
    assert ask(files(tmp_path), requests(3))["2"].content == GOOD


def test_requests_that_expire_again_and_again_are_failures(tmp_path: Path) -> None:
    rounds = 0
    while rounds < 9:
        try:
            answers = ask(files(tmp_path, attempts=3), requests(2))
            break
        except AnswersAwaited:
            lines = [json.loads(line) for path in request_files(tmp_path) for line in path.read_bytes().splitlines()]
            write_lines(tmp_path / "errors.jsonl", map(expired, lines))
            rounds += 1
    assert {(answer.failure, answer.detail) for answer in answers.values()} == {("batch expired", "not run")}
    assert rounds == 3


@pytest.mark.parametrize(
    ("fault", "reason", "lines"),
    [
        (broken(), "", 2),
        (error(429, "slow down", "rate_limit_exceeded"), "", 2),
        (says("no idea"), "", 2),
        (says('{"objects": []}'), "", 2),
        (no_format(), "", 2),
        (refuses(), "refused", 1),
        (says(""), "empty", 1),
        (error(400, "no image", "invalid"), "bad request", 1),
        (error(404, "no such file", "invalid"), "bad request", 1),
        (raw(b'{"choices": [1]}'), "no completion", 1),
        (raw(b"[]"), "no completion", 1),
        (raw(b"null"), "no completion", 1),
    ],
)
def test_a_request_with_a_fault_is_written_again_or_fails_alone(
    server: ModelServer, tmp_path: Path, fault: Reply, reason: str, lines: int
) -> None:
    server.script = lambda number, body: fault if number == 0 else None
    answers = ask_until_done(server, tmp_path, requests(3))
    assert answers["0"].failure == reason and answers["0"].content == (None if reason else GOOD)
    assert answers["1"].content == answers["2"].content == GOOD
    assert len(server.asked) == 2 + lines


def test_an_error_beside_the_response_has_its_message_read(tmp_path: Path) -> None:
    """vLLM puts the message of a refused request beside a response without a body."""
    until_stop(files(tmp_path), requests(1))
    (path,) = request_files(tmp_path)
    name = json.loads(path.read_text())["custom_id"]
    response = {"status_code": 400, "request_id": "r", "body": None}
    refusal = {"error": {"message": "no image here", "type": "BadRequestError", "code": 400}}
    write_lines(tmp_path / "a.jsonl", [{"id": "r", "custom_id": name, "response": response, "error": refusal}])
    (answer,) = ask(files(tmp_path), requests(1)).values()
    assert (answer.failure, answer.detail) == ("bad request", "400: no image here")


def test_answer_lines_that_can_not_be_read_count_as_missing(server: ModelServer, tmp_path: Path) -> None:
    until_stop(files(tmp_path), requests(3))
    (path,) = request_files(tmp_path)
    first, *rest = (json.dumps(line).encode() for line in answer_lines(server, path))
    junk = b"\xff\xfe{" + first[:40] + b"\n\n[]\nnull\n" + b'{"custom_id": 3}\n{"custom_id": [1]}\n'
    (tmp_path / "a.jsonl").write_bytes(junk + b"\n".join(rest))
    answers, stop = until_stop(files(tmp_path), requests(3))
    assert sorted(answers) == ["1", "2"] and "1 requests wait" in str(stop)


def test_formats_that_are_refused_are_not_written_again(server: ModelServer, tmp_path: Path) -> None:
    server.script = lambda number, body: no_format() if "json_schema" in repr(body.get("response_format")) else None
    until_stop(files(tmp_path), requests(2))
    run_batches(server, tmp_path)
    until_stop(files(tmp_path), requests(6))  # four of them are new, and are not asked for the strict format
    answers = ask_until_done(server, tmp_path, requests(6))
    assert all(answer.content == GOOD for answer in answers.values())
    strict = [one for one in server.asked if "'strict': True" in repr(one.body.get("response_format"))]
    assert len(strict) == 2


def test_answers_that_nobody_kept_are_found_again(server: ModelServer, tmp_path: Path) -> None:
    server.script = lambda number, body: says("no idea") if number == 1 else None
    answers = ask_until_done(server, tmp_path, requests(6))
    assert ask(files(tmp_path), requests(6)) == answers and len(server.asked) == 7


def test_a_failed_request_is_really_repeated_by_a_later_run(server: ModelServer, tmp_path: Path) -> None:
    server.script = [refuses()]
    assert [a.failure for a in ask_until_done(server, tmp_path, requests(2)).values()].count("refused") == 1
    again = ask_until_done(server, tmp_path, requests(2))
    assert all(answer.content == GOOD for answer in again.values()) and len(server.asked) == 3


def test_a_budget_stops_the_writing_and_a_larger_one_goes_on(server: ModelServer, tmp_path: Path) -> None:
    _, stop = until_stop(files(tmp_path, budget=Budget(requests=6)), requests(20))
    assert "6 requests wait" in str(stop) and "the budget allows no more" in str(stop)
    run_batches(server, tmp_path)
    answers, stop = until_stop(files(tmp_path, budget=Budget(requests=6)), requests(20))
    assert isinstance(stop, BudgetSpent) and len(answers) == len(server.asked) == 6
    rest = ask_until_done(server, tmp_path, requests(20))
    assert len(rest) == len(server.asked) == 20


def test_a_new_line_does_not_take_the_budget_of_those_that_wait(server: ModelServer, tmp_path: Path) -> None:
    until_stop(files(tmp_path), requests(4))
    (path,) = request_files(tmp_path)
    write_lines(tmp_path / "a.jsonl", [expired(answer_lines(server, path)[0])])
    _, stop = until_stop(files(tmp_path, budget=Budget(requests=3)), requests(4))
    assert "3 requests wait" in str(stop) and request_files(tmp_path) == [path]


def test_images_are_in_the_lines_and_broken_ones_fail_alone(server: ModelServer, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = [request("x", (tmp_path / "a.png",)), request("y", (tmp_path / "missing.png",))]
    answers = ask_until_done(server, tmp_path / "batches", asked)
    assert answers["x"].content == GOOD and answers["y"].failure == "unreadable image"
    assert server.asked[0].images[0].startswith("data:image/png;base64,")


def test_processes_may_share_a_folder(server: ModelServer, tmp_path: Path) -> None:
    first, second = requests(6)[:3], requests(6)[3:]
    until_stop(files(tmp_path), first)
    until_stop(files(tmp_path), second)
    assert len(request_files(tmp_path)) == 2 and run_batches(server, tmp_path) == 2
    assert len(ask(files(tmp_path), first) | ask(files(tmp_path), second)) == 6 == len(server.asked)
