"""Describe and Instruct: their requests, and the records made of the answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from contextcir.errors import InputError
from contextcir.synthesis.describe import OBJECTS, DescribeReference, DescribeSettings, DescribeTarget
from contextcir.synthesis.instruct import STYLES, TEXTS, Instruct, InstructSettings
from contextcir.synthesis.models.base import Answer
from contextcir.synthesis.pairs import PairFile, PairStage
from contextcir.synthesis.records import Description, Instruction
from contextcir.synthesis.request_stage import Item, ItemFailed, plain, run_requests
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import read_stage
from tests.helpers.synthesis_model import ScriptedModel, write_pairs

IMAGES = Path("photos")
USED = {"input_tokens": 5, "cost": 0.25}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    file = write_pairs(tmp_path / "pairs.json", [("a.jpg", "b.jpg"), ("a.jpg", "c.jpg"), ("d.jpg", "a.jpg")])
    run = Run(tmp_path / "out")
    PairStage(PairFile(file)).run(run)
    return run


def described(run: Run, model: ScriptedModel) -> None:
    for stage in (DescribeReference(IMAGES), DescribeTarget(IMAGES)):
        run_requests(run, stage, model)


def instruction_item(reference: list[str], target: list[str]) -> Item:
    objects = [tuple({"object": name, "descriptors": ["red"]} for name in names) for names in (reference, target)]
    description = Description("k", *objects, {"model": "m", "usage": {"cost": 9}})
    return Item("k", "k", (None, description))


def test_a_reference_is_described_once_however_many_pairs_it_is_in(run: Run) -> None:
    model = ScriptedModel()
    described(run, model)
    asked = [(request.context["stage"], request.images) for request in model.requests]
    assert sorted(asked) == [
        ("describe", (IMAGES / "a.jpg",)),
        ("describe", (IMAGES / "b.jpg",)),
        ("describe", (IMAGES / "c.jpg",)),
        ("describe-reference", (IMAGES / "a.jpg",)),
        ("describe-reference", (IMAGES / "d.jpg",)),
    ]


def test_the_target_is_asked_about_with_what_is_on_the_reference(run: Run) -> None:
    model = ScriptedModel()
    described(run, model)
    request = next(request for request in model.requests if request.images == (IMAGES / "b.jpg",))
    assert "labelled a" in request.user and "labelled b" not in request.user
    assert request.context["reference_objects"][1]["descriptors"] == ["labelled a"]
    found = [Description.from_json(record) for record in read_stage(run.folder, "describe")]
    assert len(found) == 3
    for description in found:
        assert description.reference[0] == description.target[0]  # the table, in identical words
        assert description.provenance["prompt"].startswith("describe_target 1 ")
        assert description.provenance["reference"]["prompt"].startswith("describe_reference 1 ")


def test_pairs_whose_reference_failed_fail_too_and_cost_nothing(run: Run) -> None:
    model = ScriptedModel(failing=("d.jpg",))
    described(run, model)
    failures = list(read_stage(run.folder, "describe-failures"))
    assert [(record["reason"], record["detail"]) for record in failures] == [("reference not described", "d.jpg")]
    assert [record["reason"] for record in read_stage(run.folder, "describe-reference-failures")] == ["refused"]
    assert sum(request.context["stage"] == "describe" for request in model.requests) == 2


def test_the_schemas_say_what_an_answer_is() -> None:
    for schema in (OBJECTS, TEXTS):
        Draft202012Validator.check_schema(schema)
    check = Draft202012Validator(OBJECTS).is_valid
    assert check({"objects": [{"object": "cup", "descriptors": []}]})
    assert not check({"objects": [{"object": "cup"}]}) and not check({"objects": "cup"})
    assert not check({"objects": [{"object": "cup", "descriptors": [], "note": ""}]})
    assert Draft202012Validator(TEXTS).is_valid({"texts": [{"caption": "a", "changes": ["b"]}]})


def test_empty_names_and_repeated_descriptors_are_left_out() -> None:
    stage = DescribeReference(IMAGES, DescribeSettings(objects=2))
    cup = {"object": " a\ncup ", "descriptors": ["red", "", "red", "of  tin\ud800"]}
    content = {"objects": [{"object": " ", "descriptors": []}, cup, cup, cup]}
    (seen,) = stage.records(Item("a", "a", "a"), Answer("a", content, usage=USED))
    assert seen.objects == ({"object": "a cup", "descriptors": ["red", "of tin"]},) * 2
    with pytest.raises(ItemFailed, match="no objects"):
        stage.records(Item("a", "a", "a"), Answer("a", {"objects": []}))


def test_texts_are_asked_for_without_images_and_as_planned(run: Run) -> None:
    model = ScriptedModel()
    described(run, model)
    run_requests(run, Instruct(InstructSettings(captions=(2,), concepts=(1, None))), model)
    requests = [request for request in model.requests if request.context["stage"] == "instruct"]
    assert len(requests) == 3 and not any(request.images for request in requests)
    for request in requests:
        for number, text in enumerate(request.context["plan"], start=1):
            count = "all changes" if text["concepts"] is None else "1 change"
            assert f"{number}. {count}; {text['style']}" in request.user
        assert len(request.context["plan"]) == 2 and "Write 2 texts" in request.user
        assert "labelled" in request.user
    found = [Instruction.from_json(record) for record in read_stage(run.folder, "instruct")]
    assert sorted(text.key for text in found) == sorted(f"{r.key}#{n}" for r in requests for n in range(2))


def test_a_plan_is_drawn_by_the_seed_within_what_is_set() -> None:
    settings = InstructSettings(captions=(1, 4), concepts=(2, None))
    plans = [settings.plan(seed) for seed in range(200)]
    assert plans == [settings.plan(seed) for seed in range(200)]
    assert {len(plan) for plan in plans} == {1, 2, 3, 4}
    assert {text["concepts"] for plan in plans for text in plan} == {2, None}
    assert {text["style"] for plan in plans for text in plan} == set(STYLES)
    assert all(len({text["style"] for text in plan}) == len(plan) for plan in plans)
    assert len(InstructSettings(captions=(3,), styles=("a",)).plan(0)) == 3


def test_texts_stay_whole_and_are_paid_for_once() -> None:
    stage = Instruct(InstructSettings(captions=(3,)))
    texts = [
        {"caption": " Make it 2.5 times  as large. Add e.g. a cup. ", "changes": ["size", " "]},
        {"caption": "", "changes": ["nothing"]},
        {"caption": "add a lid", "changes": []},
        {"caption": "more than was asked for", "changes": []},
    ]
    found = stage.records(instruction_item(["cup"], ["jug"]), Answer("k", {"texts": texts}, usage=USED))
    assert [text.caption for text in found] == ["Make it 2.5 times as large. Add e.g. a cup.", "add a lid"]
    assert [text.key for text in found] == ["k#0", "k#2"] and found[0].edits == ("size",)
    assert [text.provenance["usage"] for text in found] == [USED, {}]
    assert found[0].provenance["description"] == {"model": "m"}
    with pytest.raises(ItemFailed, match="no texts"):
        stage.records(instruction_item(["cup"], ["jug"]), Answer("k", {"texts": texts[1:2]}))


def test_nothing_is_asked_about_images_that_look_the_same() -> None:
    with pytest.raises(ItemFailed, match="no difference"):
        Instruct().request(instruction_item(["cup", "jug"], ["Jug", "cup"]))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (lambda: DescribeSettings(objects=0), "describe.objects"),
        (lambda: InstructSettings(captions=(3, 1)), "instruct.captions"),
        (lambda: InstructSettings(concepts=(0,)), "instruct.concepts"),
        (lambda: InstructSettings(styles=()), "instruct.styles"),
    ],
)
def test_an_error_names_the_setting_that_is_out_of_range(settings: Callable[[], object], name: str) -> None:
    with pytest.raises(InputError) as caught:
        settings()
    assert caught.value.setting == name


@pytest.mark.parametrize(
    ("text", "expected"), [(" a \n b ", "a b"), (None, ""), ("x" * 2001, ""), ("a\x00\u202eb", "ab")]
)
def test_texts_of_models_are_made_plain(text: object, expected: str) -> None:
    assert plain(text) == expected
