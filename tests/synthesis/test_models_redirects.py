"""A key goes to scheme, host and port of the address that was configured, and to nobody else."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from contextcir.synthesis.models.base import Answer
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.client import ServerError, check_url, origin, printable, redacted
from tests.helpers.asking import GOOD, ask, endpoint, requests
from tests.helpers.model_faults import Reply, error
from tests.helpers.model_server import ModelServer

httpx2 = pytest.importorskip("httpx2")
SENTINEL = "sk-sentinel/4f1d+0c77"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SOME_KEY", SENTINEL)
    return "SOME_KEY"


def to(place: str, status: int) -> Reply:
    return Reply(status=status, headers={"location": place}, body=b"", paid=False)


PLACES: list[Callable[[ModelServer, ModelServer], str]] = [
    lambda own, other: other.url + "/chat/completions",
    lambda own, other: other.url.replace("127.0.0.1", "localhost") + "/chat/completions",
    lambda own, other: own.url.replace("127.0.0.1", "localhost") + "/chat/completions",  # the same machine
    lambda own, other: own.url.replace("http:", "https:") + "/chat/completions",
    lambda own, other: "//" + other.url.partition("//")[2] + "/chat/completions",
    lambda own, other: other.url.replace("http://", "http://user:word@") + "/chat/completions",
]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", PLACES)
def test_a_redirect_to_another_address_is_refused(
    status: int, place: Callable[[ModelServer, ModelServer], str], key: str
) -> None:
    with ModelServer(lambda body: GOOD) as other, ModelServer() as own:
        own.script = lambda number, body: to(place(own, other), status)
        with pytest.raises(ServerError, match=r"redirects to another address.*\(model\.url\)") as caught:
            ask(endpoint(own.url, key_variable=key), requests(3))
        assert not other.asked
    assert SENTINEL not in str(caught.value) and "word" not in str(caught.value) and len(str(caught.value)) <= 300


def test_a_redirect_below_the_same_address_is_followed(key: str) -> None:
    with ModelServer(lambda body: GOOD) as server:
        server.script = lambda number, body: to("/v1/chat/completions", 307) if number == 0 else None
        assert ask(endpoint(server.url, key_variable=key), requests(1))["0"].content == GOOD
        assert [one.headers["authorization"] for one in server.asked] == [f"Bearer {SENTINEL}"] * 2


@pytest.mark.parametrize(("status", "words"), [(307, "in a circle"), (302, "another path of its own")])
def test_redirects_that_lead_nowhere_are_told(status: int, words: str, key: str) -> None:
    circle = ModelServer(script=lambda number, body: to("/v1/chat/completions", status))
    with circle as server, pytest.raises(ServerError, match=words):
        ask(endpoint(server.url, key_variable=key), requests(1))


def test_an_http_server_is_asked_without_the_proxy_of_the_environment(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ModelServer(lambda body: GOOD) as server, ModelServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert ask(endpoint(server.url, key_variable=key), requests(1))["0"].content == GOOD
        assert not proxy.asked


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://h/v1", "http://h:80/x", True),
        ("https://H/v1", "https://h:443/", True),
        ("http://h/v1", "https://h/v1", False),
        ("http://h/v1", "http://h:8080/v1", False),
        ("http://h/v1", "http://h.evil.org/v1", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert (origin(httpx2.URL(one)) == origin(httpx2.URL(other))) == same


@pytest.mark.parametrize(
    "url",
    ["http://user:pw@h/v1", "http://user@h/v1", "http://h\\@evil/v1", "http://h/v1#x", "http://h h/v1", "", "ftp://h"],
)
def test_addresses_with_more_than_a_host_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"\(model\.url\)"):
        check_url(url)


@pytest.mark.parametrize("form", [SENTINEL, SENTINEL.upper(), "sk-sentinel%2F4f1d%2B0c77"])
def test_a_key_is_removed_in_all_forms(form: str) -> None:
    assert redacted(f"<{form}>", [SENTINEL]) == "<[key]>" == printable(f"<{form}>", SENTINEL)


def answers(reply: Reply, **options: Any) -> Answer:
    with ModelServer(script=[reply] * 3) as server:
        return ask(endpoint(server.url, **options), requests(1))["0"]


def test_what_a_server_repeats_of_key_and_extra_is_removed(key: str) -> None:
    extra = {"user_token": "private-token-1", "nested": [{"deep": "private-token-2"}]}
    told = f"{SENTINEL} private-token-1 private-token-2 is wrong"
    answer = answers(error(400, told, "bad"), key_variable=key, chat=ChatModel("m", extra=extra))
    assert answer.detail == "400: [key] [key] [key] is wrong"
    content = f'{{"objects": ["{SENTINEL}"]}}'
    assert answers(Reply(content=content), key_variable=key).content == {"objects": ["[key]"]}
    assert "private" not in repr(ChatModel("m", extra=extra))


def test_the_words_of_a_server_are_those_of_its_answer() -> None:
    bodies = {
        b'{"error": {"message": "no images here"}}': "400: no images here",
        b'{"error": "no images here"}': "400: no images here",
        b'{"object": "error", "message": "no images here", "code": 400}': "400: no images here",
        b'{"detail": "no images here"}': "400: no images here",
        b"no images\nhere\x1b[2J": "400: no images here [2J",
    }
    for body, words in bodies.items():
        answer = answers(Reply(status=400, body=body, paid=False))
        assert (answer.failure, answer.detail) == ("bad request", words)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": '{"objects": ["red ball"]}'},
        {"content": "", "reasoning": 'I think {"objects": ["red ball"]}'},
        {"content": " \n", "reasoning_content": [{"type": "text", "text": '{"objects": ["red ball"]}'}]},
        {"content": [{"type": "text", "text": '{"objects": '}, {"type": "text", "text": '["red ball"]}'}]},
        {"content": ['{"objects": ["red ball"]}']},
        {"content": '{"objects": ["red ball"]}', "reasoning_content": '{"objects": ["other"]}'},
    ],
)
def test_an_answer_is_read_wherever_a_server_puts_it(message: dict[str, Any]) -> None:
    assert answers(_completion(message)).content == GOOD


@pytest.mark.parametrize("thoughts", [None, "", 3, "no object", "{not json"])
def test_thoughts_without_an_answer_are_an_empty_answer(thoughts: object) -> None:
    assert answers(_completion({"content": None, "reasoning_content": thoughts})).failure == "empty"


def _completion(message: dict[str, Any]) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return Reply(body=json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": None}).encode())
