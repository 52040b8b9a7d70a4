"""What ends a run: it says so in one line, and what it leaves can be gone on from."""

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.multiprocessing import ProcessRaisedException

from callbacks.finite import REPORT
from data_modules.scenes.writer import write_scenes
from experiments.failures import one_line_errors
from experiments.run import main
from tests.helpers.resuming import EPOCHS, SIZE, command, read_trace, write_overlay


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "scenes", 0, SIZE, workers=1)
    return tmp_path / "scenes"


@pytest.fixture
def run(clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that is to fail; returns the last line of what it wrote to standard error."""

    def failing(*flags: str, callback: str | None = None, **points: Any) -> str:
        extra = [{"class_path": f"tests.end_to_end.test_crash_causes.{callback}"}] if callback else []
        overlay = write_overlay(tmp_path / "overlay.yaml", tmp_path / "trace.jsonl", points, extra)
        with pytest.raises(SystemExit), one_line_errors():
            main(command(clip_folder, scenes, overlay, *EPOCHS, "--trainer.max_epochs=2", *flags))
        text = capfd.readouterr().err
        assert "Traceback" not in text
        return text.strip().splitlines()[-1]

    return failing


def saved(runs: Path) -> list[str]:
    return sorted(file.name for file in (runs / "scenes" / "id1" / "checkpoints").iterdir())


class BreakImages(Callback):
    """Truncates all training images in the second epoch; in between, loaders may have read ahead."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 8:
            for file in trainer.datamodule.root.rglob("*.jpg"):
                file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_a_truncated_image_is_named_after_a_checkpoint_was_saved(
    workers: int, run: Any, runs: Path, tmp_path: Path
) -> None:
    message = run(f"--data.num_workers={workers}", callback="BreakImages")
    assert message.startswith("error: image ") and ".jpg is damaged" in message and "record" in message
    taken = [entry for entry in read_trace(tmp_path / "trace.jsonl") if entry[0] == "batch"][-1][2]
    assert taken >= 9
    names = [name for name in saved(runs) if name.startswith("resume")]
    assert f"resume-step={taken}.ckpt" in names  # though none was due
    assert outcome_step(runs) == taken


def outcome_step(runs: Path) -> int:
    file = runs / "scenes" / "id1" / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=True)["global_step"]


class BreakWeights(Callback):
    """Makes a weight NaN before a step, as an overflow would."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 9:
            next(pl_module.fusion.parameters()).data.view(-1)[0] = float("nan")


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(run: Any, runs: Path, tmp_path: Path) -> None:
    message = run(callback="BreakWeights", every_n_train_steps=100)
    assert message.startswith("error: the loss is not finite in epoch 1, batch 3: training records ")
    batch = next(e for e in read_trace(tmp_path / "trace.jsonl") if e[0] == "batch" and e[1] == 1 and e[4] == 3)
    report = json.loads((runs / "scenes" / "id1" / REPORT).read_text())
    assert [entry["record"] for entry in report["batch"]["records"]] == batch[5] and report["batch"]["loss"] == "nan"
    assert report["batch_before"]["batch"] == 2
    first = report["batch"]["records"][0]
    assert f"{first['record']} ({first['caption']!r})" in message and "and 6 more (rank 0; all of them in " in message
    assert outcome_step(runs) == 6  # after the first epoch's validation
    for file in (runs / "scenes" / "id1" / "checkpoints").glob("*.ckpt"):
        assert all(value.isfinite().all() for value in torch.load(file, weights_only=True)["state_dict"].values())


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_not_saved(run: Any, runs: Path) -> None:
    message = run(callback="BreakWeights", every_n_train_steps=1)
    expected = "error: weights are not finite after step 9; the last batch was epoch 1, batch 2: training records "
    assert message.startswith(expected)
    assert outcome_step(runs) == 8
    for file in (runs / "scenes" / "id1" / "checkpoints").glob("*.ckpt"):
        assert all(value.isfinite().all() for value in torch.load(file, weights_only=True)["state_dict"].values())


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_run_with_the_old_checkpoint(
    run: Any, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, places = torch.save, []

    def full(state: Any, file: Any) -> None:
        if state["global_step"] < 8:
            write(state, file)
            return
        places.append(file.name)
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    message = run(every_n_train_steps=4)
    assert "resume-step=10.ckpt: this checkpoint can't be written (No space left on device): " in message and places
    assert saved(runs) == ["epoch=0-step=6.ckpt", "last.ckpt", "resume-step=4.ckpt", "resume-step=6.ckpt"]
    monkeypatch.undo()


class AskToStop(Callback):
    """Sends the signal that comes before a kill, once."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_first(clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    asked = [{"class_path": "tests.end_to_end.test_crash_causes.AskToStop"}]
    flags = [*EPOCHS, "--trainer.max_epochs=2"]
    overlay = write_overlay(tmp_path / "overlay.yaml", trace, {}, asked)
    with pytest.raises(SystemExit):
        main(command(clip_folder, scenes, overlay, *flags))
    assert outcome_step(runs) == 9
    overlay = write_overlay(tmp_path / "overlay.yaml", trace, {})
    main(command(clip_folder, scenes, overlay, *flags))
    assert [entry[2] for entry in read_trace(trace) if entry[0] == "batch"] == list(range(1, 13))


class BreakOneRank(Callback):
    """Makes the loss of one rank NaN, and thereby the weights of all."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 4:
            batch.query.reference.fill_(float("nan"))


@pytest.mark.slow
def test_all_ranks_end_when_the_loss_of_one_is_no_number(
    clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path
) -> None:
    extra = [{"class_path": "tests.end_to_end.test_crash_causes.BreakOneRank"}]
    overlay = write_overlay(tmp_path / "overlay.yaml", tmp_path / "trace.jsonl", {"every_n_train_steps": 2}, extra)
    ranks = ["--trainer.strategy=ddp_fork", "--trainer.devices=2", "--data.batch_size=4"]
    with pytest.raises(ProcessRaisedException, match="the loss is not finite in epoch 0, batch 4: training records"):
        main(command(clip_folder, scenes, overlay, *EPOCHS, "--trainer.max_epochs=2", *ranks))
    assert outcome_step(runs) == 4
