"""Ceilings of scenes: rows are ranked as any model's, and knowing the target helps."""

import json
from pathlib import Path

import pytest
import torch

from contextcir.errors import InputError
from data_modules.scenes.graph import Scene, SceneObject
from data_modules.scenes.reading import read
from experiments.quality.ceilings import ceilings, concepts_of, ranked, read_split
from experiments.quality.choosers import BOUND, TEXT, UNBOUND, choosers, fitting
from tests.helpers import tiny
from tests.helpers.scenes_flags import draw


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("scenes") / "scenes")


def test_the_target_itself_is_found_and_the_reference_is_not(root: Path) -> None:
    evaluation, scenes = read_split(root, "val")
    assert set(scenes) == set(evaluation.protocol.gallery)
    gallery = torch.eye(len(scenes))
    own = gallery[[targets[0] for targets in evaluation.protocol.targets]]
    other = gallery[list(evaluation.protocol.references)]
    figures = ranked(evaluation, gallery, {"own": own, "other": other})
    assert figures["own"]["recall_at_1"] == figures["own"]["subset_recall_at_1"] == 100
    assert figures["other"]["recall_at_1"] == figures["other"]["subset_recall_at_1"] == 0
    assert concepts_of(figures) == [f"_concepts_{count}" for count in (1, 2, 3, 4)]


def test_a_chooser_that_knows_more_of_the_reference_is_right_more_often(root: Path) -> None:
    evaluation, scenes = read_split(root, "val")
    figures = choosers(evaluation, scenes)
    text, unbound, bound = (figures[name]["subset_recall_at_1"] for name in (TEXT, UNBOUND, BOUND))
    assert 20 <= text <= unbound <= bound <= 100 and text < bound
    by_concepts = [figures[TEXT][f"subset_recall_at_1_concepts_{count}"] for count in (1, 2, 3, 4)]
    assert sum(by_concepts) / 4 == pytest.approx(text)  # equally many queries of each


def test_a_chooser_rules_out_what_the_text_does_not_ask_for() -> None:
    circle = SceneObject(0, "circle", "red", "small", "solid", 0)
    star = SceneObject(1, "star", "blue", "large", "solid", 8)
    reference = Scene((circle, star), "sand")
    members = [
        reference.change(0, colour="green"),  # of another colour than the text asks for: ruled out by the text
        reference.change(0, colour="black").change(1, fill="dotted"),  # by the fills of the reference
        reference.change(0, colour="black", size="large").change(1, size="small"),  # by which object is small
    ]
    counts = fitting(read("make the circle black"), reference, members)
    assert counts == {TEXT: 2, UNBOUND: 1, BOUND: 0}


def test_the_command_prints_a_table_and_writes_every_figure(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"local-dir:{tiny.clip_folder(tmp_path / 'clip')}"
    ceilings(root, model=model, json=tmp_path / "figures.json")
    report = json.loads((tmp_path / "figures.json").read_text())
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 2 + len(report["rows"])
    assert report["queries"] == 8 and "recall_at_1_concepts_3" in report["rows"]["a twin of the target"]
    assert all(row in printed for row in report["rows"])


def test_splits_without_sets_and_folders_without_scenes_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="circo_val have no image sets"):
        ceilings(root, split="circo_val")
    with pytest.raises(InputError):
        ceilings(tmp_path / "nothing")
