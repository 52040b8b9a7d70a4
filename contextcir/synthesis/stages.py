"""What the stages of a synthesis have in common: a class with ``run``, its shard, and the count of what it did."""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from contextcir.errors import one_line
from contextcir.files import in_shard, one_writer
from contextcir.synthesis.store import Shard, shard_path

TOLD = 120  # characters about the first failure


@dataclass(frozen=True)
class Run:
    """The folder of a synthesis, and the shard of it that this process works on.

    ``folder``: of the synthesis. ``index``, ``count``: the shard, from 0, and how many there are. ``retry``: send
    requests that failed before once more.
    """

    folder: Path
    index: int = 0
    count: int = 1
    retry: bool = False

    def shard(self, name: str) -> Shard:
        """Return this process's file of the records ``name``."""
        return Shard(shard_path(self.folder, name, self.index, self.count))

    def owns(self, key: str) -> bool:
        """Tell whether a key belongs to this process's shard."""
        return in_shard(key, self.index, self.count)

    def claimed(self, name: str) -> AbstractContextManager[None]:
        """Keep other processes from writing the same shard; raises InputError if one does so already."""
        path = shard_path(self.folder, name, self.index, self.count)
        work = f"writes shard {self.index} of {self.count} of the stage {name}"
        return one_writer(path.parent, work, f".{path.stem}.lock")


@dataclass
class Tally:
    """How far a stage is in this process's shard.

    ``total``: items. ``before``: those done by earlier processes. ``done``, ``failed``: by this one, failures by
    reason. ``examples``: of a reason, what was said of the first item. ``words``: what done and failed are called in
    the line for people. ``note``: that line, where counts are not all.
    """

    stage: str
    total: int = 0
    before: int = 0
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    words: tuple[str, str] = ("done", "failed")
    note: str = ""

    @property
    def left(self) -> int:
        """Items that are neither done nor failed."""
        return self.total - self.before - self.done - self.failed.total()

    def __str__(self) -> str:
        if self.note:
            return f"{self.stage}: {self.note}"
        done, failed = self.words
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.failed.most_common())
        told = [
            f"{reason}: {self.examples[reason]}" for reason, _ in self.failed.most_common() if reason in self.examples
        ]
        reasons += f"; the first {one_line(told[0], TOLD)}" if told else ""
        text = f"{self.stage}: {self.done:,} {done}, {self.before:,} were done before, {self.failed.total():,} {failed}"
        return text + (f" ({reasons})" if reasons else "") + (f", {self.left:,} left" if self.left else "")


class Stage(ABC):
    """A step of a synthesis. It may be killed at any moment; run again, it goes on where it was."""

    name: ClassVar[str]  # by which users choose it; several stages may share one
    sharded: ClassVar[bool] = True  # whether several processes may divide it

    def begin(self, run: Run) -> None:  # noqa: B027  (most need nothing)
        """Look for what the stage can't do without; called before any stage runs.

        Raises:
            InputError: if something is missing.
        """

    @abstractmethod
    def run(self, run: Run) -> Tally:
        """Do this process's part, and return how far it is.

        Raises:
            InputError: if a shard is damaged or in use, or an input of the stage can't be used.
        """


def progress(tally: Tally) -> tqdm:
    """Return the progress bar of a stage."""
    return progress_bar(tally.stage, tally.total, "items", tally.before)


def progress_bar(name: str, total: int, unit: str, initial: int = 0) -> tqdm:
    """Return a progress bar; in the log of a job it prints a line now and then."""
    tqdm.monitor_interval = 0  # the monitor would be another thread
    seconds = 0.5 if sys.stderr.isatty() else 30
    return tqdm(desc=name, total=total, initial=initial, unit=f" {unit}", mininterval=seconds, maxinterval=seconds)
