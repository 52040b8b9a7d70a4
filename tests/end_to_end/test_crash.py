"""Runs that are killed, and started again by the same command, end as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from data_modules.scenes.writer import write_scenes
from experiments.run import main
from tests.helpers.paths import PROJECT
from tests.helpers.resuming import EPOCHS, SIZE, assert_equal, command, outcome, read_trace, write_overlay

KILLS = 10


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


def forked(function: Callable[[], object], log: Path) -> int:
    """Run a function in a process that has imported everything already; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        os.setpgid(0, 0)
        function()
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    """Return the exit status of a process, None if it is still running after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    return None


def kill(pid: int) -> None:
    """End a process, and what it started, as a power cut would."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class SlowValidation(Callback):
    """Says that a validation has begun, and waits for the kill that is to come."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 12 and not self.file.exists():
            self.file.touch()
            time.sleep(60)


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_like_one_that_was_not(
    clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    overlay = write_overlay(tmp_path / "overlay.yaml", trace, {"every_n_train_steps": 2})
    args = command(clip_folder, scenes, overlay, *EPOCHS, "--trainer.max_epochs=4", "--trainer.num_sanity_val_steps=-1")
    folder, log = runs / "scenes" / "id1", tmp_path / "log.txt"
    start = time.monotonic()
    assert wait(forked(lambda: main(args), log), 120) == 0, log.read_text()[-2000:]
    duration = time.monotonic() - start
    expected, whole = outcome(folder), steps_of(trace)
    folder.rename(tmp_path / "uninterrupted")
    trace.unlink()
    moments = random.Random(0)
    killed, begun = 0, []
    while killed < KILLS:
        begun.append(len(read_trace(trace)) if trace.exists() else 0)
        pid = forked(lambda: main(args), log)
        status = wait(pid, moments.uniform(0, 1) * duration)
        if status is None:
            kill(pid)
            killed += 1
        else:  # it had ended before the kill: what it ended with is compared, and it begins anew
            assert status == 0, log.read_text()[-2000:]
            assert_equal(outcome(folder), expected, f"after {killed} kills")
            folder.rename(tmp_path / f"ended {len(begun)}")
    assert wait(forked(lambda: main(args), log), 120) == 0, log.read_text()[-2000:]
    assert_equal(outcome(folder), expected, "at the end")
    taken = steps_of(trace)
    assert len(taken) > len(whole) and {str(step) for step in taken} == {str(step) for step in whole}
    entries = read_trace(trace)
    starts = [entries[place] for place in begun[1:]]
    assert (
        sum(entry[0] == "batch" and entry[3] % 6 > 0 for entry in starts) >= 2
    )  # they went on from within an epoch, not from its beginning


def test_a_validation_that_was_killed_is_done_again_with_the_same_result(
    clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path
) -> None:
    trace, began = tmp_path / "trace.jsonl", tmp_path / "validation began"
    folder, log = runs / "scenes" / "id1", tmp_path / "log.txt"
    slow = {"class_path": "tests.end_to_end.test_crash.SlowValidation", "init_args": {"file": str(began)}}
    overlay = write_overlay(tmp_path / "overlay.yaml", trace, {"every_n_train_steps": 5}, [slow])
    args = command(clip_folder, scenes, overlay, *EPOCHS, "--trainer.max_epochs=2")
    pid = forked(lambda: main(args), log)
    for _ in range(12000):
        if began.exists():
            break
        time.sleep(0.01)
    kill(pid)
    before = len(read_trace(trace))
    assert wait(forked(lambda: main(args), log), 120) == 0, log.read_text()[-2000:]
    resumed, found = read_trace(trace)[before:], outcome(folder)
    folder.rename(tmp_path / "killed")
    trace.unlink()
    main(args)
    whole = read_trace(trace)
    assert_equal(found, outcome(folder))
    assert resumed == whole[-len(resumed) :] and resumed[0][0] == "batch"
    assert [entry for entry in resumed if entry[0] == "validated"] == [whole[-3]]


def steps_of(trace: Path) -> list[list[Any]]:
    return [entry for entry in read_trace(trace) if entry[0] == "batch"]


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_when_it_is_given_again(
    clip_folder: Path, scenes: Path, runs: Path, tmp_path: Path
) -> None:
    trace, log = tmp_path / "trace.jsonl", tmp_path / "log.txt"
    overlay = write_overlay(tmp_path / "overlay.yaml", trace, {"every_n_train_steps": 2})
    args = command(clip_folder, scenes, overlay, *EPOCHS, "--trainer.max_epochs=3")
    line = [sys.executable, "-m", "experiments.run", *args]

    def start() -> subprocess.Popen:
        return subprocess.Popen(line, stdout=log.open("a"), stderr=subprocess.STDOUT, cwd=PROJECT)

    process = start()
    while process.poll() is None and (not trace.exists() or len(steps_of(trace)) < 9):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text()[-2000:]
    before = len(steps_of(trace))
    assert start().wait(120) == 0, log.read_text()[-2000:]
    found, taken = outcome(runs / "scenes" / "id1"), steps_of(trace)[before:]
    assert "resuming this run from" in log.read_text() and taken[0][2] > 6
    (runs / "scenes" / "id1").rename(tmp_path / "killed")
    assert start().wait(120) == 0  # not in this process, which has one thread: sums over more threads round otherwise
    assert_equal(found, outcome(runs / "scenes" / "id1"))
    assert taken == steps_of(trace)[-len(taken) :]
