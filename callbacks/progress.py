"""The progress of a run, its speed and the time left: a bar on a terminal, lines in a log file."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichModelSummary, RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.text import Text

from callbacks.model_size import ModelSize
from contextcir.batch import GalleryBatch, TripletBatch
from contextcir.checks import not_negative


class Pace:
    """A stopwatch for optimizer steps.

    Args:
        window: steps that the rate is taken over, the latest ones.
        now: clock, in seconds.
    """

    def __init__(self, window: int = 50, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._marks: deque[tuple[float, int]] = deque(maxlen=window + 1)  # seconds of training, triplets so far
        self.start(0, math.inf)

    def start(self, step: int, total: float) -> None:
        """Start to train at ``step`` of ``total`` (infinite if unknown)."""
        self.step = step
        self.total = total
        self._first: tuple[float, int] | None = None
        self._pause: float | None = None
        self._paused = 0.0
        self._triplets = 0
        self._marks.clear()
        self._marks.append((self._now(), 0))

    def pause(self) -> None:
        """Stop the clock of the rate, for an evaluation."""
        self._pause = self._now()

    def resume(self) -> None:
        """Start the clock of the rate again."""
        if self._pause is not None:
            self._paused += self._now() - self._pause
            self._pause = None

    def add(self, step: int, triplets: int) -> None:
        """Count a batch of so many triplets, after which ``step`` steps are done (batches may share one)."""
        if step != self.step and self._first is None:
            self._first = (self._now(), step)  # the first step loads, compiles and allocates: it is not typical
        self.step = step
        self._triplets += triplets
        self._marks.append((self._now() - self._paused, self._triplets))

    @property
    def rate(self) -> float | None:
        """Triplets per second of training without pauses; None before the first batch."""
        (begin, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - begin) if end > begin else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step at the average time per step so far, pauses included; None if unknown."""
        if self._first is None or self.step == self._first[1] or math.isinf(self.total):
            return None
        return (self._now() - self._first[0]) / (self.step - self._first[1]) * (self.total - self.step)


def clock(seconds: float | None) -> str:
    """Return seconds as ``1:02:03``, or ``1 day, 2:03:04``."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(max(0, seconds))))


class Paced(Callback):
    """Keep the `Pace` of a run; a base class that comes before others, whose hooks it calls."""

    pace: Pace

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.pace.start(trainer.global_step, trainer.estimated_stepping_batches)
        super().on_train_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the rate."""
        self.pace.pause()
        super().on_validation_start(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the rate again."""
        self.pace.resume()
        super().on_validation_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the triplets of all ranks, which have equally many, as training drops incomplete batches."""
        triplets = len(batch.target) * trainer.world_size if isinstance(batch, TripletBatch) else 0
        self.pace.add(trainer.global_step, triplets)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


LINE_EVERY = 30.0  # seconds
EVALUATIONS = {"validate": "val", "sanity_check": "val"}  # Lightning's names of stages, and a data module's


class RunProgress(Paced, RichProgressBar):
    """Lightning's bar, with the step of the run, triplets per second, and the time left until the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.pace = Pace()

    def configure_columns(self, trainer: Trainer) -> list:
        """Return description, bar, batches, elapsed and left time, speed; while it trains, those of the whole run."""
        description, bar, batches, times, speed = super().configure_columns(trainer)
        return [description, bar, batches, OfRun(self, times, self._left), OfRun(self, speed, self._rate)]

    def get_metrics(self, *args: Any) -> dict[str, int | str | float | dict[str, float]]:
        """Return the losses by short names, without the logger's version number."""
        metrics = super().get_metrics(*args)
        return {name.removeprefix("train_"): value for name, value in metrics.items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}"

    def _left(self) -> str:
        return f"step {self.pace.step}/{self.pace.total:g} • {clock(self.pace.seconds_left)} left"

    def _rate(self) -> str:
        return f"{self.pace.rate or 0:,.0f} triplets/s"


class OfRun(ProgressColumn):
    """A text for the bar of the training, and another column for all other bars."""

    max_refresh = 0.5  # seconds

    def __init__(self, bar: RunProgress, other: ProgressColumn, text: Callable[[], str]) -> None:
        super().__init__()
        self.bar = bar
        self.other = other
        self.text = text

    def render(self, task: Task) -> Text:
        """Return the text of one bar."""
        trains = task.id == self.bar.train_progress_bar_id
        return Text(self.text(), style=self.other.style) if trains else self.other.render(task)


class ProgressLines(Paced, ProgressBar):
    """Print a line now and then, for log files, where a bar appears only when it is complete."""

    def __init__(self, every: float = LINE_EVERY, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.pace = Pace(now=now)
        self.every = not_negative(every, "trainer.callbacks.ProgressLines.every")
        self._now = now
        self._last = float("-inf")
        self._enabled = True

    def enable(self) -> None:
        """Print; Lightning calls this on rank 0."""
        self._enabled = True

    def disable(self) -> None:
        """Print nothing; Lightning calls this on all other ranks."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._last = float("-inf")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line, if one is due, and at the last step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._due() or self.pace.step == self.pace.total:
            metrics = self.get_metrics(trainer, pl_module)
            losses = [
                f"{name.removeprefix('train_')} {value:.4g}" for name, value in metrics.items() if name != "v_num"
            ]
            step = f"epoch {trainer.current_epoch + 1}, step {self.pace.step}/{self.pace.total:g}"
            speed = f"{self.pace.rate or 0:,.0f} triplets/s"
            self._print(", ".join([step, *losses, speed, f"{clock(self.pace.seconds_left)} left"]))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print which batch of which split was encoded, if a line is due."""
        if self._due():
            stage = EVALUATIONS.get(trainer.state.stage.value, trainer.state.stage.value)
            protocol = trainer.datamodule.protocols(stage)[dataloader_idx // 2]  # loaders come in pairs
            what = "gallery" if isinstance(batch, GalleryBatch) else "queries"
            batches = _evaluation_batches(trainer)[dataloader_idx]
            self._print(f"{protocol.benchmark} {protocol.split}, {what}: batch {batch_idx + 1} of {batches:g}")

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def _due(self) -> bool:
        return self._now() >= self._last + self.every

    def _print(self, line: str) -> None:
        self._last = self._now()
        if self._enabled:
            print(line, flush=True)


def _evaluation_batches(trainer: Trainer) -> list[int | float]:
    """Return how many batches each loader of the current evaluation has."""
    if trainer.sanity_checking:
        return trainer.num_sanity_val_batches
    if trainer.testing:
        return trainer.num_test_batches
    return trainer.num_predict_batches if trainer.predicting else trainer.num_val_batches


def show_progress(trainer: Trainer) -> None:
    """Put this project's progress and model table in the place of the trainer's own; those of other classes stay."""
    for place, callback in enumerate(trainer.callbacks):
        if type(callback) is RichProgressBar:
            trainer.callbacks[place] = RunProgress() if sys.stdout.isatty() else ProgressLines()
        elif type(callback) is RichModelSummary:
            trainer.callbacks[place] = ModelSize()
