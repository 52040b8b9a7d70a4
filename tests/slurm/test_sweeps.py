"""Many runs in jobs: those of a sweep by W&B's agent, and those of a study dealt to an array."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import PROJECT, Jobs

pytestmark = pytest.mark.timeout(600)
NOT_LINKED = (".venv", ".git", "runs", "datasets", "wandb")


@pytest.fixture
def checkout(cluster: Cluster, tmp_path: Path) -> Jobs:
    """Jobs of another checkout, whose environment has the tests' own `wandb`."""
    folder = tmp_path / "a checkout"
    bin = folder / ".venv" / "bin"
    bin.mkdir(parents=True)
    for path in PROJECT.iterdir():
        if path.name not in NOT_LINKED:
            (folder / path.name).symlink_to(path)
    for name in ("pyvenv.cfg", "lib", "bin/python"):
        (bin.parent / name).symlink_to(PROJECT / ".venv" / name)
    (bin / "wandb").write_text('#!/bin/sh\nexec python -m tests.slurm.agent "$@"\n')
    (bin / "wandb").chmod(0o755)
    return Jobs(cluster, tmp_path, folder)


def test_an_agent_runs_a_trial_on_all_tasks_of_its_job(checkout: Jobs, small_fit: list[str], tmp_path: Path) -> None:
    few = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=4", "--trainer.devices=2"]
    command = ["srun", "python", "-m", "experiments.run", "fit", *small_fit, *few, "--name=tried", "${args}"]
    trials = [{"model.concept.weight": 0.3, "trainer.gradient_clip_val": "null"}, {"model.concept.weight": 0.02}]
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump({"command": command, "trials": trials}))
    options = ("--ntasks-per-node=2",)
    job = checkout.submit("agent.sbatch", str(sweep), options=options, WANDB_RUN_ID="shell", WANDB_MODE="online")
    log = checkout.completed(job)
    assert log.count("trial: srun python") == 1 and "MEMBER: 2/2" in log
    assert [path.name for path in (checkout.runs / "tried").iterdir()] == ["trial0"]
    config = yaml.safe_load((checkout.runs / "tried" / "trial0" / "config.yaml").read_text())
    assert config["model"]["concept"]["init_args"]["weight"] == 0.3
    assert config["trainer"]["gradient_clip_val"] is None


def test_an_array_deals_out_a_study(checkout: Jobs, small_fit: list[str], tmp_path: Path) -> None:
    configs = [flag.removeprefix("--config=") for flag in small_fit if flag.startswith("--config=")]
    study = {
        "title": "Two runs",
        "configs": configs,
        "overrides": {"trainer.max_steps": 1, "trainer.val_check_interval": 1, "data.batch_size": 8},
        "variants": {"none": {"model.concept": None}, "a": {}},
        "seeds": [1],
        "metrics": {"val": {"R@1": "val.composed.recall_at_1"}},
    }
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(study))
    flags = [flag for flag in small_fit if not flag.startswith("--config=")]
    out = tmp_path / "study"
    job = checkout.submit("study.sbatch", str(file), f"--out={out}", *flags, options=("--array=4-6:2",))
    checkout.completed(job, tasks=2)
    done = [set(re.findall(r"\] study/(\w+)/seed-1: ", checkout.log(f"{job}_{task}"))) for task in (4, 6)]
    assert done in ([{"a"}, {"none"}], [{"none"}, {"a"}]), "every task does one of the two runs"
    for name in ("none", "a"):
        assert json.loads((out / "study" / name / "seed-1" / "result.json").read_text())["metrics"]["fit_end"]
