"""Captions and edits by a real HTTP server, and text search by a stand-in for CLIP that can be followed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from contextcir.embedders.base import Embedder, Unfinished
from contextcir.embedders.caption_then_retrieve import CaptionThenRetrieve
from contextcir.errors import InputError
from contextcir.synthesis.models.base import Budget
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.endpoint import Endpoint
from contextcir.synthesis.models.pacing import Retries
from tests.helpers.model_faults import error
from tests.helpers.model_server import ModelServer, texts

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


class Words(Embedder):
    """Counts the letters of texts; an image is its mean colour."""

    name, licence, revision, dimension = "words", "MIT", "1", 26

    def embed_query(self, images: Any, texts: Any) -> Tensor:
        assert all(image is None for image in images)
        return torch.tensor([[float(text.lower().count(chr(97 + n))) for n in range(26)] for text in texts])

    def embed_image(self, images: Any) -> Tensor:
        return torch.stack([torch.full((26,), sum(image.getpixel((0, 0))) / 255) for image in images])


def answer(body: dict) -> dict:
    """Names the server's answers after what it was asked."""
    said = texts(body)[-1]
    if said.startswith("Description: "):
        description, instruction = said.removeprefix("Description: ").split("\nInstruction: ")
        return {"description": f"{description} {instruction}"}
    url = next(part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url")
    return {"caption": f"picture {len(url)}"}


def embedder(server: ModelServer, file: Path | None = None, **options: Any) -> CaptionThenRetrieve:
    retries = Retries(first=0.01, longest=0.02, attempts=2)
    chat = Endpoint(ChatModel("m", corrections=0), server.url, retries=retries, **options)
    return CaptionThenRetrieve(chat, Words(), answers=file)


def asked(server: ModelServer) -> list[str]:
    return [one.texts[-1] for one in server.asked]


def test_the_caption_is_edited_and_searched_by() -> None:
    with ModelServer(answer) as server:
        tested = embedder(server)
        found, cause = tested.descriptions([RED, None, BLUE, RED], ["make it zebra", "a text", None, "make it green"])
        embedded = tested.embed_query([RED], ["make it zebra"])
    assert cause is None and found[1] == "a text"
    assert found[0].startswith("picture ") and found[0].endswith(" make it zebra")
    assert found[2].startswith("picture ") and "make" not in found[2]
    assert found[3] == found[0].replace("zebra", "green")
    assert torch.equal(embedded, Words().embed_query([None], [found[0]]))
    assert sum(text == "Describe this image." for text in asked(server)) == 2 and len(server.asked) == 4
    assert tested.spent()["requests"] == 4


def test_what_was_answered_is_not_asked_again_after_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "answers.jsonl"
    with ModelServer(answer) as server:
        first = embedder(server, file).embed_query([RED, BLUE], ["x", "y"])
        file.write_text(file.read_text() + '{"key": "half')
        again = embedder(server, file)
        assert torch.equal(again.embed_query([RED, BLUE], ["x", "y"]), first)
        assert len(server.asked) == 4 and again.spent() == {}
        again.embed_query([RED], ["z"])
        assert len(server.asked) == 5
        assert torch.equal(embedder(server, file).embed_query([BLUE, RED], ["y", "z"])[0], first[1])
        assert len(server.asked) == 5
        other = CaptionThenRetrieve(Endpoint(ChatModel("other"), server.url), Words(), answers=file)
        other.embed_query([RED], ["x"])
        assert len(server.asked) == 7  # another model


def test_a_query_whose_edit_fails_is_searched_by_its_instruction() -> None:
    script = [None, error(400, "no", "bad")]
    with ModelServer(answer, script) as server:
        found, cause = embedder(server).descriptions([RED], ["make it zebra"])
    assert (found, cause) == (["make it zebra"], None)


def test_an_image_without_a_caption_leaves_the_others_done() -> None:
    def script(number: int, body: dict) -> Any:
        return error(400, "no", "bad") if number == 0 else None

    with ModelServer(answer, script) as server, pytest.raises(Unfinished, match="an image has no caption") as stopped:
        embedder(server, concurrency=1).embed_query([RED, BLUE], ["x", "y"])
    assert stopped.value.rows == [1] and stopped.value.embeddings.shape == (1, 26)


def test_a_server_without_the_model_stops_and_names_the_setting() -> None:
    nobody = ModelServer(answer, lambda number, body: error(404, "no such model", "x"))
    with nobody as server, pytest.raises(Unfinished, match="does not know the model") as stopped:
        embedder(server, concurrency=1).embed_query([RED], ["x"])
    assert stopped.value.cause.setting == "embedder.chat" and stopped.value.rows == []


def test_a_spent_budget_stops_and_what_was_done_is_told() -> None:
    with ModelServer(answer) as server:
        tested = embedder(server, concurrency=1, budget=Budget(requests=3))
        with pytest.raises(Unfinished, match=r"budget\.requests") as stopped:
            tested.embed_query([RED, BLUE], ["x", "y"])
        assert stopped.value.rows == [0] and len(server.asked) == 3
        late = embedder(server, budget=Budget(requests=3))
        late.count_earlier([tested.spent()])
        with pytest.raises(Unfinished):
            late.embed_query([RED], ["x"])
    assert len(server.asked) == 3


def test_the_result_says_what_made_it() -> None:
    with ModelServer(answer) as server:
        told = embedder(server).describe()
    assert told["name"] == "m > words" and told["clip"]["dimension"] == 26 and told["chat"] == "m"
    assert "changed image" in told["instruction"] and json.dumps(told)
    with ModelServer(answer) as server, pytest.raises(InputError, match="edit_prompt"):
        CaptionThenRetrieve(Endpoint(ChatModel("m"), server.url), Words(), edit_prompt=" ")


def test_candidates_are_those_of_clip() -> None:
    with ModelServer(answer) as server:
        assert torch.equal(embedder(server).embed_image([RED]), Words().embed_image([RED]))
    assert server.asked == []
