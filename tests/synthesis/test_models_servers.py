"""Several servers: requests are shared, those of a dead server go to the others, and all limits count over all."""

import asyncio
from collections import Counter

import pytest

from contextcir.synthesis.models.base import Budget, BudgetSpent
from contextcir.synthesis.models.client import ServerError
from contextcir.synthesis.models.pacing import Retries
from tests.helpers.asking import GOOD, ask, endpoint, requests
from tests.helpers.model_faults import broken, error, limited, no_format, slow
from tests.helpers.model_server import ModelServer

pytest.importorskip("openai")


def good(**options) -> ModelServer:
    return ModelServer(lambda body: GOOD, **options)


def dead_url() -> str:
    with ModelServer() as server:
        return server.url


def test_requests_are_shared_evenly():
    with good() as one, good() as other, good() as third:
        answers = ask(endpoint([one.url, other.url, third.url], concurrency=6), requests(60))
        shares = [len(server.asked) for server in (one, other, third)]
    assert len(answers) == 60 == sum(shares) and min(shares) >= 10


def test_the_least_busy_server_is_next():
    with good(script=lambda number, body: slow(0.3)) as lazy, good() as quick:
        ask(endpoint([lazy.url, quick.url], concurrency=4), requests(40))
        assert len(quick.asked) > 3 * len(lazy.asked) > 0


def test_the_requests_of_a_dead_server_go_to_the_others():
    with good() as alive:
        answers = ask(endpoint([dead_url(), alive.url], lost_after=2), requests(30))
        assert all(answer.content == GOOD for answer in answers.values()) and len(alive.asked) == 30


def test_a_server_that_dies_and_comes_back_is_asked_again():
    down = lambda number, body: broken() if 2 <= number < 5 else None  # noqa: E731
    with good(script=down) as weak, good(script=lambda number, body: slow(0.01)) as strong:
        answers = ask(endpoint([weak.url, strong.url], retries=Retries(5, 0.01, 0.02)), requests(80))
        assert all(answer.content == GOOD for answer in answers.values())
        assert len(weak.asked) > 8 and strong.asked


def test_all_servers_gone_stop_the_run():
    urls = [dead_url(), dead_url()]
    with pytest.raises(ServerError, match="is the server running") as caught:
        ask(endpoint(urls), requests(3))
    assert urls[0] in str(caught.value) and len(str(caught.value)) <= 300


def test_a_server_that_wants_a_rest_does_not_stop_the_others():
    with good(script=[limited(30)]) as tired, good() as fresh:
        answers = ask(endpoint([tired.url, fresh.url], concurrency=1), requests(5))
        assert all(answer.content == GOOD for answer in answers.values())
        assert len(tired.asked) == 1 and len(fresh.asked) == 5


def test_a_budget_counts_over_all_servers():
    with good() as one, good() as other:
        model = endpoint([one.url, other.url], budget=Budget(requests=7))
        with pytest.raises(BudgetSpent):
            ask(model, requests(50))
        assert len(one.asked) + len(other.asked) == 7


def test_each_server_has_its_own_key_and_its_own_dialect(monkeypatch):
    monkeypatch.setenv("KEY_ONE", "first-key")
    monkeypatch.setenv("KEY_TWO", "second-key")
    strict = lambda number, body: None if "json_schema" not in repr(body.get("response_format")) else no_format()  # noqa: E731
    with good(script=strict) as old, good() as new:
        ask(endpoint([old.url, new.url], key_variable=["KEY_ONE", "KEY_TWO"]), requests(20))
        assert {one.headers["authorization"] for one in old.asked} == {"Bearer first-key"}
        assert {one.headers["authorization"] for one in new.asked} == {"Bearer second-key"}
        kinds = Counter((one.body.get("response_format") or {}).get("type") for one in new.asked)
    assert set(kinds) == {"json_schema"}


@pytest.mark.parametrize(("part", "server"), [(0, 0), (1, 1), (2, 0), (7, 1)])
def test_each_shard_may_take_a_server_of_its_own(part, server):
    with good() as one, good() as other:
        model = endpoint([one.url, other.url], one_each=True)
        model.begin(part, 8)
        ask(model, requests(4))
        assert [len(each.asked) for each in (one, other)] == ([4, 0], [0, 4])[server]


def test_a_server_that_refuses_its_key_stops_the_run_and_is_named():
    refusing = ModelServer(script=lambda number, body: error(401, "no", "invalid_api_key"))
    with good() as one, refusing as other, pytest.raises(ServerError, match=other.url):
        ask(endpoint([one.url, other.url]), requests(9))


@pytest.mark.parametrize(
    ("url", "variable", "words"),
    [
        ([], None, "got none"),
        (["http://a/v1", "http://a/v1/"], None, "stands twice"),
        (["http://a/v1", "h"], None, "model.url"),
        (["http://a/v1"], ["A_KEY", "B_KEY"], "model.key_variable"),
    ],
)
def test_wrong_lists_are_told(url, variable, words):
    with pytest.raises(ValueError, match=words):
        endpoint(url, key_variable=variable)


def test_a_key_that_is_missing_is_told_before_any_request(monkeypatch):
    monkeypatch.delenv("KEY_TWO", raising=False)
    monkeypatch.setenv("KEY_ONE", "x")
    model = endpoint(["http://a/v1", "http://b/v1"], key_variable=["KEY_ONE", "KEY_TWO"])
    with pytest.raises(ValueError, match="KEY_TWO is not set"):
        model.begin(0, 1)


def test_nothing_hangs_when_the_caller_stops_early():
    async def first(model):
        stream = model.answer(requests(100))
        answer = await anext(stream)
        await stream.aclose()
        return answer

    with good() as one, good() as other:
        model = endpoint([one.url, other.url])
        assert asyncio.run(first(model)).content == GOOD
    assert model.account.in_flight == 0 and all(server.in_flight == 0 for server in model.servers)
