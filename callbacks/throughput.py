"""How many triplets a run trains on in a second, and how much memory that takes."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.progress import Pace, Paced


class TrainingSpeed(Paced):
    """Log ``train_triplets_per_second`` of all ranks, and on a GPU ``train_gpu_memory_gb``, every log_every_n_steps.

    The rate is the average since it was logged last, without evaluations. The memory is the peak of all tensors so far
    on the GPU of rank 0, in units of 10^9 bytes.

    Lightning's ThroughputMonitor measures more, but it waits for the GPU after every batch, assumes batches of equal
    size, mixes evaluation batches of gallery images and of queries, and has names with ``|`` and ``/``, by which W&B
    cannot sort.
    """

    def __init__(self) -> None:
        self.pace = Pace()
        self._logged = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.pace = Pace(window=max(1, trainer.log_every_n_steps) * trainer.accumulate_grad_batches)
        self._logged = trainer.global_step
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; log, if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        step = trainer.global_step
        if step == self._logged or not trainer.log_every_n_steps or step % trainer.log_every_n_steps:
            return  # with accumulated gradients, several batches belong to one step
        self._logged = step
        figures = {"train_triplets_per_second": self.pace.rate or 0.0}
        if pl_module.device.type == "cuda":
            figures["train_gpu_memory_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        pl_module.log_dict(figures)
