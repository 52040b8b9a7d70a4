"""The stage that sends requests to a model: what it asks about is a `Task`, how it survives kills is the same for all.

Requests are made for items that have neither records nor a failure yet; records go to the disk in small groups as the
answers come.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, NamedTuple

from contextcir.errors import InputError, one_line
from contextcir.shards.keys import KeySorter, Place, places_of
from contextcir.synthesis.models.base import Answer, Request, Stopped, VisionLanguageModel
from contextcir.synthesis.prompts import Prompt
from contextcir.synthesis.records import Failure, Stored
from contextcir.synthesis.stages import Run, Stage, Tally, progress
from contextcir.synthesis.store import GroupWriter, Shard, keys_of, read_stage

TASKS = ("describe-reference", "describe", "instruct")  # names of the tasks, in their order
NO_REFERENCE = "reference not described"  # the failure of a pair whose reference failed before
GROUP = 64  # answers that wait to be written, at most
Outcome = list[dict[str, Any]] | Failure  # records of one answer, which go to the disk together, or why there are none


class ItemFailed(Exception):
    """There is nothing to ask about an item, or its answer is of no use: ``reason`` in a word or two, and details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Item(NamedTuple):
    """Something to send a request about: the ``key`` of its records, the key of its ``shard``, and what is known."""

    key: str
    shard: str
    record: Any


class Entry(NamedTuple):
    """An item that is not read yet: its keys, and where the record is that it comes from."""

    key: str
    shard: str
    place: Place


class Items(ABC):
    """The items of a task: listed once, then read one by one as requests are sent."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield the items of all shards; a key may come several times, and the first time counts."""

    @abstractmethod
    def item(self, place: Place) -> Item:
        """Return the item whose entry has this place."""


class Task(ABC):
    """What is asked, and what becomes of the answers. A task is a plain object: settings in, no files held open."""

    name: ClassVar[str]  # of its records; one of `TASKS`
    item_field: ClassVar[str] = "key"  # field of a record that holds the key of the item
    source: ClassVar[str] = "pairs"  # name of the records that the items come from

    def begin(self, folder: Path) -> None:  # noqa: B027  (most need nothing)
        """Look for what no request can do without; called before any stage runs. ``folder``: of the synthesis."""

    @abstractmethod
    def items(self, folder: Path) -> Items:
        """Return the items of all shards, from the records of earlier stages in ``folder``."""

    @abstractmethod
    def request(self, item: Item) -> Request:
        """Return the request about an item; raises ItemFailed where there is nothing to ask."""

    @abstractmethod
    def records(self, item: Item, answer: Answer) -> Sequence[Stored]:
        """Return the records of an answer that follows the schema, at least one; raises ItemFailed if it is no use."""

    @property
    @abstractmethod
    def prompts(self) -> Sequence[Prompt]:
        """The prompts in use, for the data card."""


class RequestStage(Stage):
    """Sends the requests of a task.

    Args:
        name: by which users choose the stage.
        task: what is asked.
        model: answers.
    """

    def __init__(self, name: str, task: Task, model: VisionLanguageModel) -> None:
        self.name = name  # type: ignore[misc]  # the only stage whose name depends on its arguments
        self.task = task
        self.model = model

    def begin(self, run: Run) -> None:
        self.model.begin(run.index, run.count)
        self.task.begin(run.folder)

    def run(self, run: Run) -> Tally:
        self.model.count_earlier(usages(run))
        return run_requests(run, self.task, self.model)


def usages(run: Run) -> Iterator[Mapping[str, float]]:
    """Yield the usage of each record in this process's shards, failures among them."""
    for task in TASKS:
        for name in (task, f"{task}-failures"):
            for record in run.shard(name).read():
                yield record["provenance"].get("usage", {})


def run_requests(run: Run, task: Task, model: VisionLanguageModel) -> Tally:
    """Send a request about every item of this shard that has neither records nor a failure yet.

    A kill at any moment loses the answers that are under way and at most twice `GROUP` that wait to be written; it
    leaves no item twice. Failed items are recorded and raise nothing.

    Raises:
        Stopped: by the model, after all of its answers were written; the message says how far the stage is.
        InputError: if a shard is damaged or in use.
    """
    failures_name = f"{task.name}-failures"
    with run.claimed(task.name), run.shard(task.name) as answers, run.shard(failures_name) as failures:
        tally, left = items_left(run, task)
        try:
            asyncio.run(_Requests(task, model, tally, answers, failures).run(left))
        except Stopped as error:
            raise type(error)(f"{error} ({tally})") from None
        return tally


def items_left(run: Run, task: Task) -> tuple[Tally, Iterator[Item]]:
    """Return how far a task is in this process's shard, and the items that have neither records nor a failure yet.

    What there is is listed once; keys that outgrow memory are sorted on the disk.

    Raises:
        InputError: if there is nothing that items could come from, or a shard is damaged.
    """
    known = [keys_of(run.folder, task.name, task.item_field)]
    if not run.retry:
        known.append(keys_of(run.folder, f"{task.name}-failures"))
    items, own = task.items(run.folder), KeySorter()
    for entry in items.entries():
        if run.owns(entry.shard):
            own.add(entry.key, *entry.place)
    total, before, left = own.table().distinct(*known)
    if not total and next(read_stage(run.folder, task.source), None) is None:
        raise nothing(run.folder, task.source)
    return Tally(task.name, total, before), map(items.item, places_of(left))


def nothing(folder: Path, name: str) -> InputError:
    """Return the error of a stage that finds no records ``name`` of the one before it, with why there are none."""
    failed: Counter[tuple[str, str]] = Counter()
    details: dict[tuple[str, str], str] = {}
    for task in TASKS[: TASKS.index(name) + 1 if name in TASKS else 0]:
        for record in read_stage(folder, f"{task}-failures"):
            if record["reason"] != NO_REFERENCE:
                failed[task, record["reason"]] += 1
                details.setdefault((task, record["reason"]), record["detail"])
    if not failed:
        return InputError(f"nothing of the stage {name} is there: run it first", file=folder, setting="stage")
    (task, reason), count = failed.most_common(1)[0]
    detail = one_line(details[task, reason], 120)
    about = f"{count:,} requests of {task} failed: {reason}" + (f": {detail}" if detail else "")
    return InputError(f"nothing came out of the stage {name}: {about}", file=folder)


class _Requests:
    """The requests of one task that are under way."""

    def __init__(self, task: Task, model: VisionLanguageModel, tally: Tally, answers: Shard, failures: Shard) -> None:
        self.task = task
        self.model = model
        self.tally = tally
        self.answers = answers
        self.failures = failures
        self.open: dict[str, Item] = {}
        self.unsent: list[Outcome] = []  # failures of items without a request
        self.lock = Lock()  # answers are appended by another thread than failures without a request

    async def run(self, items: Iterator[Item]) -> None:
        with progress(self.tally) as self.bar:
            async with GroupWriter(self._append, GROUP) as writer:
                try:
                    async for answer in self.model.answer(self._requests(items)):
                        item = self.open.pop(answer.key, None)
                        if item is None:
                            raise ValueError(
                                f"model {self.model.name} answered {answer.key!r}, which was not asked: a bug of it"
                            )
                        await writer.put(outcome_of(self.task, item, answer))
                finally:
                    self._append(self.unsent)
            if self.open:
                raise ValueError(f"model {self.model.name} left {len(self.open):,} requests unanswered: a bug of it")

    def _requests(self, items: Iterator[Item]) -> Iterator[Request]:
        for item in items:
            try:
                request = self.task.request(item)
            except ItemFailed as error:
                self.unsent.append(Failure(item.key, self.task.name, error.reason, error.detail))
                if len(self.unsent) >= GROUP:
                    self._append(self.unsent)
                    self.unsent = []
                continue
            self.open[item.key] = item
            yield request

    def _append(self, outcomes: Sequence[Outcome]) -> None:
        with self.lock:
            failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
            done = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
            self.answers.append(done)
            self.failures.append([failure.to_json() for failure in failed])
            self.tally.done += len(done)
            for failure in failed:
                self.tally.failed[failure.reason] += 1
                if failure.detail:
                    self.tally.examples.setdefault(failure.reason, failure.detail)
            self.bar.update(len(outcomes))


def outcome_of(task: Task, item: Item, answer: Answer) -> Outcome:
    """Return what an answer comes to: the records of an item, or its failure."""
    origin = {"model": answer.model, "usage": dict(answer.usage)}
    if answer.content is None:
        reason = plain(answer.failure) or "no answer"
        return Failure(item.key, task.name, reason, plain(answer.detail[:500]), origin)
    try:
        return [record.to_json() for record in task.records(item, answer)]
    except ItemFailed as error:
        return Failure(item.key, task.name, error.reason, plain(error.detail[:500]), origin)


def seed_of(seed: int, *names: str) -> int:
    """Return a seed below 2**31 for what has these names: the same in every run and on every machine."""
    salt = seed.to_bytes(8, "big", signed=True)
    return int.from_bytes(blake2b("\n".join(names).encode(), digest_size=4, salt=salt).digest(), "big") >> 1


def provenance(prompt: Prompt, request_seed: int, answer: Answer) -> dict[str, Any]:
    """Return where a record is from: model, prompt, seed and usage."""
    return {
        "model": answer.model,
        "prompt": f"{prompt.name} {prompt.version} {prompt.digest}",
        "seed": request_seed,
        "usage": dict(answer.usage),
    }


def plain(text: Any, most: int = 2000) -> str:
    """Return a model's text with single spaces, without control characters and lone surrogates.

    '' for a value that is no text, or longer than ``most`` characters.
    """
    if not isinstance(text, str) or len(text) > most:
        return ""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
