"""Start a trial of a sweep: in a SLURM job as a job step on all of its tasks, elsewhere as a process.

python -m experiments.trial python -m experiments.run fit ...
"""

import os
import sys

from contextcir.errors import InputError, shown
from experiments.failures import one_line_errors


def main(command: list[str]) -> None:
    """Become the command; W&B is online, since the sweep waits for the metrics of its trials."""
    if not command:
        raise InputError("expected a command to start, got none: python -m experiments.trial COMMAND ...")
    os.environ["WANDB_MODE"] = os.environ.get("WANDB_MODE") or "online"
    if os.environ.get("SLURM_JOB_ID"):
        tasks, nodes = _number_of("SLURM_NTASKS_PER_NODE"), _number_of("SLURM_NNODES")
        command = ["srun", *command, f"--trainer.devices={tasks}", f"--trainer.num_nodes={nodes}"]
    try:
        os.execvp(command[0], command)  # noqa: S606  (the user's own command, without a shell)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"can't start {shown(command[0])}: {reason}") from None


def _number_of(variable: str) -> int:
    given = os.environ.get(variable, "")
    if not (given.isascii() and given.isdecimal() and int(given)):
        problem = f"expected a number from 1 on in the environment variable {variable}, got {shown(given)}"
        raise InputError(f"{problem}: set --ntasks-per-node and --nodes in the sbatch file")
    return int(given)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
