"""The runs of a study: each in a process and a folder of its own, done once however often and wherever it is asked for.

A folder holds ``trial.json`` (what is to be done), ``log.txt``, ``run/`` (what experiments.run leaves) and, once all is
done, ``result.json``, which is written at once. A run that was cut has no result, and is repeated from its beginning.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from experiments.study.lock import Lock, write_at_once
from experiments.study.plan import Trial

TRIAL, RESULT, LOG, RUN = "trial.json", "result.json", "log.txt", "run"
POLL = 0.2  # seconds between two looks at running trials

Command = Callable[[Path], list[str]]


def trial_command(folder: Path) -> list[str]:
    """Return the command of the process that runs the trial of a folder."""
    return [sys.executable, "-m", "experiments.study.trial", str(folder)]


def read_result(trial: Trial, root: Path) -> dict[str, Any] | None:
    """Return the result of a trial, None while there is none.

    Raises:
        ValueError: if it is the result of something else: the study was changed since.
    """
    path = root / trial.name / RESULT
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if result["flags"] != list(trial.flags) or result["subcommands"] != list(trial.subcommands):
        changed = sorted(set(result["flags"]) ^ set(trial.flags))
        raise ValueError(
            f"{path} was made with other settings ({', '.join(changed) or 'in another order'}): the study has changed; "
            "choose another --out, or remove that trial's folder"
        )
    return result


@dataclass
class Running:
    """A trial in progress."""

    trial: Trial
    process: subprocess.Popen
    lock: Lock
    log: IO[bytes]
    start: float


class Runner:
    """Runs trials, some at a time.

    Args:
        root: folder of the study.
        jobs: processes at a time.
        threads: of the processor, for each.
        command: of the process, by the trial's folder.
        say: called with a line on every trial that ends.
    """

    def __init__(
        self,
        root: Path,
        jobs: int = 1,
        threads: int = 1,
        command: Command = trial_command,
        say: Callable[[str], None] = print,
    ) -> None:
        if jobs < 1 or threads < 1:
            raise ValueError(f"expected at least one job and one thread, got --jobs {jobs} and --threads {threads}")
        self.root, self.jobs, self.threads, self.command, self.say = root, jobs, threads, command, say
        self.failed: dict[str, str] = {}
        self._running: list[Running] = []

    def run(self, trials: Sequence[Trial]) -> None:
        """Do what is not done; wait for what other processes are doing, and take over what they leave.

        A trial that fails does not keep the others from running: see `failed`, its last line by trial.
        """
        waiting = [trial for trial in trials if read_result(trial, self.root) is None]
        total, begun = len(trials), time.time()
        self._done = 0
        try:
            while waiting or self._running:
                for trial in list(waiting):
                    if len(self._running) == self.jobs:
                        break
                    if read_result(trial, self.root) is not None or self._start(trial):
                        waiting.remove(trial)
                time.sleep(POLL)
                for running in list(self._running):
                    running.lock.keep()
                    if running.process.poll() is not None:
                        self._finish(running)
                        self._report(running, len(waiting) + len(self._running), total, begun)
        finally:
            for running in list(self._running):  # interrupted
                running.process.kill()
                running.process.wait()
                self._end(running)

    def _start(self, trial: Trial) -> bool:
        folder = self.root / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / "lock")
        if not lock.acquire():
            return False
        if read_result(trial, self.root) is not None:  # by another process, in between
            lock.release()
            return True
        shutil.rmtree(folder / RUN, ignore_errors=True)
        write_at_once(folder / TRIAL, json.dumps(asdict(trial) | {"threads": self.threads}, indent=2) + "\n")
        log = open(folder / LOG, "wb")  # noqa: SIM115
        # The trial reads its standard input, and ends where that ends: it does not outlive this process.
        process = subprocess.Popen(
            self.command(folder),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=trial_environment(os.environ, self.threads),
        )
        self._running.append(Running(trial, process, lock, log, time.time()))
        return True

    def _finish(self, running: Running) -> None:
        self._end(running)
        name = running.trial.name
        if running.process.returncode or read_result(running.trial, self.root) is None:
            lines = (self.root / name / LOG).read_text(errors="replace").strip().splitlines()
            self.failed[name] = lines[-1] if lines else f"exit status {running.process.returncode}, without a word"
        else:
            self._done += 1

    def _end(self, running: Running) -> None:
        self._running.remove(running)
        running.process.stdin.close()
        running.log.close()
        running.lock.release()

    def _report(self, running: Running, left: int, total: int, begun: float) -> None:
        name, seconds = running.trial.name, time.time() - running.start
        if name in self.failed:
            self.say(f"{name} FAILED after {seconds:.0f} s: {self.failed[name]} ({self.root / name / LOG})")
            return
        rest = (time.time() - begun) / max(1, self._done) * left
        self.say(f"[{total - left}/{total}] {name}: {seconds:.0f} s; {left} left, about {rest / 60:.0f} min")


def trial_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return the environment of a trial: so many threads, no accounts, and no cluster that Lightning could notice."""
    kept = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "WANDB_MODE": "disabled",
        "WANDB_RUN_ID": "study",
        "PYTHONUNBUFFERED": "1",
    }
