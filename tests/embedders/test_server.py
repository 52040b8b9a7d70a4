"""Embeddings of servers: what is sent, several servers, faults, and budgets."""

import io
from base64 import b64decode
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contextcir.embedders import ServerEmbedder
from contextcir.embedders.base import Unfinished
from contextcir.embedders.forms import ChatMessages, InputList
from contextcir.errors import InputError
from contextcir.synthesis.models.base import Budget, BudgetSpent, Prices
from contextcir.synthesis.models.chat import ImageLimits
from contextcir.synthesis.models.client import ServerError
from contextcir.synthesis.models.pacing import Retries
from tests.helpers.embedding_server import WIDTH, EmbeddingServer, vector
from tests.helpers.model_faults import broken, error, raw
from tests.helpers.photos import picture

pytest.importorskip("openai")
QUICK = Retries(attempts=4, first=0.01, longest=0.02)


def embedder(url: Any, **options: Any) -> ServerEmbedder:
    return ServerEmbedder("some/model", url, **{"retries": QUICK, "dimension": WIDTH, **options})


def dead_url() -> str:
    with EmbeddingServer() as server:
        return server.url


def test_a_query_is_instruction_image_and_text_in_this_order() -> None:
    with EmbeddingServer() as server:
        model = embedder(server.url, instruction="Find it.", document_instruction="See.", template="Change: {text}")
        queries = model.embed_query([picture(0), None, picture(1)], ["a", "b", None])
        candidates = model.embed_image([picture(0)])
    sent = {tuple(one.texts): one.body["messages"] for one in server.asked}
    assert set(sent) == {("Find it.", "Change: a"), ("Find it.", "Change: b"), ("Find it.",), ("See.",)}
    system, user = sent["Find it.", "Change: a"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Find it."}]}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    order = [("Find it.", "Change: a"), ("Find it.", "Change: b"), ("Find it.",)]
    torch.testing.assert_close(queries, torch.tensor([vector(sent[key]) for key in order]))
    torch.testing.assert_close(candidates, torch.tensor([vector(sent["See.",])]))
    assert all(one.body["encoding_format"] == "float" for one in server.asked)


def test_an_image_arrives_scaled_down_and_nearly_as_it_was() -> None:
    whole = picture(3, (300, 100))
    with EmbeddingServer() as server:
        embedder(server.url, images=ImageLimits(longest_side=150, quality=95)).embed_image([whole])
    (url,) = server.asked[0].images
    arrived = Image.open(io.BytesIO(b64decode(url.partition(",")[2])))
    assert arrived.size == (150, 50) and url.startswith("data:image/jpeg;base64,")
    expected = np.asarray(whole.resize((150, 50), Image.Resampling.BICUBIC), float)
    assert np.abs(np.asarray(arrived, float) - expected).mean() < 12


def test_an_open_answer_is_continued() -> None:
    with EmbeddingServer() as server:
        embedder(server.url, form=ChatMessages(open_answer=True)).embed_query([None], ["a"])
    body = server.asked[0].body
    assert body["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": ""}]}
    assert body["continue_final_message"] is True and body["add_special_tokens"] is True


def test_the_other_form_is_a_list_of_one_object_and_takes_no_instruction() -> None:
    with EmbeddingServer() as server:
        embedder(server.url, form=InputList()).embed_query([picture(0)], ["a"])
    (one,) = server.asked[0].body["input"]
    assert one["text"] == "a" and one["image"].startswith("data:image/jpeg") and "messages" not in server.asked[0].body
    with pytest.raises(InputError, match="no place for an instruction"):
        embedder("http://a/v1", form=InputList(), instruction="Find.")


def test_the_dimension_is_asked_for_once() -> None:
    with EmbeddingServer() as server:
        model = embedder(server.url, dimension=None)
        assert model.dimension == model.dimension == WIDTH
        assert len(server.asked) == 1


def test_several_servers_share_requests_and_a_dead_one_is_left_alone() -> None:
    with EmbeddingServer() as one, EmbeddingServer() as other:
        urls = [one.url, dead_url(), other.url]
        found = embedder(urls, concurrency=4).embed_query([None] * 30, [str(n) for n in range(30)])
        assert found.shape == (30, WIDTH) and len(one.asked) + len(other.asked) == 30
        assert min(len(one.asked), len(other.asked)) >= 5


def test_what_fails_for_a_while_is_sent_again() -> None:
    faults = [broken(), raw(b"<html>a proxy</html>"), broken(503)]
    with EmbeddingServer(script=faults) as server:
        found = embedder(server.url, concurrency=1).embed_query([None, None], ["a", "b"])
    expected = [vector([{"role": "user", "content": [{"type": "text", "text": text}]}]) for text in "ab"]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert len(server.asked) == 5


def test_a_request_that_is_refused_says_why_and_keeps_the_others() -> None:
    refuse = lambda number, body: error(400, "image too large", "bad") if "b" in repr(body["messages"]) else None  # noqa: E731
    with EmbeddingServer(script=refuse) as server, pytest.raises(Unfinished) as stopped:
        embedder(server.url).embed_query([None] * 3, ["x", "b", "y"])
    assert stopped.value.rows == [0, 2] and stopped.value.embeddings.shape == (2, WIDTH)
    assert "request 1 failed" in str(stopped.value.cause) and "image too large" in str(stopped.value.cause)


def test_a_server_without_the_model_stops_the_run() -> None:
    nobody = EmbeddingServer(script=lambda number, body: error(404, "no such model", "x"))
    with nobody as server, pytest.raises(Unfinished) as stopped:
        embedder(server.url).embed_query([None], ["a"])
    assert isinstance(stopped.value.cause, ServerError) and stopped.value.rows == []
    assert stopped.value.cause.setting == "embedder"  # whose model and url the flags are


def test_a_wrong_width_is_refused() -> None:
    with EmbeddingServer() as server, pytest.raises(InputError, match="expected 1 embeddings of 5 numbers, got 1 x 8"):
        embedder(server.url, dimension=5).embed_query([None], ["a"])


def test_a_budget_holds_over_restarts() -> None:
    with EmbeddingServer() as server:
        options = {"budget": Budget(requests=5), "prices": Prices(1.0), "concurrency": 2}
        model = embedder(server.url, **options)
        with pytest.raises(Unfinished) as stopped:
            model.embed_query([None] * 9, [str(n) for n in range(9)])
        assert isinstance(stopped.value.cause, BudgetSpent) and len(stopped.value.rows) == 5 == len(server.asked)
        again = embedder(server.url, **options)
        again.count_earlier([model.spent()])
        with pytest.raises(Unfinished):
            again.embed_query([None], ["new"])
        assert len(server.asked) == 5


def test_a_key_in_extra_is_no_part_of_a_result() -> None:
    told = embedder("http://a/v1", extra={"dimensions": 256, "api": "secret-secret"}).describe()
    assert told["extra"]["dimensions"] == 256 and "secret-secret" not in repr(told)


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"concurrency": 0}, "embedder.concurrency"),
        ({"timeout": float("nan")}, "embedder.timeout"),
        ({"lost_after": -1}, "embedder.lost_after"),
        ({"url": []}, "embedder.url"),
        ({"dimension": 0}, "embedder.dimension"),
        ({"template": "x"}, "embedder.template"),
    ],
)
def test_settings_are_checked_by_their_names(options: dict[str, Any], setting: str) -> None:
    with pytest.raises(InputError) as refused:
        embedder(**{"url": "http://a/v1", **options})
    assert refused.value.setting == setting
