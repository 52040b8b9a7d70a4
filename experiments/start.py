"""The start of a run: W&B's mode, what is printed, and the checkpoint that a command begins with."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, LearningRateMonitor
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.checkpoints import newest_checkpoint
from contextcir.errors import InputError, shown
from contextcir.network import unreachable
from contextcir.renamed import current
from contextcir.training.checkpoint_loading import check_resumable, fit_to, read_checkpoint, refuse_misfit
from experiments.command import has_fast_bfloat16

WANDB_URL = "https://api.wandb.ai"
# Warnings that nobody can act on.
IGNORED = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning's own use of torch
    r"Precision .* is not supported by the model summary",  # the summary is read for its counts, not for its megabytes
    r"You have overridden `transfer_batch_to_device`",  # on purpose: gradient caching moves images chunk by chunk
    r"The '\w+' does not have many workers",  # data.num_workers is a choice
    r"LightningCLI's args parameter is intended",  # the demo and studies call the command line from Python
)
LOGS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector")
OUTSIDE_SLURM = r"The `srun` command is available on your system but is not used"


def fast_precision() -> str:
    """Return ``bf16-mixed`` where this machine multiplies bfloat16 matrices fast, else ``32-true``."""
    return "bf16-mixed" if has_fast_bfloat16() else "32-true"


def stay_offline() -> None:
    """Keep W&B on this machine, and quiet, unless the user chose a mode: no account is needed."""
    if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")


def go_offline_if_unreachable(seconds: float = 5.0) -> None:
    """With ``WANDB_MODE=online``, record the run offline, with a warning, if the server does not answer.

    Only the start is checked: during a run, W&B sends in the background and retries by itself.
    """
    if os.environ.get("WANDB_MODE") != "online":
        return
    silent = unreachable([os.environ.get("WANDB_BASE_URL") or WANDB_URL], seconds)
    if silent is not None:
        os.environ["WANDB_MODE"] = "offline"
        url, reason = silent
        rank_zero_warn(f"W&B at {url} can't be reached ({reason}): recording offline; send it later with `wandb sync`")


def quiet() -> None:
    """Ignore the warnings above, and Lightning's tips."""
    for message in IGNORED if "SLURM_JOB_ID" in os.environ else (*IGNORED, OUTSIDE_SLURM):
        warnings.filterwarnings("ignore", message=message)
    for name in LOGS:
        logging.getLogger(name).addFilter(matters)  # once, however often it is added


def matters(record: logging.LogRecord) -> bool:
    """Return whether a record is neither an advertisement nor a note on a default that nobody has to choose."""
    return not str(record.msg).startswith(("💡 Tip", "`weights_only` was not set"))


def quiet_loggers(trainer: Trainer) -> None:
    """Remove an argument that Lightning passes to W&B and W&B no longer takes: it would warn in every run."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous") is None:
            logger._wandb_init.pop("anonymous", None)


def fit_callbacks(trainer: Trainer) -> None:
    """Leave out callbacks that have nothing to do without a logger, and that Lightning would refuse then."""
    if not trainer.loggers:
        idle = (DeviceStatsMonitor, LearningRateMonitor)
        trainer.callbacks[:] = [callback for callback in trainer.callbacks if not isinstance(callback, idle)]


def named_checkpoint(trainer: Trainer, given: str | None) -> str | None:
    """Return the file of a checkpoint that is given by a word: ``last`` is the newest one of this run.

    Raises:
        InputError: for an empty text, for ``last`` where there is none, and for Lightning's other words, which would
            find nothing in a new process, and leave the model with random weights.
    """
    if given is None:
        return None
    word = str(given)
    if word == "last":
        own = newest_checkpoint(trainer)
        if own is not None:
            return str(own)
        problem = f"this run has no last checkpoint, in {trainer.default_root_dir}: give a file"
    elif word in ("best", "hpc") or word.startswith("registry"):
        problem = f"expected a file or the word last, got {shown(word)}"
    elif not word.strip():
        problem = "expected a file, got an empty text"
    else:
        return word
    raise InputError(problem, setting="ckpt_path")


def checkpoint_of_fit(trainer: Trainer, given: str | None) -> str | None:
    """Return the checkpoint that a ``fit`` begins with: the newest one of this run, else the given one.

    So the same command resumes an interrupted run, even if its ``--ckpt_path`` is a checkpoint of another run, from
    which it began. An earlier checkpoint of the run itself takes it back to that step.
    """
    if trainer.fast_dev_run:
        return given
    own = newest_checkpoint(trainer)
    if own is None:
        return given
    if given is not None:
        if own.parent.resolve() in Path(given).resolve().parents:
            return given
        rank_zero_info(f"this run has begun already: not starting from --ckpt_path {given} again")
    rank_zero_info(f"resuming this run from {own} (another WANDB_RUN_ID starts a new one)")
    return str(own)


def check_checkpoint(file: str | Path, model: LightningModule, command: str = "fit") -> dict[str, tuple[Any, Any]]:
    """Return the settings of the model that differ from those that a checkpoint was saved with: (then, now) by name.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if the file is no checkpoint on this machine, damaged, or its weights do not fit the model; for a
            ``fit``, also if it has weights only.
    """
    saved = read_checkpoint(file, mapped=True)
    then = _flat(current(saved.get("hyper_parameters", {}), file)[0])
    now = _flat(dict(model.hparams)) if then else {}
    names = sorted(name for name in {*then, *now} if not name.startswith("_"))
    differ = {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}
    if command == "fit":
        check_resumable(saved, file)
    refuse_misfit(fit_to(model, saved, file), saved, file, _settings(differ) if then else "")
    return differ


class SettingsOfCommand(Callback):
    """Give a resumed optimizer the learning rates, betas and decay of the command, not those it was saved with.

    Its moments and its step are kept. Lightning alone would restore the rates of the checkpoint and ignore the flags.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set rates, betas and decay in every parameter group."""
        fresh = pl_module.configure_optimizers()
        groups, schedule = trainer.optimizers[0].param_groups, trainer.lr_scheduler_configs[0].scheduler
        schedule.base_lrs = fresh["lr_scheduler"]["scheduler"].base_lrs
        rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, wanted, (rate, scale) in zip(groups, fresh["optimizer"].param_groups, rates, strict=True):
            group.update({name: value for name, value in wanted.items() if name != "params"})
            group["lr"] = rate * scale(schedule.last_epoch)


def follow_command(trainer: Trainer, file: Path, differ: Mapping[str, tuple[Any, Any]]) -> None:
    """Warn of settings that differ from those of a checkpoint, and let the optimizer follow the command's."""
    if differ:
        rank_zero_warn(f"going on from {file} with settings of this command: {_settings(differ)}")
    if any(name.partition(".")[0] == "optimizer" for name in differ):
        trainer.callbacks.insert(0, SettingsOfCommand())


def _settings(differ: Mapping[str, tuple[Any, Any]]) -> str:
    if not differ:
        return "the settings of the model are equal, so its code or its backbone's weights differ"
    return ", ".join(f"--model.{name} was {then!r}, is {now!r}" for name, (then, now) in differ.items())


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(settings, Mapping) and settings:
        return {name: value for key in settings for name, value in _flat(settings[key], f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): list(settings) if isinstance(settings, tuple) else settings}
