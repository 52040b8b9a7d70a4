"""Start a trial of a sweep: in a SLURM job as a job step on all of its tasks, elsewhere as a process.

python -m experiments.trial python -m experiments.run fit ...
"""

import os
import sys

from contextcir.errors import InputError
from experiments.failures import one_line_errors


def main(command: list[str]) -> None:
    """Become the command; W&B is online, since the sweep waits for the metrics of its trials."""
    if not command:
        raise InputError("name the command to run, e.g. python -m experiments.run fit")
    os.environ["WANDB_MODE"] = os.environ.get("WANDB_MODE") or "online"
    if os.environ.get("SLURM_JOB_ID"):
        tasks, nodes = (_of_slurm(name) for name in ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"))
        command = ["srun", *command, f"--trainer.devices={tasks}", f"--trainer.num_nodes={nodes}"]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise InputError(f"can't be started: {error.strerror}", file=command[0]) from None


def _of_slurm(name: str) -> str:
    if name not in os.environ:
        raise InputError(f"the variable {name} is not set in this SLURM job: give its tasks per node and its nodes")
    return os.environ[name]


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
