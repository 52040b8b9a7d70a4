"""Batches: failed, expired, with lines lost, doubled or broken; and restarts that pay nothing twice."""

import asyncio
import json

import pytest

from contextcir.synthesis.models.base import Budget, BudgetSpent
from contextcir.synthesis.models.batch_endpoint import BatchEndpoint
from contextcir.synthesis.models.chat import ChatModel, ImageLimits
from contextcir.synthesis.models.client import ServerError
from tests.helpers.asking import GOOD, QUICK, ask, request, requests
from tests.helpers.model_faults import Reply, broken, error, no_format, raw, refuses, says
from tests.helpers.model_server import ModelServer

pytest.importorskip("openai")


@pytest.fixture
def server():
    with ModelServer(lambda body: GOOD) as server:
        yield server


def batched(server, folder, *, chat=None, **options):
    settings = {"lines": 4, "poll": 0.01, "retries": QUICK, "key_variable": None, **options}
    return BatchEndpoint(chat or ChatModel("m"), folder, server.url, **settings)


def test_every_request_is_answered_in_batches_of_a_size(server, tmp_path):
    answers = ask(batched(server, tmp_path), requests(10))
    assert sorted(map(int, answers)) == list(range(10))
    assert all(answer.content == GOOD and answer.usage["requests"] == 1 for answer in answers.values())
    assert len(server.batches.made) == 3 and server.paid_twice() == []


def test_a_file_stays_below_its_size(server, tmp_path):
    ask(batched(server, tmp_path, largest_file=2000), requests(8))
    inputs = [server.batches.files[batch["input_file_id"]] for batch in server.batches.made.values()]
    assert len(inputs) > 2 and all(len(content) <= 2000 for content in inputs)
    assert len({json.loads(line)["custom_id"] for content in inputs for line in content.splitlines()}) == 8


@pytest.mark.parametrize("how", ["expired", "cancelled"])
def test_lines_of_a_batch_that_ended_early_go_into_another(server, tmp_path, how):
    server.batches.ends, server.batches.answered = [how], 1
    answers = ask(batched(server, tmp_path), requests(4))
    assert all(answer.content == GOOD for answer in answers.values())
    assert len(server.batches.made) == 2 and server.paid_twice() == []


def test_lines_that_expire_again_and_again_are_failures(server, tmp_path):
    server.batches.ends, server.batches.answered = ["expired"] * 9, 0
    answers = ask(batched(server, tmp_path), requests(2))
    assert {answer.failure for answer in answers.values()} == {"batch expired"}
    assert len(server.batches.made) == QUICK.attempts


def test_lines_that_are_lost_are_asked_again_and_doubled_ones_count_once(server, tmp_path):
    server.batches.lose, server.batches.repeat = 1, 2
    answers = ask(batched(server, tmp_path), requests(5))
    assert len(answers) == 5 and all(answer.content == GOOD for answer in answers.values())
    assert server.paid_twice() == []


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
def test_a_line_with_a_fault_is_asked_again_or_fails_alone(server, tmp_path, fault, reason, lines):
    server.script = lambda number, body: fault if number == 0 else None
    answers = ask(batched(server, tmp_path), requests(3))
    assert answers["0"].failure == reason and answers["0"].content == (None if reason else GOOD)
    assert answers["1"].content == answers["2"].content == GOOD
    assert len(server.asked) == 2 + lines


def test_output_lines_that_are_no_json_are_asked_again(server, tmp_path):
    batches, serve = server.batches, server.batches.serve

    def damaging(method, path, headers, content):
        reply = serve(method, path, headers, content)
        if not path.endswith("/content") or len(batches.made) > 1:
            return reply
        first, rest = (reply.body or b"").split(b"\n", 1)
        return Reply(body=b"\xff\xfe{" + first[:40] + b"\n\n[]\n" + b'{"custom_id": 3}\n' + rest.rstrip(b"\n"))

    batches.serve = damaging
    answers = ask(batched(server, tmp_path), requests(3))
    assert all(answer.content == GOOD for answer in answers.values())


def test_formats_that_are_refused_are_learned_for_the_batches_after(server, tmp_path):
    server.script = lambda number, body: no_format() if "json_schema" in repr(body.get("response_format")) else None
    answers = ask(batched(server, tmp_path, at_once=1), requests(8))
    assert all(answer.content == GOOD for answer in answers.values())
    assert sum("json_schema" in repr(one.body.get("response_format")) for one in server.asked) == 4 + 4


def test_a_refused_batch_is_sent_again_and_in_the_end_stops_the_run(server, tmp_path):
    server.batches.ends = ["failed"]
    assert len(ask(batched(server, tmp_path / "a"), requests(3))) == 3
    server.batches.ends = ["failed"] * 9
    with pytest.raises(ServerError, match="line 3 is not JSON"):
        ask(batched(server, tmp_path / "b"), requests(3))
    server.batches.ends = []
    assert len(ask(batched(server, tmp_path / "b"), requests(3))) == 3


def test_a_full_queue_is_waited_for_while_batches_are_under_way(server, tmp_path):
    server.batches.failure = ("token_limit_exceeded", "enqueued token limit reached")
    server.batches.ends = ["completed", *["failed"] * 6]
    create = server.batches._create
    # the first batch takes long, and what is sent meanwhile is refused
    server.batches._create = lambda asked: (made := create(asked)).update(polls=0 if made["number"] else 40) or made
    answers = ask(batched(server, tmp_path), requests(8))
    assert len(answers) == 8 and all(answer.content == GOOD for answer in answers.values())


def until(model, asked, number):
    """The first answers, after which the process goes away."""

    async def some():
        stream = model.answer(asked)
        found = [await anext(stream) for _ in range(number)]
        await stream.aclose()
        return found

    return asyncio.run(some())


def test_a_restart_goes_on_with_what_was_sent_and_pays_nothing_twice(server, tmp_path):
    server.batches.polls = 3
    first = until(batched(server, tmp_path), requests(12), 1)
    told = {answer.key for answer in first}
    rest = ask(batched(server, tmp_path), [one for one in requests(12) if one.key not in told])
    assert len(rest) == 11 and all(answer.content == GOOD for answer in rest.values())
    assert len(server.asked) == 12 and server.paid_twice() == []


def test_results_that_nobody_kept_are_found_again(server, tmp_path):
    server.script = lambda number, body: says("no idea") if number == 1 else None
    asked = ask(batched(server, tmp_path), requests(6))
    again = ask(batched(server, tmp_path), requests(6))
    assert again == asked and len(server.asked) == 7


def test_what_failed_for_good_is_really_asked_again_by_a_later_run(server, tmp_path):
    server.script = [refuses()]
    assert ask(batched(server, tmp_path), requests(2))["0"].failure == "refused"
    again = ask(batched(server, tmp_path), requests(2))
    assert again["0"].content == GOOD and len(server.asked) == 3


def test_a_batch_whose_creation_was_not_answered_is_found_and_not_made_twice(server, tmp_path):
    server.batches.lost_reply = 1
    assert len(ask(batched(server, tmp_path), requests(3))) == 3
    assert len(server.batches.made) == 1


@pytest.mark.parametrize("step", ["upload", "create", "after"])
def test_a_kill_while_a_batch_is_sent_loses_and_doubles_nothing(server, tmp_path, monkeypatch, step):
    from contextcir.synthesis.models.batch_server import BatchServer

    class Killed(BaseException):
        pass

    async def killed(self, batch, *rest):
        if step == "after":
            await create(self, batch)
        raise Killed

    create = BatchServer.create
    monkeypatch.setattr(BatchServer, "upload" if step == "upload" else "create", killed)
    with pytest.raises(Killed):
        ask(batched(server, tmp_path), requests(4))
    monkeypatch.undo()
    answers = ask(batched(server, tmp_path), requests(4))
    assert all(answer.content == GOOD for answer in answers.values())
    assert len(server.batches.made) == 1 and server.paid_twice() == []


def test_a_budget_stops_before_it_is_exceeded_and_a_larger_one_goes_on(server, tmp_path):
    model = batched(server, tmp_path, budget=Budget(requests=6))
    told = []

    async def collect():
        async for answer in model.answer(requests(20)):
            told.append(answer)

    with pytest.raises(BudgetSpent):
        asyncio.run(collect())
    assert len(told) == len(server.asked) == 6 and model.account.in_flight == 0
    rest = ask(batched(server, tmp_path), requests(20))
    assert len(rest) == len(server.asked) == 20


def test_images_are_in_the_lines_and_broken_ones_fail_alone(server, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = [request("x", (tmp_path / "a.png",)), request("y", (tmp_path / "missing.png",))]
    answers = ask(batched(server, tmp_path / "batches", chat=ChatModel("m", images=ImageLimits())), asked)
    assert answers["x"].content == GOOD and answers["y"].failure == "unreadable image"
    assert server.asked[0].images[0].startswith("data:image/png;base64,")


def test_a_server_without_batches_is_an_error_of_one_line(tmp_path):
    with ModelServer() as server:
        server.batches.serve = lambda *request: error(404, "no such page", "not_found")
        with pytest.raises(ServerError) as caught:
            ask(batched(server, tmp_path), requests(1))
    assert "\n" not in str(caught.value)


def test_damaged_state_is_named(server, tmp_path):
    (tmp_path / "a.state.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.state\.json is damaged"):
        ask(batched(server, tmp_path), requests(1))


def test_a_status_that_nobody_knows_is_no_endless_wait(server, tmp_path):
    end = server.batches._end

    def ending(batch, how):
        if batch["number"]:
            end(batch, how)
        else:
            batch["status"] = "exploded"

    server.batches._end = ending
    assert len(ask(batched(server, tmp_path), requests(2))) == 2


def test_a_batch_that_the_server_does_not_know_is_named(server, tmp_path):
    server.batches.polls = 3
    until(batched(server, tmp_path, lines=1), requests(3), 1)
    server.batches.made = {}
    server.batches.polls = 99
    for path in tmp_path.glob("*.state.json"):
        path.write_text(path.read_text().replace('"ended": true', '"ended": false'))
    with pytest.raises(ServerError, match=r"does not know batch batch-\d .*\.state\.json"):
        ask(batched(server, tmp_path), requests(3))
