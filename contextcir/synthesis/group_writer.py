"""Writing what comes in, all that has come together: one entry at a time when few come, many when the disk is slow."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any


class GroupWriter:
    """Hands entries to ``append`` in a thread, so that others go on meanwhile; leaving the context writes the rest.

    Args:
        append: writes a list of entries, and blocks until they are on the disk.
        most: entries that may wait; `put` waits beyond them.

    Raises (from `put` and on leaving):
        Exception: the first one that ``append`` raised; nothing is written after it.
    """

    def __init__(self, append: Callable[[list[Any]], None], most: int) -> None:
        self._append = append
        self._queue: asyncio.Queue[Any] = asyncio.Queue(most)
        self._error: Exception | None = None

    async def __aenter__(self) -> "GroupWriter":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._queue.put(_END)
        await self._task
        if error is None:
            self._check()

    async def put(self, entry: Any) -> None:
        """Take an entry."""
        self._check()
        await self._queue.put(entry)
        await asyncio.sleep(0)  # a model that never waits would not let the task begin

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        ended = False
        while not ended:
            entries = [await self._queue.get()]
            while not self._queue.empty():
                entries.append(self._queue.get_nowait())
            ended = entries[-1] is _END
            entries = [entry for entry in entries if entry is not _END]
            if entries and self._error is None:  # after an error entries are thrown away, so that nobody waits
                try:
                    await asyncio.to_thread(self._append, entries)
                except Exception as error:
                    self._error = error


_END = object()
