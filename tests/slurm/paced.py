"""Makes a fit slow enough to be interrupted, and notes its steps."""

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Paced(Callback):
    """Writes `START:STEP:TIME` to a file for every step, and waits.

    Args:
        file: where to.
        seconds: to wait.
    """

    def __init__(self, file: Path, seconds: float = 1.0) -> None:
        self.file, self.seconds = file, seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            with open(self.file, "a") as file:
                start = int(os.environ.get("SLURM_RESTART_COUNT", 0)) + 1
                file.write(f"{start}:{trainer.global_step - 1}:{time.time()}\n")
        time.sleep(self.seconds)
