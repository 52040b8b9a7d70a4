"""What a training has cost and how it went: steps, seconds of the processor, and the figures of every validation."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from contextcir.evaluation.composition import COMPOSED
from contextcir.files import write_json

RECORD_FILE = "training.json"
WARM_STEPS = 10  # before them, memory is first taken and code first loaded


def processor_seconds() -> float:
    """Return the processor time of this process and its children, those that have ended among them, in seconds."""
    times = os.times()
    living = sum(_seconds_of(child.pid) for child in multiprocessing.active_children())
    return times.user + times.system + times.children_user + times.children_system + living


def _seconds_of(pid: int | None) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended, or this is no Linux
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system


class TrainingRecord(Callback):
    """Write ``training.json`` into the run's folder, after every validation and at the end of training.

    ``steps`` of the optimizer; ``cpu_seconds`` of rank 0 and its children in the training loop, without what comes
    before it and without validations; ``cpu_seconds_per_step`` after the first ten steps of a process; ``validations``:
    for each the ``step``, the ``cpu_seconds`` until then, and ``figures`` of the composed query by split, over all
    queries. All of this is part of checkpoints, so that a resumed run goes on counting.
    """

    def __init__(self) -> None:
        self._seconds = 0.0  # until the last stop of the clock
        self._start: float | None = None  # of the clock, None while it stands
        self._first_step = 0  # of this process
        self._warm = (0, 0.0)  # steps and seconds that count as warm-up
        self._validations: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted."""
        return {"seconds": self._now(), "validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._seconds, self._validations = state_dict["seconds"], state_dict["validations"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._first_step, self._start = trainer.global_step, processor_seconds()
        self._warm = trainer.global_step, self._seconds

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of the first steps."""
        if self._warm[0] < trainer.global_step <= self._first_step + WARM_STEPS:
            self._warm = trainer.global_step, self._now()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._seconds, self._start = self._now(), None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the figures; all ranks take part."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        computed = {metric.protocol.split: metric.compute()[COMPOSED] for metric in pl_module.metrics}
        figures = {
            split: {name: round(of[name].item(), 4) for name in metric.protocol.metric_names()}
            for metric, (split, of) in zip(pl_module.metrics, computed.items(), strict=True)
            if of
        }
        # One that a resumed run does again takes the place of its first try.
        earlier = [entry for entry in self._validations if entry["step"] < trainer.global_step]
        entry = {"step": trainer.global_step, "cpu_seconds": round(self._seconds, 2), "figures": figures}
        self._validations = [*earlier, entry]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the clock."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._start = processor_seconds()
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write."""
        self._write(trainer)

    def _now(self) -> float:
        return self._seconds + (0.0 if self._start is None else processor_seconds() - self._start)

    def _write(self, trainer: Trainer) -> None:
        steps, seconds = trainer.global_step, self._now()
        counted = steps - self._warm[0]
        record = {
            "steps": steps,
            "cpu_seconds": round(seconds, 2),
            "cpu_seconds_per_step": round((seconds - self._warm[1]) / counted, 5) if counted > 0 else None,
            "validations": self._validations,
        }
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / RECORD_FILE, record)
