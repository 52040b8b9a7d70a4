"""A local model, with a stand-in for the pipeline of transformers, and with a tiny one where that is installed."""

import json

import pytest
from PIL import Image

from contextcir.synthesis.models.local import LocalModel
from tests.helpers.asking import GOOD, ask, request, requests

pytest.importorskip("jsonschema")


class Pipeline:
    """Says what a function makes of the messages of a chat; keeps what it was asked."""

    def __init__(self, say=lambda messages: json.dumps(GOOD)):
        self.say = say
        self.batches = []

    def tokenizer(self, text):
        return {"input_ids": text.split()}

    def __call__(self, text, **options):
        self.batches.append((text, options))
        return [[{"generated_text": self.say(chat)}] for chat in text]


def model(pipeline, **options):
    made = LocalModel("tiny", **{"batch_size": 3, **options})
    made._pipeline = pipeline
    return made


def test_requests_are_asked_in_batches():
    pipeline = Pipeline()
    answers = ask(model(pipeline), requests(7))
    assert len(answers) == 7 and all(answer.content == GOOD for answer in answers.values())
    assert [len(chats) for chats, _ in pipeline.batches] == [3, 3, 1]
    assert pipeline.batches[0][1]["return_full_text"] is False
    assert answers["0"].usage == {"requests": 1, "input_tokens": 7, "output_tokens": 3, "cost": 0}


def test_the_chat_holds_images_then_text_and_the_schema(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    pipeline = Pipeline()
    ask(model(pipeline), [request("x", (tmp_path / "a.png",))])
    system, user = pipeline.batches[0][0][0]
    assert "minItems" in system["content"][0]["text"]
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert user["content"][0]["image"].size == (8, 8)


def test_a_flawed_answer_is_corrected_once():
    def say(messages):
        key = messages[1]["content"][-1]["text"]
        return json.dumps(GOOD) if "1" in key or (len(messages) > 2 and "2" in key) else "a red ball"

    pipeline = Pipeline(say)
    answers = ask(model(pipeline), requests(5))
    assert {key: answer.failure for key, answer in answers.items()} == {
        "0": "not JSON",
        "1": "",
        "2": "",
        "3": "not JSON",
        "4": "not JSON",
    }
    assert answers["0"].usage["requests"] == 2
    assert max(len(chats) for chats, _ in pipeline.batches) == 3


def test_a_batch_that_fails_is_asked_one_by_one_and_only_what_fails_alone_is_a_failure():
    class Small(Pipeline):
        def __call__(self, text, **options):
            if len(text) > 1:
                raise RuntimeError("out of memory")
            if "this is 1." in repr(text):
                raise IndexError("strange image")
            return super().__call__(text, **options)

    answers = ask(model(Small()), requests(4))
    assert [answers[str(number)].failure for number in range(4)] == ["", "model error", "", ""]
    assert "strange image" in answers["1"].detail


@pytest.mark.parametrize("said", ["", " ", None, [], [{"role": "assistant", "content": ""}]])
def test_no_words_are_an_empty_answer(said):
    assert ask(model(Pipeline(lambda messages: said)), requests(1))["0"].failure == "empty"


def test_a_whole_chat_as_result_is_read_from_its_end():
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": json.dumps(GOOD)}]
    assert ask(model(Pipeline(lambda messages: said)), requests(1))["0"].content == GOOD


def test_a_missing_image_is_a_failure(tmp_path):
    answers = ask(model(Pipeline()), [request("x", (tmp_path / "none.png",)), request("y")])
    assert answers["x"].failure == "unreadable image" and answers["y"].content == GOOD


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"\.\[local\]"):
        ask(LocalModel("any"), requests(1))


def test_a_model_that_is_none_is_one_line(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="no model that image-text-to-text can load") as caught:
        ask(LocalModel(str(tmp_path)), requests(1))
    assert "\n" not in str(caught.value)


def test_the_pipeline_of_transformers_is_given_what_it_takes(tmp_path):
    """A LLaVA of random weights, which says nothing of use, but takes images and texts and says something."""
    pytest.importorskip("transformers")
    from tests.helpers.tiny_llava import write_llava

    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    write_llava(tmp_path / "llava")
    local = LocalModel(str(tmp_path / "llava"), batch_size=2, max_tokens=4, device="cpu", corrections=0)
    pipeline = local._loaded()
    generate, seen = pipeline.model.generate, []
    pipeline.model.generate = lambda **given: seen.append(given["pixel_values"].shape[0]) or generate(**given)
    answers = ask(local, [request(key, (tmp_path / "a.png",) * int(key)) for key in "123"])
    assert {answer.failure for answer in answers.values()} <= {"not JSON", "empty"}
    assert all(answer.usage["input_tokens"] > 0 for answer in answers.values())
    assert sum(seen) == 1 + 2 + 3  # images
    assert local.name == "llava"
