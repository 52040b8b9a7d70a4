"""SIGTERM: what a scheduler, an operator or a shell sends before it kills a run.

A signal arrives in the middle of any Python code. While there is nothing to lose, it ends the command at once. Once
training has begun, it is only noted, and the run ends at the next place where `ResumePoints` can save all of it: before
the next batch, or within a validation, which is done again. Nothing is ever cut off in the middle: neither a step nor a
checkpoint that is being written.
"""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from callbacks.checkpoint_files import resume_files
from callbacks.checkpoints import ResumePoints
from contextcir.errors import one_line

TERMINATED = 128 + signal.SIGTERM  # 143: what a shell reports of a process that SIGTERM has ended


class Stopped(SystemExit):
    """The end of a command on SIGTERM."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Sigterm:
    """The SIGTERM of this process: whether it has come, and what it does.

    Attributes:
        asked: it has come.
        later: it is only noted, and `StopOnSigterm` ends the run where it can be gone on from.
        trainer: of this command, once it is built.
    """

    def __init__(self) -> None:
        self._forgotten_by_children = False
        self.begin()

    def begin(self) -> None:
        """Start a command."""
        self.asked = self.later = False
        self.trainer: Trainer | None = None

    def listen(self) -> None:
        """Take the signal; a handler can be set by the main thread only."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handle)
            if not self._forgotten_by_children:
                os.register_at_fork(after_in_child=self._forget)
                self._forgotten_by_children = True

    def _forget(self) -> None:
        """Let SIGTERM end a child process, by which pools end theirs.

        With a handler in Python, a signal just before a child waits for work would be seen after that work only, and
        the pool would wait for ever. Ranks listen again when their run begins.
        """
        if signal.getsignal(signal.SIGTERM) == self.handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signal for the duration of a command.

        Raises:
            Stopped: at the end of the block, if it has come and could not end the command before.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.begin()
        before = signal.getsignal(signal.SIGTERM)
        self.listen()
        try:
            yield
        except Exception as error:  # such as that of a loader process, which got the signal too
            if self.asked:
                raise Stopped from error
            raise
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if self.asked:
            raise Stopped

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, pass it on to the other ranks that this process has started, and end unless it is later.

        Raises:
            Stopped: if nothing can be lost.
        """
        launcher = None if self.trainer is None else self.trainer.strategy.launcher
        if not self.asked and launcher is not None:
            launcher.kill(number)  # only to ranks that this process has started
        self.asked = True
        if not self.later and not (isinstance(launcher, _MultiProcessingLauncher) and launcher.procs):
            raise Stopped


sigterm = Sigterm()


def words() -> str:
    """Return the one line about a command that SIGTERM has ended: what is saved, and how to go on."""
    trainer = sigterm.trainer
    if trainer is None or trainer.state.fn != "fit":
        return "stopped by SIGTERM before any training: nothing to save; the same command starts again"
    points = [callback for callback in trainer.callbacks if isinstance(callback, ResumePoints)]
    files = [file for callback in points for file in resume_files(callback.folder)]
    if not files:
        reason = "before the first step was done, nothing to save" if points else "there are no ResumePoints to save"
        return f"stopped by SIGTERM: {reason}; the same command starts again"
    folder = Path(trainer.default_root_dir)
    claimed = os.environ.get("WANDB_RUN_ID") == folder.name
    same = f"WANDB_RUN_ID={folder.name} and the same command go" if claimed else "the same command goes"
    return f"stopped by SIGTERM: {same} on from {files[0]}"


class StopOnSigterm(Callback):
    """End a run on SIGTERM at the next place from which it can go on; `experiments.run` adds it to every run."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal back from Lightning, which has just set handlers of its own."""
        sigterm.listen()

    on_test_start = on_predict_start = on_sanity_check_start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the signal wait from now on."""
        sigterm.listen()
        sigterm.later = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop between two steps; the ranks agree on it by one small message.

        Raises:
            Stopped: on all ranks, if any of them was asked.
        """
        if batch_idx % trainer.accumulate_grad_batches == 0 and trainer.strategy.reduce_boolean_decision(
            sigterm.asked, all=False
        ):
            raise Stopped

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation.

        Raises:
            Stopped: if this process was asked. Other ranks have the signal too: it goes to all of a job.
        """
        if trainer.state.fn != "fit":
            sigterm.listen()
        if sigterm.asked:
            raise Stopped

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop within a validation.

        Raises:
            Stopped: as above.
        """
        if sigterm.asked:
            raise Stopped


def keep_first_error(trainer: Trainer) -> None:
    """Let nothing that fails while a run ends by an error hide that error, or keep others from saving.

    Lightning calls all callbacks and loggers about an error one after the other: the first one that fails itself would
    be the last, and what it raises would be all that the user sees.
    """
    for callback in trainer.callbacks:
        callback.on_exception = functools.partial(_only_warn, callback.on_exception, type(callback).__name__)
    for logger in trainer.loggers:
        logger.finalize = functools.partial(_finalize, logger.finalize, type(logger).__name__)


def _only_warn(function: Callable[..., Any], name: str, *args: Any) -> None:
    try:
        function(*args)
    except Exception as error:
        rank_zero_warn(one_line(f"{name} failed too, after the error below: {type(error).__name__}: {error}"))


def _finalize(function: Callable[..., Any], name: str, status: str) -> None:
    if status == "failed":
        _only_warn(function, name, status)
    else:
        function(status)
