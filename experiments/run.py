"""Train and evaluate.

python -m experiments.run {fit,validate,test,predict} --config NAME [--config NAME ...] [--key=value ...]
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experiments.lean  # noqa: F401  before the first import of Lightning: half of the start-up time

# isort: split
import torch
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from callbacks.progress import show_progress
from callbacks.scoring import ScoringCheck
from callbacks.stopping import StopOnSigterm, Stopped, keep_first_error, sigterm, words
from contextcir.encoders.pretrained import weights_postponed
from contextcir.training.module import ContextCIR
from experiments.arguments import OneLineErrors
from experiments.failures import keep_tracebacks_in, one_line_errors
from experiments.help import answer_help
from experiments.names import resolve
from experiments.record import RecordSettings, check_folder, claim_run_id, own_run
from experiments.start import (
    check_checkpoint,
    checkpoint_of_fit,
    fast_precision,
    fit_callbacks,
    follow_command,
    go_offline_if_unreachable,
    named_checkpoint,
    quiet,
    quiet_loggers,
    stay_offline,
)
from experiments.trainer_settings import check_run

# Interpolations are resolved once, after all files and flags are merged.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
OmegaConf.register_resolver("fast_precision", fast_precision, replace=True)

OPTIONS: dict[str, Any] = {
    "subclass_mode_data": True,
    "parser_kwargs": {"parser_mode": "omegaconf+"},
    "auto_configure_optimizers": False,
    "seed_everything_default": 0,
}


def own_folder(trainer: Trainer) -> Path | None:
    """Return the folder of a run, None where its settings name none: then Lightning works in the current one."""
    folder = Path(trainer.default_root_dir)
    return None if folder.resolve() == Path.cwd() else folder


class RunParser(OneLineErrors, LightningArgumentParser):
    """The parser of ``experiments.run``."""


class ExperimentCLI(LightningCLI):
    """`LightningCLI` with a name for every experiment, bare names of classes and configs, and errors in one line."""

    def __init__(self, *args: Any, held: contextlib.ExitStack | None = None, **options: Any) -> None:
        self.held = held or contextlib.ExitStack()  # what the command holds until its end
        super().__init__(*args, **{"parser_class": RunParser, **options})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name", type=str, default="debug", help="Name of the experiment: its folder and W&B group."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Answer ``--help`` in a page, or parse, and check what Lightning does not."""
        if hasattr(self, "_subcommand_parsers") and (args is None or isinstance(args, list)):
            answer_help(parser, args)
        super().parse_arguments(parser, args)
        stage = self.config.get("subcommand")
        if stage is not None:
            check_run(self.config[stage], stage)

    def instantiate_classes(self) -> None:
        """Build everything; where a checkpoint may replace the encoders' own weights, these wait until it is known."""
        settings = self.config[self.subcommand] if self.subcommand else self.config
        folder = settings.trainer.default_root_dir
        begun = folder is None or any(Path(folder).glob("*.ckpt")) or any(Path(folder).glob("*/*.ckpt"))
        replaced = settings.get("ckpt_path") is not None or (self.subcommand == "fit" and begun)
        with weights_postponed() if replaced else contextlib.nullcontext():
            super().instantiate_classes()

    def before_instantiate_classes(self) -> None:
        """Check where the run would write, and be the only one that trains there."""
        if self.subcommand is None:  # nothing runs
            return
        settings = self.config[self.subcommand]
        check_folder(settings.name, settings.trainer.default_root_dir)
        if self.subcommand == "fit" and not settings.trainer.fast_dev_run:
            self.held.enter_context(own_run(settings.trainer.default_root_dir))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with the progress bar of `callbacks.progress` in the place of its own."""
        settings = self.config_init[self.subcommand].trainer
        if (
            settings.enable_checkpointing is False
        ):  # Lightning would refuse the callbacks of a config, not leave them out
            listed = settings.callbacks if isinstance(settings.callbacks, list) else []
            settings.callbacks = [callback for callback in listed if not isinstance(callback, Checkpoint)]
        trainer = super().instantiate_trainer(**kwargs)
        keep_tracebacks_in(own_folder(trainer))
        show_progress(trainer)
        quiet_loggers(trainer)
        fit_callbacks(trainer)
        trainer.callbacks[:0] = [StopOnSigterm(), ScoringCheck()]
        keep_first_error(trainer)
        sigterm.trainer = trainer
        return trainer

    def _parse_ckpt_path(self) -> None:
        """Leave the settings of a checkpoint alone: Lightning would let them silently override config and flags."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Choose the checkpoint to begin with, and make sure that it goes with this command's settings."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = named_checkpoint(self.trainer, kwargs.get("ckpt_path"))
        if subcommand == "fit":
            kwargs["ckpt_path"] = checkpoint_of_fit(self.trainer, kwargs.get("ckpt_path"))
        given = kwargs.get("ckpt_path")
        if given is None:
            self.model.backbone.load_weights()
        else:
            differ = check_checkpoint(given, self.model, subcommand)
            if subcommand == "fit":
                follow_command(self.trainer, Path(given), differ)
        return kwargs


class SettingsOnly(ExperimentCLI):
    """Neither parses nor builds nor runs anything: for its parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse nothing."""
        self.config = Namespace(subcommand="fit", fit=Namespace())

    def before_instantiate_classes(self) -> None:
        """Check nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _set_seed(self) -> None:
        """Leave random numbers alone."""


def settings_parser() -> LightningArgumentParser:
    """Return the parser of this command."""
    quiet()
    claim_run_id()  # configs name it
    return SettingsOnly(ContextCIR, LightningDataModule, save_config_callback=None, args=[], **OPTIONS).parser


def main(args: ArgsType = None, callbacks: Sequence[Callback] = ()) -> ExperimentCLI:
    """Parse ``args`` (default: ``sys.argv``) and run the chosen subcommand.

    ``callbacks``: those of the program that calls, besides those of the settings; no record of the run names them.
    """
    keep_tracebacks_in(None)  # the folder of an earlier run in this process
    try:
        with sigterm.listening(), contextlib.ExitStack() as held:
            return _run(args, held, callbacks)
    except Stopped:
        if rank_zero_only.rank == 0:
            print(words(), file=sys.stderr, flush=True)
        raise


def _run(args: ArgsType, held: contextlib.ExitStack, callbacks: Sequence[Callback]) -> ExperimentCLI:
    typed = sys.argv[1:] if args is None else args
    claim_run_id(resolve(typed) if isinstance(typed, list) else ())
    stay_offline()
    quiet()
    go_offline_if_unreachable()
    torch.set_float32_matmul_precision("high")
    return ExperimentCLI(
        ContextCIR,
        LightningDataModule,
        save_config_callback=RecordSettings,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={"callbacks": list(callbacks)},
        args=args,
        held=held,
        **OPTIONS,
    )


if __name__ == "__main__":
    with one_line_errors("by Ctrl-C; the same command goes on from the last point to resume from"):
        main()
