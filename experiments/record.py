"""The id of a run, and the record of its settings: ``runs/NAME/ID/config.yaml``."""

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from contextcir.checks import folder_name
from contextcir.errors import InputError, shown
from contextcir.files import one_writer, read_json, write_json, write_text
from experiments.environment import ENVIRONMENT_FILE, environment
from experiments.names import config_files
from experiments.yaml_files import read_yaml

HEADER = """\
# Settings of run {run}
# A new run with them:     python -m experiments.run fit --config {file} [--KEY=VALUE ...]
# To go on with this run:  WANDB_RUN_ID={run} and the command that began it
"""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # not 0 in a process that is not the first
LOCK = ".lock"
_RUN = re.compile(r"# Settings of run (\S+)\n")


def claim_run_id(args: Sequence[str] = ()) -> str:
    """Return the id that all ranks, a requeued job and the W&B run share, choosing one unless the launcher did.

    An evaluation whose arguments name the record of a run belongs to that run.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if job and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    given = os.environ.get("WANDB_RUN_ID") or _recorded_run(args) or job or secrets.token_hex(4)
    try:
        os.environ["WANDB_RUN_ID"] = folder_name(given, "WANDB_RUN_ID")  # no way out of the folder of runs
    except InputError as error:
        raise InputError(f"the run's id, WANDB_RUN_ID: {error.problem}") from None
    return given


def check_folder(name: str, root: str | Path | None) -> None:
    """Check the name of an experiment, and the folder of a run.

    Raises:
        InputError: if the name would lead out of the folder of runs, or the folder can't be one.
    """
    folder_name(name, "name", parts=True)
    setting = "trainer.default_root_dir"
    text = "" if root is None else str(root)
    if not text.isprintable() or any(len(part.encode("utf-8", "replace")) > 255 for part in text.split("/")):
        raise InputError(f"expected the path of a folder, got {shown(text)}", setting=setting)
    above = next((place for place in (Path(text), *Path(text).parents) if os.path.lexists(place)), None)
    if above is not None and not above.is_dir():
        raise InputError("expected a folder, found something else", file=above, setting=setting)


@contextmanager
def own_run(root: str | Path | None) -> Iterator[None]:
    """Be the only process that trains in the folder of a run; of several ranks, the first one is for all of them.

    A job that SLURM has requeued takes over at once: its earlier start has ended, on whichever machine it was.

    Raises:
        InputError: if another process trains there, or nothing can be written.
    """
    if root is None or any(os.environ.get(name) not in (None, "", "0") for name in RANKS):
        yield
        return
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        (Path(root) / LOCK).unlink(missing_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(one_writer(Path(root), "trains", LOCK))
        except InputError as error:
            hint = f"{error.problem} (another WANDB_RUN_ID)"
            raise InputError(hint, file=root) from None
        except OSError as error:
            problem = f"nothing can be written here: {error.strerror}"
            raise InputError(problem, file=root, setting="trainer.default_root_dir") from None
        yield


def _recorded_run(args: Sequence[str]) -> str | None:
    if "fit" in args[:1]:
        return None
    starts = [_RUN.match(file.read_text(encoding="utf-8")) for file in config_files(args)]
    return next((start[1] for start in reversed(starts) if start), None)


def as_template(settings: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return settings in which the folders of this run are those of whichever run reads them."""
    root, name = settings["trainer"].get("default_root_dir"), settings["name"]
    tail = f"/{name}/{run}"
    if not isinstance(root, str) or not root.endswith(tail):
        return dict(settings)  # the folder was chosen by hand

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            group = {"group": "${name}"} if value.get("group") == name else {}
            return {key: moved(inner) for key, inner in {**value, **group}.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        inside = isinstance(value, str) and (value == root or value.startswith(f"{root}/"))
        return f"${{trainer.default_root_dir}}{value[len(root) :]}" if inside else value

    folder = root.removesuffix(tail).replace("\\", "\\\\").replace("'", "\\'")
    trainer = moved(settings["trainer"])
    trainer["default_root_dir"] = f"${{oc.env:CIR_RUNS,'{folder}'}}/${{name}}/${{oc.env:WANDB_RUN_ID}}"
    return {**settings, "trainer": trainer}


class RecordSettings(SaveConfigCallback):
    """Write the settings of a command into the run's folder, and send them to the loggers.

    Those of a fit are ``config.yaml``, which is never overwritten: a fit that goes on with other settings writes
    ``config.2.yaml`` and so on. Those of another command are ``config.COMMAND.yaml``. ``environment.json`` says what
    each command ran on, the last time.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write on rank 0."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # on all ranks: Lightning broadcasts it
        if trainer.is_global_zero and not self.already_saved:
            self._write(folder, TrainerFn(stage).value)  # fit, validate, test or predict
            self._write_environment(folder / ENVIRONMENT_FILE, TrainerFn(stage).value)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the settings to the loggers."""
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)

    def _write_environment(self, file: Path, stage: str) -> None:
        known = read_json(file)
        write_json(file, (known if isinstance(known, dict) else {}) | {stage: environment()}, indent=2)

    def _write(self, folder: Path, stage: str) -> None:
        run = os.environ["WANDB_RUN_ID"]
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        text = yaml.safe_dump(as_template(settings, run), sort_keys=False, allow_unicode=True)
        file = folder / ("config.yaml" if stage == "fit" else f"config.{stage}.yaml")
        number = 1
        while stage == "fit" and file.exists():
            if read_yaml(file) == yaml.safe_load(text):
                return
            number += 1
            file = folder / f"config.{number}.yaml"
        write_text(file, HEADER.format(run=run, file=file) + text)
