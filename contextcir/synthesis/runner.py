"""Runs a stage: what it has not got yet is asked, and answers go to the disk in small groups as they come."""

import asyncio
import fcntl
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from tqdm import tqdm

from contextcir.synthesis.models.base import Answer, BudgetSpent, Request, VisionLanguageModel
from contextcir.synthesis.records import Failure
from contextcir.synthesis.stages import Item, Stage, Unusable, plain
from contextcir.synthesis.store import GroupWriter, Shard, mine, read_stage, shard_path

GROUP = 64  # answers that wait to be written, at most
Outcome = list[dict[str, Any]] | Failure  # records of one answer, which go to the disk together, or why there are none


@dataclass(frozen=True)
class Run:
    """Where a synthesis lies, and which part of it this process does.

    ``folder``: of the synthesis. ``index``, ``count``: the shard, from 0, and how many there are. ``retry``: ask again
    what failed before.
    """

    folder: Path
    index: int = 0
    count: int = 1
    retry: bool = False

    def shard(self, stage: str) -> Shard:
        """Return this process's file of a stage."""
        return Shard(shard_path(self.folder, stage, self.index, self.count))

    def is_mine(self, key: str) -> bool:
        """Whether this process does what goes by a key."""
        return mine(key, self.index, self.count)

    @contextmanager
    def claimed(self, stage: str) -> Iterator[None]:
        """Keep other processes from writing the same shard meanwhile.

        Raises:
            ValueError: if another one is at it.
        """
        path = shard_path(self.folder, stage, self.index, self.count).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{path.with_suffix('.jsonl')} is being written by another run: give each its own --shard or --out"
                ) from None
            except OSError:
                pass  # a file system without locks
            yield


@dataclass
class Tally:
    """How far a stage is, in this process's shard: items in all, those done before, done now, and failed now."""

    stage: str
    total: int = 0
    before: int = 0
    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """Items without an answer or a failure."""
        return self.total - self.before - self.done - self.failed.total()

    def __str__(self) -> str:
        failures = ", ".join(f"{count:,} {reason}" for reason, count in self.failed.most_common())
        words = f"{self.stage}: {self.done:,} done, {self.before:,} were done before, {self.failed.total():,} failed"
        return words + (f" ({failures})" if failures else "") + (f", {self.left:,} left" if self.left else "")


def ask(run: Run, stage: Stage, model: VisionLanguageModel) -> Tally:
    """Ask the model about every item of this shard that has neither an answer nor a failure yet.

    A kill at any moment loses what the model has not answered, and twice `GROUP` answers at most; it leaves no
    item twice. Failures are kept, and are no error. Requests are drawn from the items
    as the model asks for them.

    Raises:
        BudgetSpent: by the model, after all that it answered was written; the message says how far the stage is.
        ValueError: if a shard is damaged or in use.
    """
    with run.claimed(stage.name), run.shard(stage.name) as answers, run.shard(f"{stage.name}-failures") as failures:
        known = {record[stage.answered_by] for record in read_stage(run.folder, stage.name)}
        if not run.retry:
            known |= {record["key"] for record in read_stage(run.folder, f"{stage.name}-failures")}
        tally = Tally(stage.name)
        for item in stage.items(run.folder):
            if run.is_mine(item.shard):
                tally.total += 1
                tally.before += item.key in known
        asking = _Asking(stage, model, tally, answers, failures)
        wanted = (item for item in stage.items(run.folder) if run.is_mine(item.shard) and item.key not in known)
        try:
            asyncio.run(asking.run(wanted))
        except BudgetSpent as error:
            raise BudgetSpent(f"{error} ({tally})") from None
        return tally


class _Asking:
    """The requests of one stage that are under way."""

    def __init__(self, stage: Stage, model: VisionLanguageModel, tally: Tally, answers: Shard, failures: Shard) -> None:
        self.stage = stage
        self.model = model
        self.tally = tally
        self.answers = answers
        self.failures = failures
        self.open: dict[str, Item] = {}
        self.unasked: list[Outcome] = []
        self.appending = Lock()

    async def run(self, items: Iterator[Item]) -> None:
        with progress(self.tally) as self.bar:
            async with GroupWriter(self._append, GROUP) as writer:
                try:
                    async for answer in self.model.answer(self._requests(items)):
                        item = self.open.pop(answer.key, None)
                        if item is None:
                            raise ValueError(f"{self.model.name} answered {answer.key!r}, which was not asked: a bug")
                        await writer.put(self._outcome(item, answer))
                finally:
                    self._append(self.unasked)
            if self.open:
                raise ValueError(f"model {self.model.name} left {len(self.open):,} requests unanswered: a bug of it")

    def _requests(self, items: Iterator[Item]) -> Iterator[Request]:
        for item in items:
            try:
                request = self.stage.request(item)
            except Unusable as error:
                self.unasked.append(Failure(item.key, self.stage.name, error.reason, error.detail))
                if len(self.unasked) >= GROUP:
                    self._append(self.unasked)
                    self.unasked = []
                continue
            self.open[item.key] = item
            yield request

    def _outcome(self, item: Item, answer: Answer) -> Outcome:
        told = {"model": answer.model, "usage": dict(answer.usage)}
        if answer.content is None:
            reason = plain(answer.failure) or "no answer"
            return Failure(item.key, self.stage.name, reason, plain(answer.detail[:500]), told)
        try:
            return [record.to_json() for record in self.stage.records(item, answer)]
        except Unusable as error:
            return Failure(item.key, self.stage.name, error.reason, plain(error.detail[:500]), told)

    def _append(self, outcomes: Sequence[Outcome]) -> None:
        with self.appending:  # answers are appended by another thread than what was never asked
            failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
            done = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
            self.answers.append(done)
            self.failures.append([failure.to_json() for failure in failed])
            self.tally.done += len(done)
            self.tally.failed.update(failure.reason for failure in failed)
            self.bar.update(len(outcomes))


def progress(tally: Tally) -> tqdm:
    """Return the bar of a stage, with its rate and the time left; in the log of a job, a line now and then."""
    tqdm.monitor_interval = 0  # no thread beside this one
    seconds = 0.5 if sys.stderr.isatty() else 30
    return tqdm(
        total=tally.total,
        initial=tally.before,
        desc=tally.stage,
        unit=" items",
        mininterval=seconds,
        maxinterval=seconds,
    )
