"""Rate limits and the waits between attempts."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextcir.synthesis.models.pacing import Pace, Pacer, Retries, in_parallel, retry_after
from tests.helpers.asking import GOOD, ask, endpoint, requests
from tests.helpers.model_server import ModelServer


def starts(pace, tokens):
    """Seconds after the first at which requests of so many tokens begin."""

    async def all_at_once():
        pacer, found = Pacer(pace), []

        async def one(estimate):
            await pacer.turn(estimate)
            found.append(time.monotonic())

        await asyncio.gather(*map(one, tokens))
        return [moment - found[0] for moment in found]

    return asyncio.run(all_at_once())


def test_requests_begin_evenly():
    found = starts(Pace(requests_per_minute=1200), [1] * 5)
    assert all(moment >= 0.05 * number - 0.005 for number, moment in enumerate(found))
    assert found[-1] < 2


def test_tokens_make_room_for_themselves():
    found = starts(Pace(tokens_per_minute=60_000), [100, 50, 1])
    assert found[1] >= 0.095 and found[2] >= 0.145


def test_without_limits_nobody_waits():
    assert starts(Pace(), [1000] * 50)[-1] < 0.5


def test_what_was_used_corrects_the_estimate():
    async def run():
        pacer = Pacer(Pace(tokens_per_minute=60_000))
        await pacer.turn(10_000)  # ten seconds, as it seems
        pacer.used(10_000, 100)
        start = time.monotonic()
        await pacer.turn(1)
        return time.monotonic() - start

    assert 0.05 < asyncio.run(run()) < 5


def test_an_endpoint_keeps_to_its_pace():
    pytest.importorskip("openai")
    with ModelServer(lambda body: GOOD) as server:
        model = endpoint(server.url, pace=Pace(requests_per_minute=600), concurrency=8)
        start = time.monotonic()
        ask(model, requests(6))
    assert time.monotonic() - start >= 0.5


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_waits_double_up_to_the_longest_and_are_never_below_half(failed, seed):
    retries = Retries(attempts=50, first=0.5, longest=20)
    wait = retries.wait(failed, None, Random(seed))
    expected = min(20, 0.5 * 2 ** (failed - 1))
    assert expected / 2 <= wait <= expected


def test_a_server_that_asks_for_more_gets_it_and_one_that_asks_for_too_much_is_given_up():
    retries = Retries(attempts=3, first=0.5, patience=60)
    assert retries.wait(1, 30, Random(0)) == 30
    assert retries.wait(1, 0.001, Random(0)) >= 0.25
    assert retries.wait(1, 61, Random(0)) is None
    assert retries.wait(3, None, Random(0)) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    date = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    now = (date - timedelta(seconds=12)).timestamp()
    assert retry_after({"retry-after": format_datetime(date, usegmt=True)}, now) == pytest.approx(12)
    assert retry_after({"retry-after": format_datetime(date, usegmt=True)}, now + 100) == 0


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first": -1}, {"first": 5, "longest": 1}])
def test_retries_that_make_no_sense_are_errors(wrong):
    with pytest.raises(ValueError, match="retries"):
        Retries(**wrong)


def test_after_an_error_what_is_under_way_is_finished_first():
    async def work(number):
        await asyncio.sleep(0.01 * number)
        if number == 1:
            raise KeyError(number)
        return number

    found, drawn = [], []

    async def run():
        async for one in in_parallel((drawn.append(n) or n for n in range(100)), work, 4):
            found.append(one)

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert sorted(found) == [number for number in drawn if number != 1]
    assert len(drawn) < 10
