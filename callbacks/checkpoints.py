"""Resume points: checkpoints between two batches, from which a run continues as if it had never stopped.

`ResumePoints` saves them regularly, `StopWhenAsked` before it ends a run on request.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_files import PART, newest_whole, other_files, resume_files
from contextcir.checks import not_negative, whole

KEY = "resume_point"
STOPPED = 75  # exit status: try again later (EX_TEMPFAIL of sysexits.h)


class ResumePoints(Checkpoint):
    """Keep the newest checkpoints of a run, ``resume-step=N.ckpt``, and ``last.ckpt``, a link to the newest one.

    They are saved when the next batch has been loaded but not used: after the optimizer's step, and after the
    validation and the end of an epoch if those were due. At this place Lightning's own state is enough for a run to
    continue bit for bit. (Elsewhere it is not: after a checkpoint from the end of a batch, for instance, Lightning
    leaves out the validation that would have followed.) One is due after ``every_n_train_steps``, after
    ``every_minutes``, and after every validation. One more is saved at the end of training, and before a run ends by
    an error outside of a training step, such as an image that can't be read.

    Args:
        dirpath: folder of the checkpoints, on a local or network disk.
        every_n_train_steps: optimizer steps from one to the next; None for no such limit.
        every_minutes: time from one to the next, checked every ``log_every_n_steps``; None for no such limit.
        keep: how many to keep.

    Raises:
        InputError: if a number is outside of its range.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int | None = None,
        every_minutes: float | None = 10.0,
        keep: int = 2,
    ) -> None:
        if every_n_train_steps is not None:
            whole(every_n_train_steps, 1, "trainer.callbacks.ResumePoints.every_n_train_steps")
        if every_minutes is not None:
            not_negative(every_minutes, "trainer.callbacks.ResumePoints.every_minutes")
        whole(keep, 1, "trainer.callbacks.ResumePoints.keep")
        self.folder = Path(dirpath).expanduser()
        self.every_n_train_steps = every_n_train_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self._due = False
        self._saved_step = 0  # without any step there is nothing to save
        self._saved_time = 0.0
        self._saving = False
        self._resumed: dict[str, int] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; after a resume, correct the loop's state, which Lightning sets for its own checkpoints."""
        self._saved_time, self._due = time.monotonic(), False
        if self._resumed is not None:
            loop = trainer.fit_loop.epoch_loop
            loop.reset_restart_stage()  # otherwise it skips the next batch's validation as done
            counted = loop.restarting and not loop._should_accumulate()  # then it adds 1 before the first batch
            loop._batches_that_stepped = self._resumed["logged_steps"] - counted
            self._saved_step, self._resumed = trainer.global_step, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a resume point due, so that this validation is never computed again."""
        self._due = self._due or not trainer.sanity_checking

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save, if a resume point is due and no gradients are being accumulated."""
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._is_due(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result of training."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, if the run was between two batches; only there do weights and counts belong to the same step."""
        batches, epochs = trainer.fit_loop.epoch_loop.batch_progress.current, trainer.fit_loop.epoch_progress.current
        between = batches.ready == batches.completed and epochs.started > epochs.processed
        whole = batches.ready % trainer.accumulate_grad_batches == 0
        if trainer.training and trainer.state.fn == "fit" and between and whole:
            try:
                self._save(trainer, alone=True)
            except (OSError, ValueError) as error:
                rank_zero_warn(str(error))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Describe the place between two batches as one that Lightning continues from."""
        if not self._saving:
            return
        checkpoint[KEY] = {"logged_steps": trainer.fit_loop.epoch_loop._batches_that_stepped}
        loops = checkpoint["loops"]["fit_loop"]
        batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
        for counts in (batches["total"], batches["current"]):
            counts.update(dict.fromkeys(("ready", "started", "processed"), counts["completed"]))
        batches["is_last_batch"] = False
        for counts in (loops["epoch_loop.val_loop.batch_progress"][part] for part in ("total", "current")):
            counts.update(dict.fromkeys(counts, 0))  # of completed validations
        if epochs["current"]["completed"] == epochs["current"]["ready"]:  # at the end of training
            if batches["current"]["completed"] == trainer.num_training_batches:
                batches["current"] = dict.fromkeys(batches["current"], 0)
            else:  # training ended within an epoch, which can be continued
                for counts in (epochs["total"], epochs["current"]):
                    counts["processed"] -= 1
                    counts["completed"] -= 1

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note that training continues from a resume point."""
        self._resumed = checkpoint.get(KEY)

    def _is_due(self, trainer: Trainer) -> bool:
        steps = trainer.global_step
        if self._due or (self.every_n_train_steps and steps - self._saved_step >= self.every_n_train_steps):
            return True
        if self.every_minutes is None or steps % trainer.log_every_n_steps:
            return False
        passed = time.monotonic() - self._saved_time >= 60 * self.every_minutes
        return trainer.strategy.broadcast(passed)  # clocks differ, and all ranks take part in saving

    def _save(self, trainer: Trainer, alone: bool = False) -> None:
        """Save, unless this step was saved. ``alone``: without waiting for other ranks, which may have failed."""
        self._due, self._saved_time = False, time.monotonic()
        if trainer.fast_dev_run or trainer.global_step == self._saved_step:
            return
        path = self.folder / f"resume-step={trainer.global_step}.ckpt"
        self._saving = True
        try:
            if alone:
                trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(False), path)
            else:
                trainer.save_checkpoint(path)
        finally:
            self._saving = False
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            self._tidy(path)

    def _tidy(self, path: Path) -> None:
        """Link the new checkpoint, and delete all but the last ones up to it.

        Resume points of later steps belong to a run that was rolled back, and must not be picked up again.
        """
        last = path.with_name("last.ckpt")
        fresh = path.with_name(f"last.ckpt{PART}")
        fresh.unlink(missing_ok=True)
        try:
            fresh.symlink_to(path.name)
        except OSError:  # not every file system has links
            shutil.copyfile(path, fresh)
        os.replace(fresh, last)
        files = resume_files(self.folder)
        keep = files[files.index(path) :][: self.keep]
        for file in files:
            if file not in keep:
                file.unlink(missing_ok=True)


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """Return the checkpoint that a run with these callbacks would resume: the newest intact one, if any.

    This is one of `ResumePoints`; without any, one of `ModelCheckpoint`, or what Lightning saved when SLURM ended the
    job.
    """
    points = [callback for callback in trainer.callbacks if isinstance(callback, ResumePoints)]
    best = [Path(callback.dirpath) for callback in trainer.callbacks if _has_folder(callback)]
    files = [file for callback in points for file in resume_files(callback.folder)]
    if not files and (points or best):
        files = other_files([*best, Path(trainer.default_root_dir)])
    return newest_whole(files)


def _has_folder(callback: Any) -> bool:
    return isinstance(callback, ModelCheckpoint) and callback.dirpath is not None and not callback.save_weights_only


class StopWhenAsked(Callback):
    """Save a resume point and end the run with exit status 75, between two batches, once a file exists.

    A file is used because a signal arrives at a different place on every rank, in the middle of any Python code, and
    SLURM may send it to all children as well: it ends W&B's service and the loader processes. Rank 0 checks before
    every batch; the ranks agree by one small message, as Lightning does about SIGTERM.

    Args:
        file: on a disk of rank 0's machine. It is not deleted.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check for the file.

        Raises:
            SystemExit: on all ranks, if it exists and no gradients are being accumulated.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return
        requested = trainer.is_global_zero and self.file.exists()
        if trainer.strategy.reduce_boolean_decision(requested, all=False):
            for callback in trainer.callbacks:
                if isinstance(callback, ResumePoints):
                    callback._save(trainer)
            rank_zero_info(
                f"stopped after step {trainer.global_step}, as {self.file} exists: the same command continues"
            )
            raise SystemExit(STOPPED)
