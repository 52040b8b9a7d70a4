"""SIGTERM at every place of a run: what is done is saved, and the same command goes on to the same end."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.stopping import TERMINATED
from data_modules.scenes.writer import write_scenes
from experiments.run import main
from tests.helpers.resuming import EPOCHS, SIZE, assert_equal, command, outcome, read_trace, write_overlay


class Sends(Callback):
    """Sends SIGTERM to this process (or raises an error) once, at a hook and after so many steps."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def at(self, trainer: Trainer, hook: str) -> None:
        if not self.file.exists():
            return
        wanted = json.loads(self.file.read_text())
        if [hook, trainer.global_step] == wanted[:2]:
            self.file.unlink()
            if wanted[2]:
                raise PermissionError(13, wanted[2])
            os.kill(os.getpid(), signal.SIGTERM)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.at(trainer, "setup")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at(trainer, "on_sanity_check_end")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at(trainer, "on_train_start")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        self.at(trainer, "on_before_backward")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.at(trainer, "on_train_batch_end")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at(trainer, "on_validation_start")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.at(trainer, "on_validation_batch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at(trainer, "on_validation_end")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.at(trainer, "on_save_checkpoint")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at(trainer, "on_train_end")


THREE = [*EPOCHS, "--trainer.max_epochs=2", "--data.batch_size=16"]  # two epochs of three batches
STEPS = ["--trainer.max_steps=5", "--trainer.val_check_interval=5", "--data.batch_size=16"]
STEPS += ["--trainer.check_val_every_n_epoch=null"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


@pytest.fixture
def check(clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs to the end; then again with interruptions; compares. Returns nothing."""

    def compare(flags: list[str], cases: list[tuple[str, int, int | None]], error: str = "") -> None:
        trace, orders = tmp_path / "trace.jsonl", tmp_path / "orders.json"
        sends = {"class_path": "tests.end_to_end.test_sigterm.Sends", "init_args": {"file": str(orders)}}
        overlay = write_overlay(tmp_path / "overlay.yaml", trace, {}, [sends])
        shutil.rmtree(runs, ignore_errors=True)
        args = command(clip_folder, scenes, overlay, *flags)
        main(args)
        whole, expected, folder = read_trace(trace), outcome(runs / "scenes" / "id1"), runs / "scenes" / "id1"
        for hook, step, saved in cases:
            case = f"{hook} after step {step}"
            shutil.rmtree(folder)
            trace.unlink(missing_ok=True)
            orders.write_text(json.dumps([hook, step, error]))
            capfd.readouterr()
            with pytest.raises(PermissionError if error else SystemExit) as ended:
                main(args)
            assert not orders.exists(), case
            last = capfd.readouterr().err.strip().splitlines()[-1:]
            points = [file.name for file in folder.glob("checkpoints/resume-step=*")]
            if not error:
                assert ended.value.code == TERMINATED and last[0].startswith("stopped by SIGTERM"), case
                assert (f"resume-step={saved}.ckpt" if saved else "same command starts again") in last[0], (case, last)
            assert saved is None or f"resume-step={saved}.ckpt" in points, (case, points)
            before = len(read_trace(trace)) if trace.exists() else 0
            main(args)
            assert_equal(outcome(folder)[:2], expected[:2], case)
            again = read_trace(trace)[before:] if trace.exists() else []
            assert again == whole[len(whole) - len(again) :], case

    return compare


@pytest.mark.slow
def test_at_the_first_batch_and_at_the_last_one_of_an_epoch(check: Any) -> None:
    check(THREE, [("on_before_backward", 0, 1), ("on_before_backward", 2, 3)])


@pytest.mark.slow
def test_wherever_it_comes_the_last_finished_step_is_saved(check: Any) -> None:
    cases = [
        ("setup", 0, None),
        ("on_train_start", 0, None),
        ("on_train_batch_end", 1, 1),
        ("on_validation_start", 3, 3),
        ("on_validation_batch_end", 3, 3),
        ("on_validation_end", 3, 3),
        ("on_save_checkpoint", 3, 3),  # while a checkpoint is written
        ("on_before_backward", 5, 6),  # the last batch of all
        ("on_validation_batch_end", 6, 6),
        ("on_train_end", 6, 6),
    ]
    check(THREE, cases)


@pytest.mark.slow
def test_within_the_validation_after_the_last_step(check: Any) -> None:
    check(STEPS, [("on_validation_batch_end", 5, 5), ("on_before_backward", 3, 4)])


@pytest.mark.slow
def test_an_error_at_the_same_places_leaves_a_resume_point(check: Any) -> None:
    cases = [("on_validation_end", 3, 3), ("on_validation_batch_end", 6, 6), ("on_train_end", 6, 6)]
    check(THREE, cases, error="no permission")


@pytest.mark.slow
def test_before_training_there_is_nothing_to_save(check: Any) -> None:
    check([*THREE, "--trainer.num_sanity_val_steps=-1"], [("on_sanity_check_end", 0, None)])
