"""What `wandb agent` does with a sweep, but for the server: runs trials one after the other, by their command lines.

python -m tests.slurm.agent agent [OPTIONS] FILE

The YAML file holds a sweep's ``command`` and, as a server would hand them out, a list ``trials`` of parameters.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args


def main() -> None:
    """Run as many trials as ``--count`` says."""
    word, *options, file = sys.argv[1:]
    if word != "agent" or "--forward-signals" not in options or os.environ["WANDB_MODE"] != "online":
        raise SystemExit(f"unexpected: {sys.argv[1:]}, WANDB_MODE={os.environ['WANDB_MODE']}")
    sweep = yaml.safe_load(Path(file).read_text())
    for number, parameters in enumerate(sweep["trials"][: int(options[options.index("--count") + 1])]):
        flags = create_sweep_command_args({"args": {name: {"value": value} for name, value in parameters.items()}})
        command: list[str] = []
        for part in create_sweep_command(list(sweep["command"])):
            command += flags["args"] if part == "${args}" else [part]
        print("trial:", *command, flush=True)
        environment = {**os.environ, "WANDB_RUN_ID": f"trial{number}", "WANDB_MODE": "disabled"}
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
