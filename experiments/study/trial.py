"""One run of a study, in a process of its own.

python -m experiments.study.trial FOLDER
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from experiments.study.lock import write_at_once
from experiments.study.runner import RESULT, RUN, TRIAL

PACKAGES = ("torch", "lightning", "open_clip_torch", "torchmetrics", "numpy")
PROJECT = Path(__file__).parents[2]


def run_trial(folder: Path) -> None:
    """Run the subcommands of ``trial.json`` and write ``result.json``."""
    from experiments.run import main  # seconds of imports

    trial = json.loads((folder / TRIAL).read_text())
    run, start = folder / RUN, time.time()
    code = code_digest()  # before training: the files may change meanwhile
    flags = [*trial["flags"], f"--trainer.default_root_dir={run}", f"--name={trial['variant']}"]
    checkpoint: list[str] = []
    for subcommand in trial["subcommands"]:
        trainer = main([subcommand, *flags, *checkpoint]).trainer
        if subcommand == "fit" and trainer.checkpoint_callback is not None:
            checkpoint = [f"--ckpt_path={trainer.checkpoint_callback.best_model_path}"]
        elif subcommand == "fit" and "test" in trial["subcommands"]:
            raise ValueError(
                "a study's run has to keep a checkpoint for its test: add ModelCheckpoint to the callbacks"
            )
    if "test" not in trial["subcommands"]:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)  # of tuning, only figures are wanted
    result = {
        **trial,
        "metrics": json.loads((run / "metrics.json").read_text()),
        "seconds": round(time.time() - start, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "code": code,
    }
    write_at_once(folder / RESULT, json.dumps(result, indent=2) + "\n")


def machine() -> str:
    """Return the processor's name and cores, and the accelerator's where there is one."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {os.cpu_count()} cores{accelerator}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of what computes."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def commit() -> str | None:
    """Return the commit of the project's tree, marked where files differ from it; None outside of a repository."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=12", "--dirty=-changed", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def code_digest() -> str:
    """Return a digest of all Python files that a run can use: the same commit may be changed, and changed again."""
    digest = hashlib.sha256()
    for package in ("callbacks", "contextcir", "data_modules", "experiments"):
        for file in sorted((PROJECT / package).rglob("*.py")):
            digest.update(f"{file.relative_to(PROJECT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def end_with_the_runner() -> None:
    """End this process when its standard input does: the one that started it holds the other end."""

    def watch() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock would be held when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the trial of the folder that the command line names."""
    end_with_the_runner()
    from experiments.command import one_line_errors

    with one_line_errors():
        run_trial(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
