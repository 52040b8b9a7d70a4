"""A run that is resumed from any of its checkpoints goes through the same steps, and ends with the same bits."""

import random
import shutil
from pathlib import Path

import pytest

from data_modules.scenes.writer import write_scenes
from experiments.run import main
from tests.helpers.resuming import EPOCHS, SIZE, assert_equal, back_to, command, outcome, read_trace, write_overlay

RESUMED = 2  # checkpoints of each case
EMA = {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}
CASES = {
    "epochs": ([*EPOCHS, "--trainer.max_epochs=2"], []),
    "steps_and_validations_inside_epochs": (["--trainer.max_steps=14", "--trainer.val_check_interval=4"], []),
    "accumulation": ([*EPOCHS, "--trainer.max_epochs=2", "--trainer.accumulate_grad_batches=4"], []),
    "two_validations_in_an_epoch": ([*EPOCHS, "--trainer.max_epochs=2", "--trainer.val_check_interval=0.5"], []),
    "averaged_weights": (["--trainer.max_steps=9", "--trainer.val_check_interval=4"], [EMA]),
    "two_ranks": (
        [
            *EPOCHS,
            "--trainer.max_epochs=2",
            "--trainer.strategy=ddp_fork",
            "--trainer.devices=2",
            "--data.batch_size=4",
        ],
        [],
    ),
    "augmentation_in_workers": (
        [
            *EPOCHS,
            "--trainer.max_epochs=2",
            "--data.num_workers=2",
            "--data.preprocess=tests.helpers.resuming.random_crop",
        ],
        [],
    ),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_checkpoint_leads_to_the_same_end(
    case: str, clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path
) -> None:
    flags, extra = CASES[case]
    trace, folder, aside = tmp_path / "trace.jsonl", runs / "scenes" / "id1", tmp_path / "aside"
    overlay = write_overlay(tmp_path / "overlay.yaml", trace, {"every_n_train_steps": 1, "keep": 100}, extra)
    args = command(clip_folder, scenes, overlay, *flags)
    main(args)
    whole, expected = read_trace(trace), outcome(folder)
    shutil.move(folder, aside)
    folder.mkdir()
    points = sorted(int(file.stem.partition("=")[2]) for file in (aside / "checkpoints").glob("resume-step=*"))
    assert len(points) >= 4
    for step in random.Random(case).sample(points[:-1], min(RESUMED, len(points) - 1)):
        trace.unlink()
        back_to(folder, aside, step)
        main(args)
        batches = [index for index, entry in enumerate(whole) if entry[0] == "batch"]
        reached = next(place for place, index in enumerate(batches) if whole[index][2] == step)
        first = batches[reached + 1]
        assert read_trace(trace) == whole[first:], step
        found = outcome(folder)
        assert_equal(found, expected, f"from {step}")
