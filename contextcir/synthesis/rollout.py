"""A stage of a synthesis as a rollout of datatrove's `InferenceRunner`, for sites that run their jobs with that.

What is asked, how answers are checked, and where they go stay those of the stage: its shards. So the stage may be begun
there and ended here, or the other way round.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contextcir.errors import InputError
from contextcir.synthesis.models.answers import Dialect, Flaw
from contextcir.synthesis.models.base import Answer
from contextcir.synthesis.models.chat import ChatModel, Exchange
from contextcir.synthesis.records import Failure
from contextcir.synthesis.request_stage import Item, ItemFailed, Outcome, Task, items_left, outcome_of
from contextcir.synthesis.stages import Run

Generate = Callable[[dict[str, Any]], Awaitable[Any]]  # sends a payload, and returns datatrove's `InferenceResult`


class StageRollout:
    """The two ends of a pipeline: `documents` is its first step, the object itself the ``rollout_fn`` of the runner.

    A task of the pipeline works on its own shard of the stage. Answers are in the stage's shards once they are checked,
    so that datatrove's checkpoints are not needed. Its errors stop the run; no request counts as failed for them.

    Args:
        folder: of the synthesis.
        task: what is asked.
        chat: with which parameters; its model is named in the records, and the runner's is asked.
    """

    def __init__(self, folder: Path, task: Task, chat: ChatModel) -> None:
        self.folder = folder
        self.task = task
        self.chat = chat
        self._open: dict[str, Item] = {}

    def documents(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield a document for each item that has neither records nor a failure yet; its text is empty."""
        try:
            from datatrove.data import Document
        except ImportError:
            raise InputError("a rollout needs datatrove: pip install 'datatrove[inference]'") from None
        run = Run(self.folder, rank, world_size)
        self.task.begin(run.folder)
        # open for as long as this object is there: the last answers come after the last document
        self._opened = ExitStack()
        self._opened.enter_context(run.claimed(self.task.name))
        self._answers = self._opened.enter_context(run.shard(self.task.name))
        self._failures = self._opened.enter_context(run.shard(f"{self.task.name}-failures"))
        self._lock = asyncio.Lock()
        _, left = items_left(run, self.task)
        for item in left:
            self._open[item.key] = item
            yield Document(text="", id=item.key)

    async def __call__(self, document: Any, generate: Generate, **shared: Any) -> dict[str, Any]:
        """Ask about an item, write what comes of it, and return the records or the reason of a failure."""
        item = self._open.pop(document.id)
        outcome = await self._outcome(item, generate)
        async with self._lock:
            if isinstance(outcome, Failure):
                await asyncio.to_thread(self._failures.append, [outcome.to_json()])
                return {"failed": outcome.reason}
            await asyncio.to_thread(self._answers.append, [outcome])
        return {"records": outcome}

    async def _outcome(self, item: Item, generate: Generate) -> Outcome:
        try:
            exchange = Exchange(self.task.request(item), self.chat)
            await asyncio.to_thread(exchange.load)
        except ItemFailed as error:
            return Failure(item.key, self.task.name, error.reason, error.detail)
        except Flaw as flaw:
            return Failure(item.key, self.task.name, flaw.reason, flaw.detail)
        answer: Answer | None = None
        while answer is None:
            body = exchange.body(Dialect(self.chat.format))
            del body["model"]  # the runner's
            result = await generate(body)
            message = {"content": result.text, "reasoning": getattr(result, "reasoning", "")}
            choice = {"message": message, "finish_reason": result.finish_reason}
            completion = {"model": self.chat.model, "choices": [choice], "usage": result.usage}
            _, answer = exchange.receive(json.dumps(completion).encode(), exchange.most())
        return outcome_of(self.task, item, answer)
