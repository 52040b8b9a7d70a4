"""Training in jobs: on two tasks, over seeds, and taken back to the queue in the middle."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Jobs

pytestmark = pytest.mark.timeout(600)
PAIR = ("--ntasks-per-node=2",)


@pytest.fixture(scope="module")
def on_two(cluster: Cluster, small_fit: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two tasks."""
    jobs = Jobs(cluster, tmp_path_factory.mktemp("two"))
    job = jobs.submit("fit.sbatch", *small_fit, "--data.batch_size=4", options=PAIR)
    assert "MEMBER: 2/2" in jobs.completed(job)
    return jobs.runs / "scenes" / job


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights at the end of a run."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def metrics(run: Path) -> dict[str, Any]:
    """Figures at the end of a run."""
    return json.loads((run / "metrics.json").read_text())["fit_end"]["val"]["rows"]


def test_one_task_trains_to_what_two_do_and_every_seed_has_a_run_of_its_own(
    jobs: Jobs, small_fit: list[str], on_two: Path
) -> None:
    array = ("--array=0-1",)
    job = jobs.submit("fit.sbatch", *small_fit, "--data.batch_size=8", options=array, WANDB_RUN_ID="of-the-shell")
    log, names = jobs.completed(job, tasks=2), [f"{job}_0", f"{job}_1"]
    runs = jobs.runs / "scenes"
    assert sorted(path.name for path in runs.iterdir()) == names
    assert f"run folder: {jobs.runs}/NAME/{names[1]}" in log and f"log: {jobs.folder}/{names[1]}.log" in log
    first, second, pair = (weights(run) for run in (*(runs / name for name in names), on_two))
    assert metrics(on_two) == metrics(runs / names[0])
    for name, value in first.items():
        torch.testing.assert_close(pair[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_a_job_that_is_taken_back_goes_on_where_it_was(jobs: Jobs, small_fit: list[str], on_two: Path) -> None:
    steps = jobs.folder / "steps"
    paced = ["--trainer.callbacks+=tests.slurm.paced.Paced", f"--trainer.callbacks.init_args.file={steps}"]
    job = jobs.submit("fit.sbatch", *small_fit, "--data.batch_size=4", *paced, options=PAIR)
    jobs.until(lambda: steps.exists() and "1:1:" in steps.read_text(), job)
    jobs.cluster.output("scancel", "--batch", "--signal=USR1", job)
    asked = time.time()
    log = jobs.completed(job)
    assert "back to the queue" in log and f"job {job} on localhost, start 2" in log
    starts, numbers, times = zip(*(line.split(":") for line in steps.read_text().split()), strict=True)
    assert list(numbers) == [str(step) for step in range(6)], "a step was left out, or done twice"
    assert set(starts) == {"1", "2"}
    gap = float(times[starts.index("2")]) - asked
    print(
        f"requeue: {gap:.1f} s from the signal to the end of the next step, {jobs.cluster.hold} s of them SLURM's wait"
    )
    run = jobs.runs / "scenes" / job
    again, expected = weights(run), weights(on_two)
    assert all(torch.equal(value, again[name]) for name, value in expected.items())
    assert metrics(run) == metrics(on_two)


def test_what_is_wrong_with_a_submission_is_told(jobs: Jobs, tmp_path: Path) -> None:
    elsewhere = jobs.submit("fit.sbatch", options=(f"--chdir={tmp_path}",))
    unnamed = [jobs.submit(f"{script}.sbatch") for script in ("agent", "study")]
    assert [jobs.wait(job) for job in (elsewhere, *unnamed)] == [["FAILED"]] * 3
    assert "error: submit from the checkout, or with --chdir=CHECKOUT" in jobs.log(elsewhere)
    assert ["error: name the sweep" in jobs.log(unnamed[0]), "error: name the study" in jobs.log(unnamed[1])] == [
        True
    ] * 2
