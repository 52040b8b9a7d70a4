"""Many things at once, as many as there is room for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Given = TypeVar("Given")
Result = TypeVar("Result")


async def in_parallel(
    source: Iterable[Given], work: Callable[[Given], Awaitable[Result]], workers: int
) -> AsyncIterator[Result]:
    """Yield what ``work`` makes of each of ``source``, in the order in which it is done.

    A worker draws from ``source`` when there is room for its last result. After the first exception nothing more is
    drawn; what others work at is finished and yielded, and then it is raised. Closing the generator cancels all.
    """
    drawn = iter(source)
    done: asyncio.Queue[tuple[Result] | None] = asyncio.Queue(maxsize=workers)
    errors: list[BaseException] = []

    async def worker() -> None:
        try:
            while not errors:
                try:
                    given = next(drawn)
                except StopIteration:
                    break
                await done.put((await work(given),))
        except Exception as error:
            errors.append(error)
        await done.put(None)

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    try:
        running = workers
        while running:
            result = await done.get()
            if result is None:
                running -= 1
            else:
                yield result[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if errors:
        raise errors[0]
