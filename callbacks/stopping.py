"""A run that ends on request, at a place from which it goes on exactly: a time limit comes near, or a machine goes."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.checkpoints import ResumePoints

STOPPED = 75  # exit status: come back later (EX_TEMPFAIL of sysexits.h)


class StopWhenAsked(Callback):
    """Save a resume point and end the run with exit status 75, between two batches, once a file exists.

    A file, because a signal would come at another place on every rank, in the middle of whatever Python does there,
    and SLURM may send it to all children too: W&B's service and the processes of the loaders die of it. Rank 0 looks
    before every batch; the ranks agree by one small message, as Lightning's own about SIGTERM.

    Args:
        file: on a disk of the machine of rank 0. It is not removed.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look for the file.

        Raises:
            SystemExit: on all ranks, if it is there and no gradients are being accumulated.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        asked = trainer.is_global_zero and self.file.exists()
        if trainer.strategy.reduce_boolean_decision(asked, all=False):
            for callback in trainer.callbacks:
                if isinstance(callback, ResumePoints):
                    callback._save(trainer)
            rank_zero_info(f"stopped after step {trainer.global_step}, as {self.file} asks: the same command continues")
            raise SystemExit(STOPPED)
