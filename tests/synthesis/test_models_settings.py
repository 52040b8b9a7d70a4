"""Models of a synthesis from YAML, without what is not installed, and the benchmark of their speed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from contextcir.synthesis.models.base import Budget, VisionLanguageModel
from contextcir.synthesis.models.batch_files import BatchFiles
from contextcir.synthesis.models.chat import ChatModel
from contextcir.synthesis.models.endpoint import Endpoint
from tests.helpers.asking import endpoint


def from_yaml(text):
    parser = ArgumentParser()
    parser.add_subclass_arguments(VisionLanguageModel, "model")
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # before jsonargparse 4.49
    return instantiate(parser.parse_object(yaml.safe_load(text))).model


def test_an_endpoint_is_set_up_in_yaml():
    made = from_yaml("""
model:
  class_path: contextcir.synthesis.models.endpoint.Endpoint
  init_args:
    url: http://gpu7:8000/v1/
    chat:
      model: Qwen/Qwen3-VL-8B-Instruct
      temperature: null
      prices: {input: 0.1, output: 0.4}
      images: {longest_side: 512}
    pace: {requests_per_minute: 500}
    budget: {cost: 20}
    retries: {attempts: 9}
""")
    assert isinstance(made, Endpoint)
    assert (made.name, made.url, made.chat.images.longest_side) == (
        "Qwen/Qwen3-VL-8B-Instruct",
        "http://gpu7:8000/v1",
        512,
    )
    assert made.account.budget.cost == 20 and made.retries.attempts == 9 and made.key_variable is None


def test_batches_and_local_models_are_set_up_in_yaml(tmp_path):
    made = from_yaml(f"""
model:
  class_path: contextcir.synthesis.models.batch_files.BatchFiles
  init_args: {{folder: {tmp_path}, chat: {{model: gpt, extra: {{reasoning_effort: low}}}}}}
""")
    assert isinstance(made, BatchFiles) and made.chat.extra == {"reasoning_effort": "low"}
    local = "{class_path: contextcir.synthesis.models.local.LocalModel, init_args: {model: some/model}}"
    assert from_yaml(f"model: {local}").name == "some/model"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: ChatModel(""), "a model needs a name"),
        (lambda: ChatModel("m", format="xml"), r"expected one of strict.*\(model.chat.format\)"),
        (lambda: endpoint("http://h/v1", concurrency=0), "concurrency"),
        (lambda: endpoint("http://h/v1", timeout=0), "timeout"),
        (lambda: BatchFiles(ChatModel("m"), Path("x"), requests=50_001), r"from 1 to 50000.*\(model.requests\)"),
        (lambda: BatchFiles(ChatModel("m"), Path("x"), budget=Budget(cost=1)), "needs prices"),
    ],
)
def test_settings_that_make_no_sense_are_errors(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_nothing_of_the_extras_is_imported_before_it_is_used():
    names = ("openai", "httpx2", "jsonschema", "transformers", "torch")
    modules = "models.endpoint, contextcir.synthesis.models.batch_files, contextcir.synthesis.models.local"
    code = f"import sys, contextcir.synthesis.{modules}\nprint([name for name in {names} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "[]"


def test_the_benchmark_measures_what_it_says(tmp_path, capsys):
    pytest.importorskip("openai")
    from experiments.benchmarks.synthesis import synthesis

    synthesis(requests=40, concurrency=4, json=tmp_path / "speed.json")
    found = yaml.safe_load((tmp_path / "speed.json").read_text())
    assert [one["requests"] for one in found] == [40, 40, 40, 20]
    assert all(one["per_second"] > 0 and one["cpu_ms"] > 0 for one in found)
    assert "| one small image | 40 |" in capsys.readouterr().out
