"""How fast a run trains, and how long it still takes."""

import math
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from contextcir.batch import TripletBatch


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
        """Begin to train, at a step of so many (infinite where nobody knows)."""
        self.step = step
        self.total = total
        self._first: tuple[float, int] | None = None
        self._pause: float | None = None
        self._paused = 0.0
        self._triplets = 0
        self._marks.clear()
        self._marks.append((self._now(), 0))

    def pause(self) -> None:
        """Something else begins, such as an evaluation."""
        self._pause = self._now()

    def resume(self) -> None:
        """Training goes on."""
        if self._pause is not None:
            self._paused += self._now() - self._pause
            self._pause = None

    def add(self, step: int, triplets: int) -> None:
        """So many triplets were trained on; so many steps are done (batches may share one)."""
        if step != self.step and self._first is None:
            self._first = (self._now(), step)  # the first step loads, compiles, allocates: it says nothing of others
        self.step = step
        self._triplets += triplets
        self._marks.append((self._now() - self._paused, self._triplets))

    @property
    def rate(self) -> float | None:
        """Triplets per second of training, pauses left out; None before there is any."""
        (begin, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - begin) if end > begin else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step, if the rest takes as long a step as until now, pauses included."""
        if self._first is None or self.step == self._first[1] or math.isinf(self.total):
            return None
        return (self._now() - self._first[0]) / (self.step - self._first[1]) * (self.total - self.step)


def clock(seconds: float | None) -> str:
    """Return seconds as ``1:02:03``, or ``1 day, 2:03:04``."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(max(0, seconds))))


class Paced(Callback):
    """Keeps the `Pace` of a run; comes before other bases, whose hooks it calls."""

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
        """Let it go on."""
        self.pace.resume()
        super().on_validation_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the triplets of all ranks; they have equally many, as training drops the rest."""
        triplets = len(batch.target) * trainer.world_size if isinstance(batch, TripletBatch) else 0
        self.pace.add(trainer.global_step, triplets)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
