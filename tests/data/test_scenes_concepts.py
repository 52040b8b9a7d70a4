"""Training on captions of few edits: which triplets are left, and that what is evaluated stays the same."""

import json
from pathlib import Path

import pytest

from contextcir.errors import InputError
from data_modules import Scenes
from data_modules.scenes.writer import Size, write_scenes
from experiments.run import main
from tests.helpers.scenes_flags import configs, on

SMALL = Size(train_references=3, references=2, shared_references=2)
pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 0, SMALL, workers=1)
    return folder


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 2), (2, 3), (3, 4), (1, 4)])
def test_training_holds_the_triplets_of_as_many_concepts_as_asked_for_and_no_other(
    low: int, high: int, root: Path
) -> None:
    data = Scenes(root, size=SMALL, min_concepts=low, max_concepts=high)
    records = json.loads((root / "captions" / "cap.scenes.train.json").read_text())
    wanted = [record["pairid"] for record in records if low <= record["concepts"] <= high]
    assert [record.id for record in data.read_training().records] == wanted
    assert 0 < len(wanted) <= len(records) and (len(wanted) == len(records)) == ((low, high) == (1, 4))
    everything = Scenes(root, size=SMALL)
    for split in ("val", "test", "circo_val"):
        assert data.read_evaluation(split) == everything.read_evaluation(split)


@pytest.mark.parametrize(("low", "high", "name"), [(1, 5, "max"), (1, 0, "max"), (0, 4, "min"), (3, 2, "min")])
def test_numbers_of_concepts_that_no_caption_has_are_told(low: int, high: int, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"\(data\.{name}_concepts\)"):
        Scenes(tmp_path, min_concepts=low, max_concepts=high)


@pytest.mark.parametrize("draw", [False, True])
def test_too_few_triplets_for_a_batch_are_told_with_the_setting_that_leaves_some_out(
    draw: bool, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new" if draw else root
    flags = [*on(folder), "--data.batch_size=20", f"--data.draw={str(draw).lower()}"]
    with pytest.raises(
        InputError, match=r"of 1 to 2 concepts \(data.max_concepts\)+(?: holds \d+ triplets)?, fewer than a batch of"
    ):
        main(["fit", *configs("base", "scenes", "overlays/compositional"), *flags])
    assert not (tmp_path / "new").exists(), "scenes are drawn that can't be trained on"


def test_the_compositional_overlay_trains(root: Path) -> None:
    few = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.batch_size=4", "--data.num_workers=0"]
    cli = main(["fit", *configs("base", "scenes", "overlays/compositional"), *on(root), *few])
    assert cli.trainer.global_step == 1 and cli.datamodule.reader.max_concepts == 2
