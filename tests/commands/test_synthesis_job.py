"""The batch script of a synthesis, without a cluster: what it would run, and what it says of a wrong submission."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

SCRIPT = PROJECT / "experiments" / "slurm" / "synthesize.sbatch"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like the checkout, in which `srun` prints its arguments, one a line."""
    for name in ("bin", ".venv/bin", "experiments"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "experiments" / "slurm").symlink_to(SCRIPT.parent)
    for name, text in (("srun", "printf '%s\\n' \"$@\""), ("scontrol", "true")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/bin/true")
    return tmp_path


def submit(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", **variables}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=30)


def test_the_shell_takes_it() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    options = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert any("--requeue" in line for line in options)


@pytest.mark.parametrize(
    ("listed", "shard"),
    [
        ({}, "0/1"),
        ({"ID": "3", "MIN": "0", "STEP": "1", "COUNT": "8"}, "3/8"),
        ({"ID": "11", "MIN": "5", "STEP": "2", "COUNT": "4"}, "3/4"),
    ],
)
@pytest.mark.parametrize("stage", ["pairs", "describe", "instruct", "filter"])
def test_a_task_does_its_shard(stage: str, listed: dict[str, str], shard: str, checkout: Path) -> None:
    variables = {f"SLURM_ARRAY_TASK_{name}": value for name, value in listed.items()}
    done = submit(checkout, stage, "--config", "my own.yaml", **variables)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-7:]
    expected = [
        "python",
        "-m",
        "experiments.synthesize",
        "--config",
        "my own.yaml",
        f"--stage={stage}",
        f"--shard={shard}",
    ]
    assert command == expected


def test_a_task_may_start_a_server_of_its_own(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "python").unlink()  # says a port, and finds the server at once
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho 4321\n")
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    server = "sh -c 'echo $PORT > port; sleep 60'"
    done = submit(checkout, "describe", "--config", "my own.yaml", SERVER=server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-5:] == [
        "--config",
        "my own.yaml",
        "--model.url=http://localhost:4321/v1",
        "--stage=describe",
        "--shard=0/1",
    ]
    assert "--model.url" not in submit(checkout, "filter", SERVER=server).stdout


def test_a_server_that_ends_at_once_is_told(checkout: Path) -> None:
    script = '#!/bin/sh\ncase "$2" in *urllib*) sleep 0.2; exit 1;; esac\necho 4321\n'
    (checkout / ".venv" / "bin" / "python").unlink()
    (checkout / ".venv" / "bin" / "python").write_text(script)
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    done = submit(checkout, "describe", SERVER="false")
    assert done.returncode == 1 and "error: the server of SERVER ended" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("write",), ("--config", "my.yaml"), ("--stage=filter",)])
def test_a_stage_must_be_named(arguments: tuple[str, ...], checkout: Path) -> None:
    done = submit(checkout, *arguments)
    assert done.returncode == 1 and done.stderr.startswith("error: name the stage before the flags") and not done.stdout


def test_elsewhere_it_says_where_to_be(checkout: Path) -> None:
    (checkout / "experiments" / "slurm").unlink()
    done = submit(checkout, "filter")
    assert done.returncode == 1 and "error: submit from the checkout" in done.stderr
