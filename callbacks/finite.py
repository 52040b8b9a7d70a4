"""A run ends when its loss or weights are not finite, and names the batch; such weights are never saved."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from contextcir.batch import TripletBatch
from contextcir.checks import whole
from contextcir.errors import shown
from contextcir.files import write_json

REPORT = "nonfinite_batch.json"
SHOWN = 2  # records that a message names; the report has all
ADVICE = "The last checkpoint is good: look at these records, or lower model.optimizer.lr or trainer.gradient_clip_val"


class Step(NamedTuple):
    """The loss of a batch, not yet checked, and the records of the batch."""

    epoch: int
    batch_idx: int
    loss: Tensor
    records: Tensor  # (B,)
    captions: list[str]

    def words(self) -> str:
        """Return which batch this is."""
        rows = [
            f"{record} ({shown(text, 40)})" for record, text in zip(self.records.tolist(), self.captions, strict=True)
        ]
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        return f"epoch {self.epoch}, batch {self.batch_idx}: training records {', '.join(rows[:SHOWN])}{more}"

    def entry(self) -> dict[str, Any]:
        """Return all of it for a JSON file."""
        records = [
            {"record": record, "caption": text}
            for record, text in zip(self.records.tolist(), self.captions, strict=True)
        ]
        return {"epoch": self.epoch, "batch": self.batch_idx, "loss": str(self.loss.item()), "records": records}


class StopWhenNotFinite(Callback):
    """End a run whose loss or weights are infinite or NaN, before any such weights are saved.

    Losses stay on their device, and are checked together every ``every_n_batches``, with one transfer, and one small
    message between several ranks. Before every checkpoint the weights are checked too, also with one transfer; if they
    are not finite, the checkpoint is not written, and the one before remains. The error names the first batch whose
    loss was not finite; ``nonfinite_batch.json`` in the run's folder lists its records, and those of the batch before
    it, whose gradient may have overflowed.

    Args:
        every_n_batches: between two checks of the losses.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        self.every_n_batches = whole(every_n_batches, 1, "trainer.callbacks.StopWhenNotFinite.every_n_batches")
        self._steps: list[Step] = []
        self._before: Step | None = None  # the last one that was checked

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without batches of an earlier run."""
        self._steps, self._before = [], None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TripletBatch, batch_idx: int
    ) -> None:
        """Keep the loss, and check all losses since the last check if one is due.

        Raises:
            ValueError: on every rank, if a loss is not finite on any rank.
        """
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None:
            step = (trainer.current_epoch, batch_idx, loss.detach(), batch.query.index, batch.query.captions)
            self._steps.append(Step(*step))
        if (batch_idx + 1) % self.every_n_batches == 0 or batch_idx + 1 == trainer.num_training_batches:
            self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the weights, which are the same on all ranks.

        Raises:
            ValueError: if they are not finite.
        """
        weights = [parameter.detach() for parameter in pl_module.parameters() if parameter.is_floating_point()]
        if not torch.stack([weight.isfinite().all() for weight in weights]).all():
            first = self._first()
            if first is not None:
                cause = f"; first at {self._report(trainer, first)}"
            else:  # it was the gradient of the last batch
                last = self._steps[-1] if self._steps else self._before
                cause = "" if last is None else f"; the last batch was {self._write(trainer, last, None)}"
            raise ValueError(f"weights are not finite after step {trainer.global_step}{cause}. {ADVICE}")

    def _look(self, trainer: Trainer) -> None:
        first = self._first()
        words = None if first is None else self._report(trainer, first)
        if not trainer.strategy.reduce_boolean_decision(words is None, all=True):
            if dist.is_initialized():
                of_ranks: list[str | None] = [None] * dist.get_world_size()
                dist.all_gather_object(of_ranks, words)
                words = next(text for text in of_ranks if text is not None)
            raise ValueError(f"the loss is not finite in {words}. {ADVICE}")
        if self._steps:
            self._steps, self._before = [], self._steps[-1]

    def _first(self) -> int | None:
        """Return the place of the first loss that is not finite."""
        if not self._steps:
            return None
        finite = torch.stack([step.loss.isfinite().all() for step in self._steps]).tolist()
        return None if all(finite) else finite.index(False)

    def _report(self, trainer: Trainer, first: int) -> str:
        return self._write(trainer, self._steps[first], self._steps[first - 1] if first else self._before)

    def _write(self, trainer: Trainer, step: Step, before: Step | None) -> str:
        path = Path(trainer.default_root_dir) / REPORT
        entries = {"batch": step.entry(), "batch_before": None if before is None else before.entry()}
        write_json(path, entries, indent=2)
        return f"{step.words()} (rank {trainer.global_rank}; all of them in {path})"
