"""Queries of many clients, answered together: the model takes a batch in hardly more time than one of them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from contextcir.errors import InputError
from experiments.search.limits import Limits

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class QueueFull(Exception):
    """As many queries wait as may."""


class Batcher(Generic[Asked, Answered]):
    """Collects queries while the model is busy, or for some milliseconds, and has them answered in one thread.

    To be used within one event loop, between `start` and `stop`.

    Args:
        answer: of a batch; called in a thread that no other call runs in.
        limits: `Limits.batch`, `Limits.waiting` and `Limits.gather` are used.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Answered]], limits: Limits) -> None:
        self._answer = answer
        self._limits = limits
        self._waiting: deque[tuple[Asked, asyncio.Future[Answered]]] = deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._arrived = asyncio.Event()
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Turn away what waits; a batch that the model is at is answered first."""
        if self._loop is not None:
            self._loop.cancel()
        for _, answer in self._waiting:
            answer.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def ask(self, query: Asked) -> Answered:
        """Return the answer to a query; one whose caller is cancelled before its batch begins costs nothing.

        Raises:
            QueueFull: if too many wait already.
            Exception: what `answer` raises for this query.
        """
        if len(self._waiting) >= self._limits.waiting:
            raise QueueFull
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, answer))
        self._arrived.set()
        return await answer

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self._limits.gather)
            batch = []
            while self._waiting and len(batch) < self._limits.batch:
                query, answer = self._waiting.popleft()
                if not answer.done():  # its client is still there
                    batch.append((query, answer))
            if batch:
                await self._together(batch)

    async def _together(self, batch: list[tuple[Asked, "asyncio.Future[Answered]"]]) -> None:
        """Answer a batch; if that fails, each query by itself, so that only the faulty ones fail."""
        try:
            answers = await self._in_thread([query for query, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            for one in batch:
                await self._together([one])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)

    async def _in_thread(self, queries: list[Asked]) -> Sequence[Answered]:
        def answer() -> Sequence[Answered]:
            answers = self._answer(queries)
            if len(answers) != len(queries):
                raise InputError(f"{len(answers)} answers to {len(queries)} queries")
            return answers

        return await asyncio.get_running_loop().run_in_executor(self._thread, answer)


def _settle(future: "asyncio.Future[Answered]", answer: Answered | Exception) -> None:
    if future.done():  # the client has gone meanwhile
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
