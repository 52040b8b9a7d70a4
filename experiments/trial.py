"""Start a trial of a sweep: in a SLURM job as a job step on all of its tasks, elsewhere as a process.

python -m experiments.trial python -m experiments.run fit ...
"""

import os
import sys


def main(command: list[str]) -> None:
    """Become the command; W&B is online, since the sweep waits for the metrics of its trials."""
    os.environ["WANDB_MODE"] = os.environ.get("WANDB_MODE") or "online"
    if os.environ.get("SLURM_JOB_ID"):
        tasks, nodes = os.environ["SLURM_NTASKS_PER_NODE"], os.environ["SLURM_NNODES"]
        command = ["srun", *command, f"--trainer.devices={tasks}", f"--trainer.num_nodes={nodes}"]
    os.execvp(command[0], command)  # noqa: S606  (the user's own command, without a shell)


if __name__ == "__main__":
    main(sys.argv[1:])
