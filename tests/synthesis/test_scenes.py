"""The describer of scenes: what it says is true, and the whole truth."""

import asyncio
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from contextcir.synthesis.describe import OBJECTS
from contextcir.synthesis.instruct import TEXTS
from contextcir.synthesis.models.base import Answer, Request
from contextcir.synthesis.records import Pair
from data_modules.scenes.describer import SceneDescriber, SceneGraphs, difference
from data_modules.scenes.groups import apply
from data_modules.scenes.writer import image_path
from tests.helpers.scenes_flags import draw


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("scenes") / "scenes")


@pytest.fixture(scope="module")
def records(root: Path) -> list[dict]:
    files = sorted((root / "captions").glob("cap.*.json"))
    return [record for file in files for record in json.loads(file.read_text())]


def answers(root: Path, *requests: Request) -> list[Answer]:
    async def collect() -> list[Answer]:
        return [answer async for answer in SceneDescriber(root).answer(iter(requests))]

    return asyncio.run(collect())


def described(root: Path, path: str) -> list[tuple[str, ...]]:
    (answer,) = answers(root, Request("k", "", "", OBJECTS, context={"stage": "describe", "image": path}))
    Draft202012Validator(OBJECTS).validate(answer.content)
    return [(entry["object"], *entry["descriptors"]) for entry in answer.content["objects"]]


def test_edits_between_two_images_give_what_the_second_one_shows(root: Path, records: list[dict]) -> None:
    graphs = SceneGraphs(root)
    for record in records:
        reference, target = (graphs.find(image_path(record[side])) for side in ("reference", "target_hard"))
        edits = difference(reference, target)
        assert apply(reference, edits).seen_as == target.seen_as
        assert 1 <= len(edits) <= record["concepts"]  # some of what was drawn can be had with fewer


def test_nearly_always_the_edits_are_those_that_were_drawn(root: Path, records: list[dict]) -> None:
    graphs = SceneGraphs(root)
    same = 0
    for record in records:
        edits = difference(graphs.find(record["reference"]), graphs.find(record["target_hard"]))
        same += sorted({edit.kind for edit in edits}) == record["edits"] and len(edits) == record["concepts"]
    assert same >= 0.95 * len(records)


def test_images_of_different_bases_can_be_compared(root: Path, records: list[dict]) -> None:
    graphs = SceneGraphs(root)
    scenes = [graphs.find(name) for name in sorted({record["reference"] for record in records})]
    assert len(scenes) == 11
    for reference in scenes:
        for target in scenes:
            edits = difference(reference, target)
            assert apply(reference, edits).seen_as == target.seen_as
            assert (edits == ()) == (reference is target)


def test_an_object_that_moves_and_changes_is_one_object(root: Path) -> None:
    scene = SceneGraphs(root).find("val-0-0")
    item = scene.objects[0]
    other = next(colour for colour in ("red", "blue") if colour != item.colour)
    changed = scene.change(item.key, colour=other, cell=scene.free_cells[0])
    assert sorted(edit.kind for edit in difference(scene, changed)) == ["move", "recolour"]


def test_a_description_names_every_object_once_with_its_place(root: Path) -> None:
    scene = SceneGraphs(root).find("val-1-3")
    *objects, background = described(root, "img_raw/val/val-1-3.jpg")
    assert background == ("background", scene.background)
    assert [entry[:4] for entry in objects] == [(o.shape, o.size, o.fill, o.colour) for o in scene.objects]
    assert len({entry[4] for entry in objects}) == len(objects)


def test_what_is_alike_has_identical_words(root: Path, records: list[dict]) -> None:
    graphs = SceneGraphs(root)
    for record in records[:20]:
        sides = [record["reference"], record["target_hard"]]
        common = set.intersection(*({(*o.look, o.cell) for o in graphs.find(side).objects} for side in sides))
        shared = set.intersection(*(set(described(root, side)[:-1]) for side in sides))
        assert len(shared) == len(common)


@pytest.mark.parametrize("concepts", [1, 2, None])
def test_texts_ask_for_as_much_as_is_wanted(concepts: int | None, root: Path, records: list[dict]) -> None:
    graphs = SceneGraphs(root)
    for record in records[:20]:
        pair = Pair("k", image_path(record["reference"]), image_path(record["target_hard"]))
        context = {"stage": "instruct", "pair": pair, "plan": [{"concepts": concepts, "style": ""}] * 2}
        first, again = answers(root, *[Request("k", "", "", TEXTS, seed=5, context=context)] * 2)
        Draft202012Validator(TEXTS).validate(first.content)
        differences = len(difference(graphs.find(pair.reference), graphs.find(pair.target)))
        wanted = differences if concepts is None else min(concepts, differences)
        assert [len(text["changes"]) for text in first.content["texts"]] == [wanted] * 2
        assert all(text["caption"] for text in first.content["texts"]) and first == again


def test_images_of_the_splits_with_several_answers_are_known(root: Path) -> None:
    graphs = SceneGraphs(root)
    for path in sorted((root / "circo").rglob("*.jpg")):
        assert len(graphs.find(str(path)).objects) >= 2
    record = json.loads((root / "circo" / "annotations" / "val.json").read_text())[0]
    images = [f"{record[f'{side}_img_id']:012d}.jpg" for side in ("reference", "target")]
    edits = difference(*map(graphs.find, images))
    assert len(edits) == record["concepts"] and any(edit.kind == "add" for edit in edits)


@pytest.mark.parametrize("path", ["dog.jpg", "train-0-999.jpg", "009000000000.jpg"])
def test_an_image_that_is_none_of_the_scenes_is_told(path: str, root: Path) -> None:
    with pytest.raises(ValueError, match="is no image of the scenes"):
        SceneGraphs(root).find(path)


def test_scenes_that_are_not_there_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="experiments.scenes"):
        SceneGraphs(tmp_path).find("val-0-0")
    (tmp_path / "scenes.json").write_text('{"version": 0, "seed": 0}')
    with pytest.raises(ValueError, match="version 0"):
        SceneGraphs(tmp_path).find("val-0-0")
