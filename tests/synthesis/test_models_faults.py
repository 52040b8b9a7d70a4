"""An endpoint against a real server that does everything wrong: an answer or a failure for each, never a crash."""

import asyncio
import json
import time

import pytest

from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.client import LARGEST, ServerError
from tests.helpers.asking import GOOD, QUICK, ask, endpoint, request, requests
from tests.helpers.model_faults import (
    Reply,
    broken,
    cut,
    error,
    hang_up,
    limited,
    no_format,
    raw,
    refuses,
    says,
    slow,
)
from tests.helpers.model_server import ModelServer

pytest.importorskip("openai")


def alone(script, **options):
    """The answer to one request, and the server that gave it."""
    with ModelServer(lambda body: GOOD, script) as server:
        return ask(endpoint(server.url, **options), [request()])["0"], server


@pytest.mark.parametrize(
    "fault",
    [
        limited(),
        limited(0.01),
        broken(500),
        broken(503),
        cut(),
        cut(200),
        hang_up(),
        raw(b"<html>busy</html>"),
        raw(b"\xff\xfe"),
    ],
)
def test_passing_trouble_is_asked_again(fault):
    answer, server = alone([fault, fault])
    assert answer.content == GOOD
    assert answer.usage["requests"] == len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (limited(), "rate limited"),
        (broken(502), "server error"),
        (cut(), "connection"),
        (raw(b'{"choices": []}'), "no completion"),
        (raw(b'{"choices": [{"message": {"content": ' + b"[" * 90_000), "no completion"),
    ],
)
def test_lasting_trouble_is_a_failure_after_all_attempts(fault, reason):
    with ModelServer(
        lambda body: GOOD,
        lambda number, body: fault if "this is 1." in body["messages"][1]["content"][0]["text"] else None,
    ) as server:
        answers = ask(endpoint(server.url), requests(3))
    assert answers["1"].content is None and answers["1"].failure == reason
    assert answers["0"].content == answers["2"].content == GOOD
    assert len(server.asked) == 2 + QUICK.attempts


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (refuses(), "refused"),
        (says("", finish="content_filter"), "refused"),
        (says(""), "empty"),
        (says(" \n"), "empty"),
        (says('{"objects": ["a', finish="length"), "cut off"),
        (says("", finish="length"), "cut off"),
        (error(400, "the image is no image", "invalid"), "bad request"),
        (error(413, "too large", "invalid"), "bad request"),
        (raw(b" " * (LARGEST + 1)), "too large"),
        (Reply(headers={"content-encoding": "gzip"}, body=b"packed"), "too large"),
        (says("x" * 300_000), "too large"),
        (says("[" * 50_000), "too deep"),
    ],
)
def test_answers_of_no_use_are_failures_at_once(fault, reason):
    answer, server = alone([fault])
    assert (answer.content, answer.failure) == (None, reason)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Sure! A red ball.", "not JSON"),
        ('{"objects": ["a"', "not JSON"),
        ("[]", "not JSON"),
        ('{"objects": []}', "not the schema"),
        ('{"objects": ["a"], "command": "rm"}', "not the schema"),
        ('{"objects": [1]}', "not the schema"),
        ('{"objects": ["a\\u0000b"]}', "unsafe text"),
        ('{"objects": ["\\ud800"]}', "unsafe text"),
        ('{"objects": ["a"]} or {"objects": ["b"]}', "several objects"),
    ],
)
def test_a_flawed_answer_is_corrected_once(said, reason):
    answer, server = alone([says(said)])
    assert answer.content == GOOD
    last = server.asked[1].body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert reason in last[-1]["content"]
    answer, server = alone([says(said), says(said)])
    assert (answer.content, answer.failure, len(server.asked)) == (None, reason, 2)
    assert answer.usage["requests"] == 2


def test_retry_after_is_waited_for_by_all():
    start = time.monotonic()
    with ModelServer(lambda body: GOOD, [limited(0.5)]) as server:
        answers = ask(endpoint(server.url, concurrency=1), requests(2))
    assert all(answer.content == GOOD for answer in answers.values())
    assert time.monotonic() - start >= 0.5


def test_a_retry_after_beyond_patience_is_a_failure():
    answer, server = alone([limited(100_000)])
    assert answer.failure == "rate limited" and len(server.asked) == 1


def test_a_slow_answer_times_out_and_is_asked_again():
    answer, server = alone([slow(5)], timeout=0.4)
    assert answer.content == GOOD and len(server.asked) == 2


def test_formats_that_a_server_lacks_are_left_out_for_all_requests_after():
    kinds = []

    def script(number, body):
        kind = (body.get("response_format") or {"type": "text"})["type"]
        kinds.append(kind)
        return None if kind == "text" else no_format(kind)

    said = f"<think>maybe {{}} or not</think>Here:\n```json\n{json.dumps(GOOD)}\n```"
    with ModelServer(lambda body: said, script) as server:
        model = endpoint(server.url, concurrency=1)
        answers = ask(model, requests(3))
    assert all(answer.content == GOOD for answer in answers.values())
    assert kinds == ["json_schema", "json_schema", "json_object", "text", "text", "text"]
    assert "minItems" in server.asked[-1].body["messages"][0]["content"]


def test_parameters_that_a_server_lacks_are_left_out():
    script = [
        error(400, "'max_tokens' is not supported, use 'max_completion_tokens'", "unsupported_parameter"),
        error(400, "'temperature' does not support 0.7 with this model", "unsupported_value"),
    ]
    answer, server = alone(script)
    assert answer.content == GOOD
    assert "max_tokens" not in server.asked[2].body and "temperature" not in server.asked[2].body
    assert server.asked[2].body["max_completion_tokens"] == ChatModel("m").max_tokens


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (error(401, "no such key", "invalid_api_key"), "refuses requests without a key"),
        (error(404, "no model m", "model_not_found"), "does not know the model"),
        (error(429, "pay first", "insufficient_quota"), "quota"),
    ],
)
def test_what_no_request_gets_past_stops_the_run(fault, words):
    script = [None, fault, fault, fault, fault]
    with ModelServer(lambda body: GOOD, script) as server, pytest.raises(ServerError, match=words):
        ask(endpoint(server.url, concurrency=1), requests(5))
    assert len(server.asked) == 2


def test_a_server_that_is_not_there_stops_the_run_and_fails_nobody():
    with ModelServer() as server:
        url = server.url
    with pytest.raises(ServerError, match="is the server running"):
        ask(endpoint(url), requests(3))


def test_a_server_that_goes_away_stops_the_run_before_its_failures_are_told():
    with ModelServer(lambda body: GOOD, lambda number, body: broken() if number >= 5 else None) as server:
        model, told = endpoint(server.url, concurrency=1, lost_after=4), []

        async def collect():
            async for answer in model.answer(requests(50)):
                told.append(answer)

        with pytest.raises(ServerError, match="4 requests in a row"):
            asyncio.run(collect())
    assert [answer.content for answer in told] == [GOOD] * 5


def test_the_same_completion_twice_answers_two_requests():
    with ModelServer(lambda body: GOOD, lambda number, body: Reply(id="chatcmpl-1")) as server:
        answers = ask(endpoint(server.url), requests(6))
    assert sorted(answers) == list("012345")


def test_requests_are_drawn_only_as_there_is_room_and_answered_at_once():
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield request(str(drawn))

    async def some(model):
        stream = model.answer(endless())
        found = [await anext(stream) for _ in range(10)]
        await stream.aclose()
        return found

    with ModelServer(lambda body: GOOD, lambda number, body: slow(0.02)) as server:
        found = asyncio.run(some(endpoint(server.url, concurrency=4)))
    assert len({answer.key for answer in found}) == 10
    assert drawn <= 10 + 2 * 4 + 4
    assert 2 <= server.busiest <= 4


def test_one_model_serves_one_stage_after_another():
    with ModelServer(lambda body: GOOD) as server:
        model = endpoint(server.url)
        assert len(ask(model, requests(3))) + len(ask(model, requests(4))) == 7
    assert model.account.spent["requests"] == 7 and model.account.in_flight == 0
