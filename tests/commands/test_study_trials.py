"""Runs of a study: each done once, whoever asks for it, and repeated if it was cut. The runs here take no training."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.study.lock import Lock, started, write_at_once
from experiments.study.plan import Trial
from experiments.study.runner import LOG, RESULT, RUN, Runner, read_result, trial_environment

PROJECT = Path(__file__).parents[2]
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
(folder / "run").mkdir()
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


def test_all_trials_are_done_once_however_often_they_are_asked_for(tmp_path: Path) -> None:
    said: list[str] = []
    trials = make_trials(4)
    for _ in range(2):
        Runner(tmp_path, jobs=2, threads=3, command=command, say=said.append).run(trials)
    assert sorted(begun(tmp_path)) == ["t0", "t1", "t2", "t3"]
    assert (tmp_path / "study" / "begun.txt").read_text().count(" 3\n") == 4
    assert len(said) == 4 and said[-1].startswith("[4/4] study/t")
    assert not list(tmp_path.rglob("lock*"))


def work(root: Path, count: int) -> None:
    Runner(root, command=command, say=str).run(make_trials(count))


def test_processes_on_one_folder_share_the_trials_and_all_wait_for_the_last(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(tmp_path, 6)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(begun(tmp_path)) == [f"t{number}" for number in range(6)]


def test_a_killed_runner_takes_its_trial_with_it_and_the_next_one_repeats_it(tmp_path: Path) -> None:
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
    assert started(trial_pid) is not None
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    wait_for(lambda: started(trial_pid) is None)
    assert (tmp_path / "study" / "t0" / "lock").exists() and not (tmp_path / "study" / "t0" / RESULT).exists()
    work(tmp_path, 1)
    assert begun(tmp_path) == ["t0", "t0"]
    assert [path.name for path in run.iterdir()] == [str(json.loads((run.parent / RESULT).read_text())["pid"])]
    assert not (tmp_path / "study" / "t0" / "lock").exists()


def test_a_failing_trial_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    runner = Runner(tmp_path, command=command, say=said.append)
    runner.run([Trial("study/bad", "v", 1, ("--fail",), ("fit",)), *make_trials(2)])
    assert runner.failed == {"study/bad": "it went wrong"}
    assert "study/bad FAILED" in said[0] and str(tmp_path / "study" / "bad" / LOG) in said[0]
    assert begun(tmp_path) == ["bad", "t0", "t1"] and not list(tmp_path.rglob("lock"))


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
    assert started(int(next(run.iterdir()).name)) is None
    assert not (tmp_path / "study" / "t0" / "lock").exists()


def _wait_without_sleep(condition) -> None:
    end = time.time() + 60
    while not condition():
        assert time.time() < end


@pytest.mark.parametrize(("jobs", "threads"), [(0, 1), (1, 0)])
def test_no_jobs_or_threads_are_refused(jobs: int, threads: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--jobs"):
        Runner(tmp_path, jobs, threads)


def test_trials_do_not_see_the_cluster() -> None:
    found = trial_environment({"SLURM_NTASKS": "4", "HOME": "/root", "WANDB_MODE": "online"}, 2)
    assert found["HOME"] == "/root" and found["OMP_NUM_THREADS"] == "2" and found["WANDB_MODE"] == "disabled"
    assert not any(name.startswith("SLURM") for name in found)


def test_a_lock_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    one, two = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert one.acquire() and not two.acquire() and not one.acquire()
    two.release()
    assert (tmp_path / "lock").exists()
    one.release()
    assert two.acquire()


@pytest.mark.parametrize(
    ("owner", "age", "free"),
    [
        ({"host": "here", "pid": 2**22 + 1, "started": "5"}, 0, True),  # there is no such process
        ({"host": "here", "pid": "mine", "started": "5"}, 0, True),  # its number was given to another process since
        ({"host": "elsewhere", "pid": 1, "started": "5"}, 10, False),
        ({"host": "elsewhere", "pid": 1, "started": "5"}, 700, True),
        (None, 10, False),  # just being written
        (None, 700, True),
    ],
)
def test_locks_of_the_dead_are_taken_over(owner: dict | None, age: float, free: bool, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    text = ""
    if owner is not None:
        owner["pid"] = os.getpid() if owner["pid"] == "mine" else owner["pid"]
        owner["host"] = socket.gethostname() if owner["host"] == "here" else owner["host"]
        text = json.dumps(owner)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    lock = Lock(path)
    assert lock.acquire() == free
    assert (json.loads(path.read_text())["pid"] == os.getpid()) if free else (path.read_text() == text)
    assert not (tmp_path / "lock.takeover").exists()


def test_only_one_of_many_takes_over(tmp_path: Path) -> None:
    def compete(number: int, results) -> None:
        results[number] = Lock(tmp_path / "lock").acquire()
        time.sleep(1.0)  # or its lock would be one of the dead

    (tmp_path / "lock").write_text(json.dumps({"host": os.uname().nodename, "pid": 2**22 + 1, "started": "5"}))
    context = multiprocessing.get_context("fork")
    results = context.Array("b", 8)
    processes = [context.Process(target=compete, args=(number, results)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sum(results) <= 1
    assert sum(results) == 1 or Lock(tmp_path / "lock").acquire()


def test_files_are_written_at_once(tmp_path: Path) -> None:
    write_at_once(tmp_path / "a" / "b.txt", "one")
    write_at_once(tmp_path / "a" / "b.txt", "two")
    assert [(path.name, path.read_text()) for path in (tmp_path / "a").iterdir()] == [("b.txt", "two")]
