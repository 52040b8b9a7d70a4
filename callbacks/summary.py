"""The result of a run and the place of its files, printed when it ends."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from callbacks.progress import clock
from callbacks.recall import LOGGED
from callbacks.results import METRICS_FILE, TABLE_FILE
from callbacks.stopping import Stopped

DONE = {"fit": "trained", "validate": "validated", "test": "tested", "predict": "predicted"}
STOPPED_BY = {KeyboardInterrupt: "Ctrl-C", Stopped: "SIGTERM", SystemExit: "request"}


class RunSummary(Callback):
    """Print the best checkpoint with its metrics, and where the files are, at the end of a run.

    This happens after fit, validate, test and predict, and when a fit ends by Ctrl-C or an error after its first step.
    Only rank 0 prints.
    """

    def __init__(self) -> None:
        self._begin = 0.0
        self._latest: dict[str, float] = {}
        self._best: dict[str, Any] = {"path": "", "metrics": {}}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock."""
        self._begin = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the figures of the best checkpoint, before there are new figures."""
        self._note_best(trainer)
        if trainer.state.fn != "fit":
            self._latest = {}  # restored figures belong to the run of the checkpoint

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the figures of the run that a checkpoint comes from."""
        self._latest = {}

    on_predict_start = on_test_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the figures. Checkpoints are saved after this."""
        if not trainer.sanity_checking:
            self._latest = headlines(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the figures."""
        self._latest = headlines(trainer, "test")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print; all files are written by now."""
        self._print(trainer, DONE.get(trainer.state.fn, "done"))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print, if there was a step."""
        if trainer.state.fn == "fit" and trainer.global_step:
            by = STOPPED_BY.get(type(exception), type(exception).__name__)
            self._print(trainer, f"stopped by {by}")

    def state_dict(self) -> dict[str, Any]:
        """Return the figures that a resumed run needs."""
        return {"latest": self._latest, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the figures."""
        self._latest, self._best = state_dict["latest"], state_dict["best"]

    def _note_best(self, trainer: Trainer) -> None:
        chosen = best_checkpoint(trainer)
        if chosen is not None and chosen.best_model_path != self._best["path"]:
            self._best = {"path": chosen.best_model_path, "metrics": self._latest}

    def _print(self, trainer: Trainer, how: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")  # a path that is cut could not be copied
        for name, value in self._rows(trainer):
            table.add_row(name, value)
        folder = Path(trainer.default_root_dir)
        if how.startswith("stopped"):
            claimed = os.environ.get("WANDB_RUN_ID") == folder.name
            table.add_row("to go on", f"{f'WANDB_RUN_ID={folder.name} and ' if claimed else ''}the same command")
        title = f"{folder.parent.name}/{folder.name}: {how} in {clock(time.monotonic() - self._begin)}"
        # In a log file there is no terminal whose width rich could take.
        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False, emoji=False)
        console.print(Panel(table, title=title, title_align="left", expand=False))

    def _rows(self, trainer: Trainer) -> Iterator[tuple[str, str]]:
        folder = Path(trainer.default_root_dir)
        if trainer.state.fn == "fit":
            self._note_best(trainer)
            yield "steps", f"{trainer.global_step:,} of {trainer.estimated_stepping_batches:,g}"
            chosen = best_checkpoint(trainer)
            if chosen is not None:
                best = f"{within(folder, chosen.best_model_path)} ({chosen.monitor} {chosen.best_model_score:.2f})"
                yield "best checkpoint", best
                yield "its metrics", in_a_line(self._best["metrics"])
            last = folder / "checkpoints" / "last.ckpt"
            if last.exists():
                yield "last checkpoint", within(folder, last)
        elif self._latest:
            yield "metrics", in_a_line(self._latest)
        yield "folder", str(folder)
        for name, file in {"all metrics": METRICS_FILE, "tables": TABLE_FILE, "figures": "attention"}.items():
            if (folder / file).exists():
                yield name, file
        for kind, name in (("submission", "submission files"), ("ranking", "rankings"), ("csv", "curves")):
            if (folder / kind).is_dir():
                yield name, kind
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and not logger.experiment.disabled:
                yield "W&B", where(logger)


def headlines(trainer: Trainer, stage: str) -> dict[str, float]:
    """Return the figures of the composed query that a benchmark is known by, by split and name."""
    figures = {}
    for protocol in trainer.datamodule.protocols(stage) if trainer.datamodule else []:
        names = dict.fromkeys([protocol.headline, *LOGGED, *protocol.means])
        for split in dict.fromkeys([protocol.split, protocol.averaged_as or protocol.split]):
            for name in names:
                value = trainer.callback_metrics.get(f"{split}_{name}")
                if value is not None:
                    figures[f"{split}_{name}"] = round(value.item(), 4)
    return figures


def best_checkpoint(trainer: Trainer) -> ModelCheckpoint | None:
    """Return the callback that keeps the best checkpoint, once it has one of this run."""
    for callback in trainer.checkpoint_callbacks:
        # Of a checkpoint in another folder, Lightning restores the path of its best one, and no score.
        scored = isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_score is not None
        if scored and callback.best_model_path:
            return callback
    return None


def in_a_line(metrics: dict[str, float]) -> str:
    """Return figures in a line."""
    return ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())


def within(folder: Path, path: str | Path) -> str:
    """Return a path relative to a folder if it is inside it, else the absolute path."""
    path = Path(path).absolute()
    return str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path)


def where(logger: WandbLogger) -> str:
    """Return the address of a W&B run, or the command that sends an offline one."""
    run = logger.experiment
    return run.url or f"wandb sync {Path(run.dir).parent}"
