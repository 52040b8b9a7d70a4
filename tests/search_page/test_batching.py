"""Queries of several clients at once: answered together, each with its own answer or its own error."""

import asyncio
import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the page needs FastAPI, of the extra `search`")
from fastapi.testclient import TestClient

from experiments.search.batching import Batcher, QueueFull
from experiments.search.limits import Limits
from experiments.search.server import create_app, running
from tests.search_page.asked import HERE, problem


def test_clients_at_once_are_answered_in_fewer_calls_each_with_its_own_answer(searcher):
    searcher.seconds = 0.2
    colours = ["red", "green", "blue", "yellow"] * 4
    app = create_app(searcher, limits=Limits(gather=0.05))
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda c: client.post("/api/search", data={"text": c, "k": 1}).json(), colours))
    for colour, answer in zip(colours, answers, strict=True):
        assert colour in answer["results"][0]["path"]
    assert sum(searcher.calls) == 16 and len(searcher.calls) <= 5 and len(searcher.threads) == 1


def test_an_error_of_one_query_spoils_no_other(searcher):
    searcher.seconds = 0.1
    texts = ["red", "fault", "blue", "fault red", "green"]
    app = create_app(searcher, limits=Limits(gather=0.2))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client, ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda text: client.post("/api/search", data={"text": text}), texts))
        assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 200]
        assert "Traceback" not in answers[1].text and "model fails" not in answers[1].text
        assert client.post("/api/search", data={"text": "red"}).status_code == 200
    assert max(searcher.calls) > 1  # they were together


def test_a_full_queue_turns_clients_away(searcher):
    searcher.seconds = 0.4
    app = create_app(searcher, limits=Limits(waiting=2, batch=1))
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/api/search", data={"text": "red"}), range(8)))
        states = [answer.status_code for answer in answers]
        assert set(states) == {200, 503} and states.count(200) >= 2
        turned = next(answer for answer in answers if answer.status_code == 503)
        assert "try again" in problem(turned, 503) and turned.headers["retry-after"] == "1"


def test_a_query_whose_client_has_gone_is_not_answered():
    asked: list[list[int]] = []
    busy = threading.Event()

    def answer(queries):
        asked.append(list(queries))
        busy.wait(5)
        return [10 * query for query in queries]

    async def run() -> list[int]:
        batcher = Batcher(answer, Limits(gather=0))
        await batcher.start()
        first = asyncio.create_task(batcher.ask(1))
        while not asked:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.ask(number)) for number in (2, 3, 4)]
        await asyncio.sleep(0.01)
        others[1].cancel()
        first.cancel()  # the model is at it
        busy.set()
        answers = await asyncio.gather(others[0], others[2])
        await batcher.stop()
        return answers

    assert asyncio.run(run()) == [20, 40]
    assert asked == [[1], [2, 4]]


def test_a_client_that_hangs_up_frees_its_place_without_a_word(searcher, capfd):
    searcher.seconds = 0.5
    with running(searcher, limits=Limits(batch=1)) as address:
        place = urlsplit(address)
        kind = {"content-type": "application/x-www-form-urlencoded"}
        connections = []
        for _ in range(6):
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
            connection.request("POST", "/api/search", b"text=red", kind)
            connections.append(connection)
            time.sleep(0.05)
        for connection in connections[1:]:
            connection.close()
        assert connections[0].getresponse().status == 200
        time.sleep(1.2)
        assert sum(searcher.calls) <= 4  # the server's own, and half of the six
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_queue_tells_that_it_is_full():
    async def run() -> None:
        batcher = Batcher(list, Limits(waiting=1))
        first = asyncio.create_task(batcher.ask(1))  # nobody answers yet
        batcher._arrived = asyncio.Event()
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.ask(2)
        first.cancel()

    asyncio.run(run())
