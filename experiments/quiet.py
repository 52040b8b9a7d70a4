"""Leaves out what libraries say at the start of every run and nobody can act on."""

import logging
import os
import warnings

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

IGNORED = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning's own use of torch
    r"Precision .* is not supported by the model summary",  # of which we want the counts, not the megabytes
    r"You have overridden `transfer_batch_to_device`",  # which is meant: gradient caching moves images chunk by chunk
    r"LightningCLI's args parameter is intended",  # the demo and studies call the command line from Python
)
LOGS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector")
OUTSIDE_SLURM = r"The `srun` command is available on your system but is not used"


def quiet() -> None:
    """Ignore these warnings, and Lightning's tips."""
    for message in IGNORED if "SLURM_JOB_ID" in os.environ else (*IGNORED, OUTSIDE_SLURM):
        warnings.filterwarnings("ignore", message=message)
    for name in LOGS:
        if matters not in (log := logging.getLogger(name)).filters:
            log.addFilter(matters)


def matters(record: logging.LogRecord) -> bool:
    """Tell whether a record is more than an advertisement, or a default that nobody has to choose."""
    return not str(record.msg).startswith(("💡 Tip", "`weights_only` was not set"))


def quiet_loggers(trainer: Trainer) -> None:
    """Spare W&B an argument that Lightning gives it and that it no longer takes; it warns of that in every run."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("anonymous") is None:
            logger._wandb_init.pop("anonymous", None)
