"""Keys come from the environment, go to the server, and are seen nowhere else."""

import logging
import pickle
import traceback

import pytest

from contextcir.synthesis.models.base import BudgetSpent
from contextcir.synthesis.models.client import ServerError, check_url, printable, read_key
from contextcir.synthesis.models.pacing import Retries
from tests.helpers.asking import GOOD, ask, endpoint, requests
from tests.helpers.model_faults import broken, cut, error, refuses, says
from tests.helpers.model_server import ModelServer

SENTINEL = "sk-sentinel-4f1d0c77"


@pytest.fixture
def key(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("SOME_KEY", SENTINEL)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    return "SOME_KEY"


def echoing(number, body):
    """Faults in which the server repeats the key."""
    told = f"your key {SENTINEL} is fine"
    return [None, error(400, told, told), refuses(told), says(told), broken(), cut(), error(503, told, told)][
        number % 7
    ]


def test_a_key_goes_to_the_server_and_nowhere_else(key, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with ModelServer(lambda body: GOOD, echoing) as server:
        model = endpoint(server.url, key_variable=key, lost_after=1000)
        answers = ask(model, requests(20))
        assert {one.headers["authorization"] for one in server.asked} == {f"Bearer {SENTINEL}"}
    shown = [repr(answers), repr(model), repr(vars(model)), caplog.text, *capfd.readouterr()]
    assert not any(SENTINEL in text for text in shown)
    assert SENTINEL.encode() not in pickle.dumps(model)


def test_no_error_shows_the_key(key):
    told = f"Incorrect API key provided: {SENTINEL}"
    with ModelServer(script=[error(401, told, "invalid_api_key")] * 9) as server, pytest.raises(ServerError) as caught:
        ask(endpoint(server.url, key_variable=key), requests(3))
    assert "SOME_KEY" in str(caught.value)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=False).format())
    assert SENTINEL not in shown and SENTINEL not in repr(caught.value)


def test_without_a_variable_no_key_of_the_environment_is_sent(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", SENTINEL)
    monkeypatch.setenv("OPENAI_ORG_ID", SENTINEL)
    monkeypatch.setenv("OPENAI_PROJECT_ID", SENTINEL)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: {SENTINEL}\nX-Key: {SENTINEL}")
    with ModelServer(lambda body: GOOD) as server:
        ask(endpoint(server.url), requests(1))
    assert SENTINEL not in repr(server.asked[0].headers)


@pytest.mark.parametrize("variable", [SENTINEL, "sk_live", "", "A B"])
def test_a_key_in_place_of_the_name_of_a_variable_is_not_repeated(variable):
    with pytest.raises(ValueError, match="NAME of an environment variable") as caught:
        read_key(variable)
    assert not variable or variable not in str(caught.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ValueError, match="SOME_KEY is not set"):
        read_key("SOME_KEY")


@pytest.mark.parametrize("url", [f"http://user:{SENTINEL}@h/v1", f"http://h/v1?key={SENTINEL}", "file:///x", "h/v1"])
def test_addresses_with_keys_in_them_are_refused_without_repeating_them(url):
    with pytest.raises(ValueError, match="http://localhost") as caught:
        check_url(url)
    assert SENTINEL not in str(caught.value)


def test_a_servers_words_are_one_line_without_tricks():
    assert printable("a\x00b\r\nc\u202ed\ud800e" + SENTINEL, SENTINEL) == "a b c d e[key]"
    assert len(printable("x" * 10_000)) == 300


def test_budget_and_server_errors_are_one_line_value_errors():
    assert issubclass(BudgetSpent, ValueError) and issubclass(ServerError, ValueError)
    assert Retries().attempts > 1
