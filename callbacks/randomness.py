"""Random numbers of a step as a function of the seed and the step, so that there is no state of them to restore."""

import hashlib
import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class StepSeeds(Callback):
    """Seed torch, numpy and Python anew before every training batch and every evaluation.

    The seed is made of that of the run (``seed_everything``), the epoch, the batch and the rank. So a resumed run draws
    the same numbers as an uninterrupted one on every rank, without RNG states in the checkpoint, however many numbers
    other code draws. The training data are seeded where they are loaded.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed a training step."""
        _seed(trainer, pl_module, f"epoch {trainer.current_epoch}, batch {batch_idx}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed an evaluation."""
        _seed(trainer, pl_module, f"evaluation after step {trainer.global_step}")

    on_test_start = on_predict_start = on_validation_start


def _seed(trainer: Trainer, module: LightningModule, place: str) -> None:
    words = f"seed {os.environ.get('PL_GLOBAL_SEED', 0)}, {place}, rank {trainer.global_rank}"
    seed = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest())
    if module.device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # a hundred times as fast as also seeding absent devices
    else:
        torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
