"""Train and evaluate.

python -m experiments.run {fit,validate,test,predict} --config a.yaml [--config b.yaml] [--key=value]
"""

import os
import secrets
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

# Imported so that configs can name their classes without the module.
import callbacks  # noqa: F401
import data_modules  # noqa: F401
from callbacks.progress import show_progress
from contextcir.training.module import ContextCIR
from experiments.command import one_line_errors
from experiments.help import answer_help
from experiments.start import (
    check_checkpoint,
    checkpoint_of_fit,
    follow_command,
    go_offline_if_unreachable,
    quiet,
    quiet_loggers,
)

# Interpolations are resolved once, after all files and flags are merged.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


def stay_offline() -> None:
    """Keep W&B on this machine, and quiet, unless the user chose a mode: no account is needed."""
    if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
        os.environ.setdefault("WANDB_SILENT", "true")


def claim_run_id() -> str:
    """Return the id that all ranks, a requeued job and the W&B run share, choosing one unless the launcher did."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if job and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.setdefault("WANDB_RUN_ID", job or secrets.token_hex(4))


class SaveAndLogConfig(SaveConfigCallback):
    """Write the resolved config beside the checkpoints, and send it to the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)


class ExperimentCLI(LightningCLI):
    """`LightningCLI` with a name for every experiment."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name", type=str, default="debug", help="Name of the experiment: its folder and W&B group."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Answer ``--help`` in a page, or parse."""
        if hasattr(self, "_subcommand_parsers") and (args is None or isinstance(args, list)):
            answer_help(parser, args)
        super().parse_arguments(parser, args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with the progress bar of `callbacks.progress` in the place of its own."""
        trainer = super().instantiate_trainer(**kwargs)
        show_progress(trainer)
        quiet_loggers(trainer)
        return trainer

    def _parse_ckpt_path(self) -> None:
        """Leave the settings of a checkpoint alone: Lightning would let them silently override config and flags."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Choose the checkpoint to begin with, and make sure that it goes with this command's settings."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "fit":
            kwargs["ckpt_path"] = checkpoint_of_fit(self.trainer, kwargs.get("ckpt_path"))
        file = Path(kwargs.get("ckpt_path") or "")
        if file.is_file():
            differ = check_checkpoint(file, self.model)
            if subcommand == "fit":
                follow_command(self.trainer, file, differ)
        return kwargs


def main(args: ArgsType = None) -> ExperimentCLI:
    """Parse ``args`` (default: ``sys.argv``) and run the chosen subcommand."""
    claim_run_id()
    stay_offline()
    quiet()
    go_offline_if_unreachable()
    torch.set_float32_matmul_precision("high")
    return ExperimentCLI(
        ContextCIR,
        LightningDataModule,
        subclass_mode_data=True,
        parser_kwargs={"parser_mode": "omegaconf+"},
        save_config_callback=SaveAndLogConfig,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        seed_everything_default=0,
        args=args,
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
