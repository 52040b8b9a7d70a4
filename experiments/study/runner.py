"""The runs of a study, each in a process and a folder of its own; each is done once, by however many runners.

A folder holds ``trial.json`` (what to run), ``log.txt``, ``run/`` (what experiments.run leaves) and, once all is done,
``result.json``. A run that was interrupted has no result, and goes on from its last point to resume from.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from contextcir import files
from contextcir.checks import positive
from contextcir.errors import InputError
from experiments.study.plan import Trial
from experiments.study.results import RUN_FOLDER, read_result

TRIAL, LOG, RUN, LOCK = "trial.json", "log.txt", RUN_FOLDER, "lock"
ENDED_BY_SIGTERM = (-signal.SIGTERM, 128 + signal.SIGTERM)  # of a process: at once, or after it has saved its state
POLL = 0.2  # seconds between two checks of running trials

Command = Callable[[Path], list[str]]


def trial_command(folder: Path) -> list[str]:
    """Return the command of the process that runs the trial of a folder."""
    return [sys.executable, "-m", "experiments.study.trial", str(folder)]


@dataclass
class Running:
    """A trial in progress."""

    trial: Trial
    process: subprocess.Popen
    start: float


class Runner:
    """Runs trials, some of them at a time.

    Args:
        root: folder of the study.
        jobs: processes at a time.
        threads: CPU threads of each process.
        command: returns the command of the process for a trial's folder.
        report: is given a line on every trial that ends.
        seconds: after this time, counted from here, no trial is begun, and those in progress are asked to end: they
            keep what they have done. None for no limit.

    Attributes:
        failed: last line of the log by trial, for those that failed; they do not keep the others from running.
        out_of_time: whether the time has ended before the trials did.

    Raises:
        InputError: if a number is outside of its range.
    """

    def __init__(
        self,
        root: Path,
        jobs: int = 1,
        threads: int = 1,
        command: Command = trial_command,
        report: Callable[[str], None] = print,
        seconds: float | None = None,
    ) -> None:
        for setting, value in (("jobs", jobs), ("threads", threads)):
            if value < 1:
                raise InputError(f"expected at least 1, got {value}", setting=setting)
        if seconds is not None:
            positive(seconds, "limit_seconds")
        self.out_of_time = False
        self._end_time = math.inf if seconds is None else time.monotonic() + seconds
        self.root, self.jobs, self.threads, self.command, self.report = root, jobs, threads, command, report
        self.failed: dict[str, str] = {}
        self._running: list[Running] = []
        self._leases: dict[str, SoftFileLease] = {}

    def run(self, trials: Sequence[Trial]) -> None:
        """Run what is not done; wait for trials that other runners have begun, and take over those of dead runners."""
        waiting = [trial for trial in trials if read_result(trial, self.root) is None]
        total, start = len(trials), time.time()
        self._done = 0
        try:
            while waiting or self._running:
                if time.monotonic() >= self._end_time and not self.out_of_time:
                    self.out_of_time = True
                    for running in self._running:
                        running.process.terminate()
                if self.out_of_time and not self._running:
                    break
                for trial in [] if self.out_of_time else list(waiting):
                    if len(self._running) == self.jobs:
                        break
                    if read_result(trial, self.root) is not None or self._start(trial):
                        waiting.remove(trial)
                time.sleep(POLL)
                for running in [running for running in self._running if running.process.poll() is not None]:
                    self._finish(running)
                    self._report(running, len(waiting) + len(self._running), total, start)
        finally:
            for running in list(self._running):  # interrupted
                running.process.kill()
                running.process.wait()
                self._end(running)

    def _start(self, trial: Trial) -> bool:
        """Start a trial; return False if another runner has it."""
        folder = self.root / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        # One object for all attempts: it measures for how long it has seen no heartbeat of the owner.
        lease = self._leases.setdefault(trial.name, SoftFileLease(folder / LOCK, lease_duration=files.LEASE))
        try:
            lease.acquire(timeout=0)
        except Timeout:
            return False
        if read_result(trial, self.root) is not None:  # another runner has finished it since
            lease.release()
            return True
        files.write_json(folder / TRIAL, asdict(trial) | {"threads": self.threads}, indent=2)
        with open(folder / LOG, "wb") as log:
            # The trial reads its standard input, and ends when that is closed: it does not outlive this process.
            process = subprocess.Popen(  # noqa: S603  (this project's own modules, no shell)
                self.command(folder),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=trial_environment(os.environ, self.threads),
            )
        self._running.append(Running(trial, process, time.time()))
        return True

    def _finish(self, running: Running) -> None:
        self._end(running)
        name = running.trial.name
        if self.out_of_time and running.process.returncode in ENDED_BY_SIGTERM:
            return
        if running.process.returncode or read_result(running.trial, self.root) is None:
            lines = (self.root / name / LOG).read_text(errors="replace").strip().splitlines()
            self.failed[name] = lines[-1] if lines else f"exit status {running.process.returncode}, and an empty log"
        else:
            self._done += 1

    def _end(self, running: Running) -> None:
        self._running.remove(running)
        running.process.stdin.close()
        self._leases.pop(running.trial.name).release()

    def _report(self, running: Running, left: int, total: int, start: float) -> None:
        name, seconds = running.trial.name, time.time() - running.start
        if name in self.failed:
            self.report(f"{name} FAILED after {seconds:.0f} s: {self.failed[name]} ({self.root / name / LOG})")
            return
        if read_result(running.trial, self.root) is None:
            self.report(f"{name}: interrupted after {seconds:.0f} s")
            return
        rest = (time.time() - start) / max(1, self._done) * left
        self.report(f"[{total - left}/{total}] {name}: {seconds:.0f} s; {left} left, about {rest / 60:.0f} min")


def trial_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """Return the environment of a trial: its threads, no W&B account, and no SLURM variables, which Lightning reads."""
    kept = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    return kept | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "WANDB_MODE": "disabled",
        "WANDB_RUN_ID": "study",
        "PYTHONUNBUFFERED": "1",
    }
