"""Submits the project's batch scripts to a cluster, and waits for what becomes of them."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.paths import PROJECT
from tests.slurm.cluster import Cluster

PATIENCE = 500.0  # seconds
QUIET = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY")


class Jobs:
    """Jobs of one test.

    Args:
        cluster: where they run.
        folder: of their logs, ``NUMBER.log`` and for arrays ``NUMBER_TASK.log``, and of their ``runs``.
        checkout: from where they are submitted.
    """

    def __init__(self, cluster: Cluster, folder: Path, checkout: Path = PROJECT) -> None:
        self.cluster, self.folder, self.checkout = cluster, folder, checkout
        self.runs = folder / "runs"

    def submit(self, script: str, *arguments: str, options: tuple[str, ...] = (), **environment: str) -> str:
        """Submit a script of experiments/slurm; return the job's number."""
        log = "%A_%a" if any(option.startswith("--array") for option in options) else "%j"
        command = ["sbatch", "--parsable", f"--output={self.folder}/{log}.log", *options, f"experiments/slurm/{script}"]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.checkout,
            env={**self.cluster.environment, **QUIET, "CIR_RUNS": str(self.runs), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def states(self, job: str) -> list[str]:
        """Return the state of a job, or of every task of an array."""
        listed = self.cluster.output("scontrol", "--oneliner", "show", "job", job).splitlines()
        return [line.partition("JobState=")[2].split()[0] for line in listed]

    def wait(self, job: str) -> list[str]:
        """Return the states of a job, or of an array's tasks, once it is over."""
        self.until(lambda: all(state in OVER for state in self.states(job)), job)
        return self.states(job)

    def completed(self, job: str, tasks: int = 1) -> str:
        """Wait for a job that has to succeed; return its log, of an array all of them."""
        states = self.wait(job)
        assert states == ["COMPLETED"] * tasks, f"{states}\n{self.log(job)}"
        return self.log(job)

    def log(self, job: str) -> str:
        """Return what a job has printed, or all tasks of an array."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{job}*.log")))

    def until(self, condition: Callable[[], bool], job: str) -> None:
        """Wait for something that a job does."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"{self.states(job)} after {PATIENCE:.0f} s\n{self.log(job)}"
            time.sleep(0.2)
