"""The progress of a run: a bar on a terminal, lines in a log file."""

import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from rich.progress import ProgressColumn, Task
from rich.text import Text

from callbacks.pace import Pace, Paced, clock

LINE_EVERY = 30.0  # seconds


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
        """Return the losses by short names, without the version of a logger."""
        shown = super().get_metrics(*args)
        return {name.removeprefix("train_"): value for name, value in shown.items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}"

    def _left(self) -> str:
        return f"step {self.pace.step}/{self.pace.total:g} • {clock(self.pace.seconds_left)} left"

    def _rate(self) -> str:
        return f"{self.pace.rate or 0:,.0f} triplets/s"


class OfRun(ProgressColumn):
    """A text for the bar of the training, another column for all others."""

    max_refresh = 0.5  # seconds

    def __init__(self, bar: RunProgress, other: ProgressColumn, text: Callable[[], str]) -> None:
        super().__init__()
        self.bar = bar
        self.other = other
        self.text = text

    def render(self, task: Task) -> Text:
        """Return what the column shows for a bar."""
        trains = task.id == self.bar.train_progress_bar_id
        return Text(self.text(), style=self.other.style) if trains else self.other.render(task)


class ProgressLines(Paced, ProgressBar):
    """Prints a line now and then, for logs of jobs, where a bar shows itself only when it is complete."""

    def __init__(self, every: float = LINE_EVERY, now: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.pace = Pace(now=now)
        self.every = every
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
        """Print a line, if it is time to, and at the last step."""
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
        """Print a line, if it is time to."""
        if self._due():
            self._print(f"{trainer.state.stage.value}: batch {batch_idx + 1} of loader {dataloader_idx + 1}")

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def _due(self) -> bool:
        return self._now() >= self._last + self.every

    def _print(self, line: str) -> None:
        self._last = self._now()
        if self._enabled:
            print(line, flush=True)


def show_progress(trainer: Trainer) -> None:
    """Put a bar or lines in the place of the trainer's own bar, if it has one; one from a config stays."""
    for place, callback in enumerate(trainer.callbacks):
        if type(callback) is RichProgressBar:
            trainer.callbacks[place] = RunProgress() if sys.stdout.isatty() else ProgressLines()
