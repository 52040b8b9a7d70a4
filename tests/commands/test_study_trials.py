"""Runs of a study: each is done once, by however many runners, and repeated if it was interrupted. None trains here."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from contextcir import files
from contextcir.errors import InputError
from contextcir.files import write_json
from experiments.study.plan import Trial
from experiments.study.results import RESULT, read_result
from experiments.study.runner import LOCK, LOG, RUN, Runner, trial_environment
from experiments.study.trial import PROGRESS, begin
from tests.helpers.paths import PROJECT

# Notes that it began, works for a while, writes its result; ends early where its input does, as real trials do.
WORK = """
import json, os, sys, threading, time
from pathlib import Path
folder = Path(sys.argv[1])
def watch():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
trial = json.loads((folder / "trial.json").read_text())
(folder / "run").mkdir(exist_ok=True)
(folder / "run" / str(os.getpid())).touch()
with open(folder.parent / "begun.txt", "a") as file:
    file.write(f"{folder.name} {os.environ['OMP_NUM_THREADS']}\\n")
if "--fail" in trial["flags"]:
    sys.exit("it went wrong")
time.sleep(float(os.environ.get("WORK", 0.05)))
(folder / "part").write_text(json.dumps(trial | {"pid": os.getpid(), "metrics": {}}))
(folder / "part").rename(folder / "result.json")
"""


def command(folder: Path) -> list[str]:
    return [sys.executable, "-c", WORK, str(folder)]


def make_trials(count: int, *flags: str) -> list[Trial]:
    return [Trial(f"study/t{number}", "v", 1, flags, ("fit",)) for number in range(count)]


def begun(root: Path) -> list[str]:
    path = root / "study" / "begun.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_all_trials_are_done_once_however_often_they_are_asked_for(tmp_path: Path) -> None:
    said: list[str] = []
    trials = make_trials(4)
    for _ in range(2):
        Runner(tmp_path, jobs=2, threads=3, command=command, report=said.append).run(trials)
    assert sorted(begun(tmp_path)) == ["t0", "t1", "t2", "t3"]
    assert (tmp_path / "study" / "begun.txt").read_text().count(" 3\n") == 4
    assert len(said) == 4 and said[-1].startswith("[4/4] study/t")
    assert not list(tmp_path.rglob(f"{LOCK}*"))


def work(root: Path, count: int) -> None:
    Runner(root, command=command, report=str).run(make_trials(count))


def test_processes_on_one_folder_share_the_trials_and_all_wait_for_the_last(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(tmp_path, 6)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(begun(tmp_path)) == [f"t{number}" for number in range(6)]


def test_a_killed_runner_takes_its_trial_with_it_and_the_next_one_begins_it_again(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.commands.test_study_trials import *;"
        "Runner(Path(sys.argv[1]), command=command).run(make_trials(1))"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, env={**os.environ, "WORK": "600"}
    )
    run = tmp_path / "study" / "t0" / RUN
    wait_for(lambda: run.exists() and any(run.iterdir()))
    trial_pid = int(next(run.iterdir()).name)
    assert alive(trial_pid)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    wait_for(lambda: not alive(trial_pid))
    assert (tmp_path / "study" / "t0" / LOCK).exists() and not (tmp_path / "study" / "t0" / RESULT).exists()
    work(tmp_path, 1)
    assert begun(tmp_path) == ["t0", "t0"]
    pids = {str(trial_pid), str(json.loads((run.parent / RESULT).read_text())["pid"])}
    assert {path.name for path in run.iterdir()} == pids  # what the first one left is there for the second one
    assert not (tmp_path / "study" / "t0" / LOCK).exists()


def test_a_failing_trial_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    runner = Runner(tmp_path, command=command, report=said.append)
    runner.run([Trial("study/bad", "v", 1, ("--fail",), ("fit",)), *make_trials(2)])
    assert runner.failed == {"study/bad": "it went wrong"}
    assert "study/bad FAILED" in said[0] and str(tmp_path / "study" / "bad" / LOG) in said[0]
    assert begun(tmp_path) == ["bad", "t0", "t1"] and not list(tmp_path.rglob(f"{LOCK}*"))


def test_the_result_of_other_settings_is_not_taken_for_this_trials(tmp_path: Path) -> None:
    work(tmp_path, 1)
    assert read_result(make_trials(1)[0], tmp_path)["metrics"] == {}
    with pytest.raises(ValueError, match=r"other settings \(--x=1\): the study has changed"):
        read_result(make_trials(1, "--x=1")[0], tmp_path)


def test_an_interrupted_runner_leaves_no_lock_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK", "600")
    runner = Runner(tmp_path, command=command)
    run = tmp_path / "study" / "t0" / RUN

    def interrupt(_: float) -> None:
        wait_for(lambda: run.exists() and any(run.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.study.runner.time.sleep", interrupt)
    monkeypatch.setattr(sys.modules[__name__], "wait_for", _wait_without_sleep)
    with pytest.raises(KeyboardInterrupt):
        runner.run(make_trials(1))
    assert not alive(int(next(run.iterdir()).name))
    assert not (tmp_path / "study" / "t0" / LOCK).exists()


def _wait_without_sleep(condition) -> None:
    end = time.time() + 60
    while not condition():
        assert time.time() < end


def test_at_the_end_of_its_time_a_runner_begins_nothing_and_asks_trials_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORK", "600")
    said: list[str] = []
    runner = Runner(tmp_path, command=command, report=said.append, seconds=3.0)
    start = time.time()
    runner.run(make_trials(3))
    assert runner.out_of_time and runner.failed == {} and 3.0 <= time.time() - start < 60
    assert begun(tmp_path) == ["t0"] and len(said) == 1 and "study/t0: interrupted" in said[0]
    assert not list(tmp_path.rglob(f"{LOCK}*"))
    runner.run(make_trials(3))
    assert begun(tmp_path) == ["t0"]
    monkeypatch.setenv("WORK", "0")
    work(tmp_path, 3)
    assert sorted(begun(tmp_path)) == ["t0", "t0", "t1", "t2"]


def test_time_that_is_enough_changes_nothing(tmp_path: Path) -> None:
    runner = Runner(tmp_path, command=command, report=str, seconds=100.0)
    runner.run(make_trials(2))
    assert not runner.out_of_time and sorted(begun(tmp_path)) == ["t0", "t1"]
    with pytest.raises(InputError, match="limit_seconds"):
        Runner(tmp_path, seconds=0.0)


def test_a_run_that_other_settings_or_other_code_began_starts_anew(tmp_path: Path) -> None:
    trial = {"flags": ("--x=1",), "subcommands": ("fit", "test")}
    progress = begin(tmp_path, trial, "abc")
    assert progress["done"] == [] and progress["checkpoint"] is None
    write_json(tmp_path / PROGRESS, progress | {"done": ["fit"], "checkpoint": "last.ckpt"})
    (tmp_path / RUN).mkdir()
    assert begin(tmp_path, trial, "abc")["done"] == ["fit"] and (tmp_path / RUN).exists()
    for other, code in ((trial, "abd"), (trial | {"flags": ("--x=2",)}, "abd")):
        (tmp_path / RUN).mkdir(exist_ok=True)
        assert begin(tmp_path, other, code)["done"] == [] and not (tmp_path / RUN).exists()


@pytest.mark.parametrize(("jobs", "threads", "setting"), [(0, 1, "jobs"), (1, 0, "threads")])
def test_no_jobs_or_threads_are_refused(jobs: int, threads: int, setting: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"expected at least 1, got 0 .{setting}."):
        Runner(tmp_path, jobs, threads)


def test_trials_do_not_see_the_cluster() -> None:
    found = trial_environment({"SLURM_NTASKS": "4", "HOME": "/root", "WANDB_MODE": "online"}, 2)
    assert found["HOME"] == "/root" and found["OMP_NUM_THREADS"] == "2" and found["WANDB_MODE"] == "disabled"
    assert not any(name.startswith("SLURM") for name in found)


def leave_lock(folder: Path, **changes: object) -> Path:
    """Write the lock of another owner: that of this process, with other fields."""
    lock = folder / LOCK
    folder.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(lock, lease_duration=files.LEASE)
    lease.acquire()
    text = lock.read_text()
    lease.release()
    for name, value in changes.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    lock.write_text(text)
    return lock


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": 2**22 + 1},  # there is no such process
        {"start": 5},  # its number was given to another process since
    ],
)
def test_a_trial_of_a_dead_runner_on_this_machine_is_taken_over_at_once(owner: dict, tmp_path: Path) -> None:
    lock = leave_lock(tmp_path / "study" / "t0", **owner)
    start = time.time()
    work(tmp_path, 1)
    assert begun(tmp_path) == ["t0"] and not lock.exists() and time.time() - start < files.LEASE / 2


def test_a_trial_of_this_living_process_is_not_taken_over(tmp_path: Path) -> None:
    lease = SoftFileLease(leave_lock(tmp_path / "study" / "t0", pid=2**22 + 1), lease_duration=files.LEASE)
    lease.acquire(timeout=0)
    other = threading.Thread(target=work, args=(tmp_path, 1))
    other.start()
    time.sleep(0.8)
    assert begun(tmp_path) == []
    lease.release()
    other.join(60)
    assert begun(tmp_path) == ["t0"]


def test_a_runner_on_another_machine_keeps_its_trial_while_it_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LEASE", 1.0)
    lock = leave_lock(tmp_path / "study" / "t0", host="elsewhere")
    other = threading.Thread(target=work, args=(tmp_path, 1))
    other.start()
    for _ in range(10):  # for twice the time of the lease
        time.sleep(0.2)
        os.utime(lock)
        assert begun(tmp_path) == []
    other.join(60)
    assert begun(tmp_path) == ["t0"] and not lock.exists()


def test_a_lock_that_was_only_half_written_is_taken_over(tmp_path: Path) -> None:
    lock = leave_lock(tmp_path / "study" / "t0")
    lock.write_text(lock.read_text()[:20])
    work(tmp_path, 1)
    assert begun(tmp_path) == ["t0"]


def test_only_one_of_many_takes_over(tmp_path: Path) -> None:
    leave_lock(tmp_path / "study" / "t0", pid=2**22 + 1)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(tmp_path, 1)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert begun(tmp_path) == ["t0"] and [process.exitcode for process in processes] == [0] * 8
