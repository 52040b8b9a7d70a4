"""One run of a study, in a process of its own.

python -m experiments.study.trial FOLDER
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, MissingFileError
from contextcir.files import read_json, write_json
from experiments.environment import code_digest, commit, machine, versions
from experiments.failures import one_line_errors
from experiments.study.results import RESULT
from experiments.study.runner import RUN, TRIAL

PROGRESS = "progress.json"


def run_trial(folder: Path) -> None:
    """Run the subcommands of ``trial.json``, or what an interruption has left of them, and write ``result.json``.

    Raises:
        InputError: if a test has no checkpoint of its training to evaluate.
    """
    from callbacks.training_record import RECORD_FILE
    from experiments.run import main  # seconds of imports

    trial = read_json(folder / TRIAL)
    if trial is None:
        raise MissingFileError(f"no file {folder / TRIAL}: expected the folder of a run of a study")
    run, start = folder / RUN, time.time()
    code = code_digest()  # before training: the files may change meanwhile
    progress = begin(folder, trial, code)
    flags = [*trial["flags"], f"--trainer.default_root_dir={run}", f"--name={trial['variant']}"]
    for subcommand in trial["subcommands"][len(progress["done"]) :]:
        checkpoint = [f"--ckpt_path={progress['checkpoint']}"] if progress["checkpoint"] else []
        try:
            trainer = main([subcommand, *flags, *checkpoint]).trainer
        finally:
            progress["seconds"] += round(time.time() - start, 1)
            start = time.time()
            write_json(folder / PROGRESS, progress)
        if subcommand == "fit" and trainer.checkpoint_callback is not None:
            progress["checkpoint"] = trainer.checkpoint_callback.best_model_path
        elif subcommand == "fit" and "test" in trial["subcommands"]:
            raise InputError(
                "a run of a study has to keep a checkpoint for its test: add ModelCheckpoint to the callbacks",
                setting="trainer.callbacks",
            )
        progress["done"].append(subcommand)
        write_json(folder / PROGRESS, progress)
    shutil.rmtree(run / "resume", ignore_errors=True)
    if "test" not in trial["subcommands"]:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)  # tuning needs the metrics only
    result = {
        **trial,
        "metrics": read_json(run / "metrics.json") or {},
        "training": read_json(run / RECORD_FILE),
        "seconds": progress["seconds"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "code": code,
    }
    write_json(folder / RESULT, result, indent=2)


def begin(folder: Path, trial: Mapping[str, Any], code: str) -> dict[str, Any]:
    """Return how far a run has come; one that other settings or other code have begun starts anew.

    ``done``: its subcommands. ``checkpoint``: what its training has left, None until then. ``seconds`` that it took.
    """
    made_by = {"flags": list(trial["flags"]), "subcommands": list(trial["subcommands"]), "code": code}
    found = read_json(folder / PROGRESS)
    if isinstance(found, dict) and made_by.items() <= found.items():
        return found
    shutil.rmtree(folder / RUN, ignore_errors=True)
    progress = {**made_by, "done": [], "checkpoint": None, "seconds": 0.0}
    write_json(folder / PROGRESS, progress)
    return progress


def exit_with_runner() -> None:
    """End this process when its standard input is closed: the runner that started it holds the other end."""

    def watch() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock would be held when the interpreter exits
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the trial of the folder that the command line names."""
    with one_line_errors():
        if len(sys.argv) != 2:
            raise InputError("expected one argument, the folder of the run")
        exit_with_runner()
        run_trial(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
