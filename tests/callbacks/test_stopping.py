"""A run that is asked to stop saves first, and goes on to what it would have come to."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoints import STOPPED
from callbacks.stopping import TERMINATED, Stopped, sigterm
from data_modules.scenes.writer import write_scenes
from experiments.run import main
from tests.helpers.resuming import SIZE, assert_equal, command, outcome, write_overlay


class Ask(Callback):
    """Writes a file in the middle of a batch."""

    def __init__(self, file: Path, batch: int) -> None:
        self.file, self.batch = file, batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == self.batch:
            self.file.touch()


@pytest.mark.parametrize(("accumulated", "batch"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_a_run_ends_before_the_next_batch_and_goes_on_exactly(
    tmp_path: Path, runs: Path, clip_folder: Path, accumulated: int, batch: int
) -> None:
    write_scenes(tmp_path / "scenes", 0, SIZE, workers=1)
    file = tmp_path / "stop"
    ask = {"class_path": "tests.callbacks.test_stopping.Ask", "init_args": {"file": str(file), "batch": batch}}
    stop = {"class_path": "callbacks.checkpoints.StopWhenAsked", "init_args": {"file": str(file)}}
    overlay = write_overlay(tmp_path / "overlay.yaml", tmp_path / "trace", {}, [ask, stop])
    more = [
        f"--trainer.accumulate_grad_batches={accumulated}",
        "--trainer.max_steps=3",
        f"--trainer.val_check_interval={3 * accumulated}",
    ]
    flags = command(clip_folder, tmp_path / "scenes", overlay, *more)
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == STOPPED
    points = runs / "scenes" / "id1" / "checkpoints"
    assert [path.name for path in points.glob("resume-*.ckpt")] == ["resume-step=2.ckpt"]
    assert (points / "last.ckpt").resolve().name == "resume-step=2.ckpt"
    with pytest.raises(SystemExit):  # still asked
        main(flags)
    assert not (points / "resume-step=3.ckpt").exists()
    file.unlink()
    without = write_overlay(tmp_path / "overlay.yaml", tmp_path / "trace", {})
    assert without == overlay
    main(flags)
    main([*flags, "--name=whole"])
    found, expected = (outcome(runs / name / "id1") for name in ("scenes", "whole"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert_equal(found[0][key], expected[0][key], key)
    assert found[1] == expected[1]


def test_a_child_process_ends_by_the_signal_as_by_default() -> None:
    """A handler in Python would be run only after the work that a process of a pool waits for."""
    with sigterm.listening():
        assert signal.getsignal(signal.SIGTERM) == sigterm.handle
        child = os.fork()
        if child == 0:
            os._exit(7 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert signal.getsignal(signal.SIGTERM) == sigterm.handle
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.code == TERMINATED
        sigterm.begin()  # as if it had not come
