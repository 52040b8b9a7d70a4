"""Resume points: checkpoints between two batches, from which a run continues as if it had never stopped.

`ResumePoints` saves them regularly, `StopWhenAsked` before it ends a run on request.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.checkpoint_files import PART, newest_whole, other_files, resume_files
from contextcir.checks import not_negative, whole

KEY = "resume_point"
STOPPED = 75  # exit status: try again later (EX_TEMPFAIL of sysexits.h)


class Place(NamedTuple):
    """Where a run goes on: steps that were logged before, and whether the validation after them is to be done."""

    logged_steps: int
    validate: bool = False


class ResumePoints(Checkpoint):
    """Keep the newest checkpoints of a run, ``resume-step=N.ckpt``, and ``last.ckpt``, a link to the newest one.

    They are saved when the next batch has been loaded but not used: after the optimizer's step, and after the
    validation and the end of an epoch if those were due. At this place Lightning's own state is enough for a run to
    continue bit for bit. (Elsewhere it is not: after a checkpoint from the end of a batch, for instance, Lightning
    leaves out the validation that would have followed.) One is due after ``every_n_train_steps``, after
    ``every_minutes``, and after every validation. One more is saved at the end of training, and before a run ends by
    SIGTERM or by an error outside of a training step, such as an image that can't be read. If that happens within a
    validation, the validation is done again when the run goes on.

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
        self._place: Place | None = None  # of the checkpoint that is being saved
        self._logged: int | None = None  # steps that were logged before the batch
        self._resumed: dict[str, Any] | None = None
        self._last_step = False  # the run goes on within the validation after its last step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a run go on that has done all its steps, but not the validation after the last one."""
        loop = trainer.fit_loop.epoch_loop
        resumed = self._resumed or {}
        self._last_step = bool(resumed.get("validate")) and resumed["step"] == loop.max_steps
        loop.max_steps += self._last_step  # until that begins: Lightning would end at once

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; after a resume, correct the loop's state, which Lightning sets for its own checkpoints."""
        self._saved_time, self._due, self._logged = time.monotonic(), False, None
        if self._resumed is not None:
            loop = trainer.fit_loop.epoch_loop
            loop.reset_restart_stage()  # otherwise it skips the next batch's validation as done
            counted = loop.restarting and not loop._should_accumulate()  # then it adds 1 before the first batch
            loop._batches_that_stepped = self._resumed["logged_steps"] - counted
            if self._resumed.get("validate"):
                self._logged = self._resumed["logged_steps"]
                loop.val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION  # it is done before the next batch
            whole = (
                not self._resumed.get("validate") and self.folder.resolve() == Path(trainer.ckpt_path).resolve().parent
            )
            self._saved_step, self._resumed = trainer.global_step if whole else 0, None  # of another run: not saved yet

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let training end after this validation, if there was nothing left but this."""
        trainer.fit_loop.epoch_loop.max_steps -= self._last_step
        self._last_step = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a resume point due, so that this validation is never computed again."""
        self._due = self._due or not trainer.sanity_checking

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save, if a resume point is due and no gradients are being accumulated."""
        self._logged = trainer.fit_loop.epoch_loop._batches_that_stepped
        if batch_idx % trainer.accumulate_grad_batches == 0 and self._is_due(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result of training."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, if the run was between two batches or in a validation; only there is everything of the same step."""
        place = self._where(trainer)
        if place is not None:
            try:
                self._save(trainer, place, alone=True)
            except (OSError, ValueError) as error:
                rank_zero_warn(str(error))

    def _where(self, trainer: Trainer) -> Place | None:
        """Return where a run is between two steps, None within a step or at the end of an epoch."""
        loop = trainer.fit_loop.epoch_loop
        batches, epochs = loop.batch_progress, trainer.fit_loop.epoch_progress.current
        if trainer.state.fn != "fit" or trainer.sanity_checking or batches.current.started != batches.current.completed:
            return None
        if epochs.ready == epochs.completed > 0:  # nothing is left but to end: the last validation is done again
            again = loop._should_check_val_fx(None) and trainer.check_val_every_n_epoch in (None, 1)
            return Place(self._logged, validate=True) if again and self._logged is not None else None
        if not epochs.started > epochs.processed:
            return None
        count, length = batches.current.completed, trainer.num_training_batches
        if count % trainer.accumulate_grad_batches and count != length:
            return None
        ended = self._logged is not None and loop._batches_that_stepped == self._logged  # the step, but not the batch
        if batches.current.ready > count or not ended:
            return Place(loop._batches_that_stepped)
        if not (trainer.validating or loop._should_check_val_fx(None)):
            return Place(self._logged + 1)
        again = trainer._val_check_time_interval is None and not trainer.should_stop  # else it would not be due again
        return Place(self._logged, validate=True) if again else None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Describe the place between two batches as one that Lightning continues from."""
        if self._place is None:
            return
        checkpoint[KEY] = self._place._asdict() | {"step": trainer.global_step}
        loops = checkpoint["loops"]["fit_loop"]
        batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
        for counts in (batches["total"], batches["current"]):
            counts.update(dict.fromkeys(("ready", "started", "processed"), counts["completed"]))
        batches["is_last_batch"] = batches["is_last_batch"] and self._place.validate
        for counts in (loops["epoch_loop.val_loop.batch_progress"][part] for part in ("total", "current")):
            counts.update(dict.fromkeys(counts, 0))  # of completed validations
        if epochs["current"]["completed"] == epochs["current"]["ready"]:  # at the end of training
            whole = batches["current"]["completed"] == trainer.num_training_batches
            if whole and not self._place.validate:
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

    def _save(self, trainer: Trainer, place: Place | None = None, alone: bool = False) -> None:
        """Save, unless this step was saved.

        ``place``: where the run goes on; None for the next batch. ``alone``: without waiting for other ranks, which may
        have failed.
        """
        self._due, self._saved_time = False, time.monotonic()
        if trainer.fast_dev_run or trainer.global_step == self._saved_step:
            return
        path = self.folder / f"resume-step={trainer.global_step}.ckpt"
        self._place = place or Place(trainer.fit_loop.epoch_loop._batches_that_stepped)
        try:
            if alone:
                trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(False), path)
            else:
                trainer.save_checkpoint(path)
        finally:
            self._place = None
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
