"""When requests are sent: many at once, below the server's rate limits, and again after a failure."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import Random
from typing import TypeVar

from contextcir.checks import not_negative, positive, whole
from contextcir.errors import InputError

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Pace:
    """The limits of the server.

    Args:
        requests_per_minute: Requests, with retries; null for no limit.
        tokens_per_minute: Tokens of prompts and answers; estimated before, corrected after each answer.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                positive(getattr(self, name), f"model.pace.{name}")


class Pacer:
    """Schedules requests evenly.

    Every request takes the next free time slot and delays the one after it by its share of the minute, so that no
    minute has more than the limit, and none begins with a burst.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._request_free = self._token_free = self._resume = 0.0
        self._ratio = 1.0  # moving average of tokens used to tokens estimated

    async def turn(self, estimated: float) -> None:
        """Wait for the time slot of a request of about ``estimated`` tokens."""
        now = time.monotonic()
        start = max(now, self._request_free, self._token_free)
        if self.pace.requests_per_minute is not None:
            self._request_free = start + 60 / self.pace.requests_per_minute
        if self.pace.tokens_per_minute is not None:
            self._token_free = start + estimated * self._ratio * 60 / self.pace.tokens_per_minute
        if start > now:
            await asyncio.sleep(start - now)
        while (left := self._resume - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def used(self, estimated: float, tokens: float) -> None:
        """Correct the estimate of a request by the tokens that it used."""
        if self.pace.tokens_per_minute is not None:
            self._token_free += (tokens - estimated * self._ratio) * 60 / self.pace.tokens_per_minute
        if estimated > 0:
            self._ratio += 0.1 * (tokens / estimated - self._ratio)

    def pause(self, seconds: float) -> None:
        """Start no request for so many seconds."""
        self._resume = max(self._resume, time.monotonic() + seconds)


async def in_parallel(
    source: Iterable[Given], work: Callable[[Given], Awaitable[Result]], workers: int
) -> AsyncGenerator[Result]:
    """Yield the results of ``work`` for the elements of ``source``, as they are finished.

    A worker takes the next element when there is room for its last result. After the first exception no element is
    taken; work in progress is finished and yielded, and then the exception is raised. Closing the generator cancels
    all workers.
    """
    elements = iter(source)
    done: asyncio.Queue[tuple[Result] | None] = asyncio.Queue(maxsize=workers)
    errors: list[BaseException] = []

    async def worker() -> None:
        try:
            while not errors:
                try:
                    element = next(elements)
                except StopIteration:
                    break
                await done.put((await work(element),))
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


@dataclass(frozen=True)
class Retries:
    """How often, and after how long, a request is sent again.

    The wait doubles with each attempt and is shortened at random by up to a half, so that requests that failed together
    are not retried together. It is never shorter than the server's Retry-After.

    Args:
        attempts: Times that a request is sent at most.
        first: Seconds before the second attempt.
        longest: Seconds that the doubling stops at.
        patience: Seconds beyond which a Retry-After is not waited for: the request fails.
    """

    attempts: int = 6
    first: float = 1.0
    longest: float = 60.0
    patience: float = 600.0

    def __post_init__(self) -> None:
        whole(self.attempts, 1, "model.retries.attempts")
        for name in ("first", "longest", "patience"):
            not_negative(getattr(self, name), f"model.retries.{name}")
        if self.first > self.longest:
            raise InputError(
                f"expected first up to longest, got {self.first} and {self.longest}", setting="model.retries"
            )

    def wait(self, failed: int, retry_after: float | None, random: Random) -> float | None:
        """Return the seconds to wait after so many failed attempts; None: give up.

        ``retry_after``: seconds that the server demands, if it does.
        """
        if failed >= self.attempts or (retry_after or 0) > self.patience:
            return None
        doubled = min(self.longest, self.first * 2.0 ** min(failed - 1, 60))
        return max(retry_after or 0.0, doubled * random.uniform(0.5, 1))


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110, 10.2.3: seconds or a date) or of OpenAI's retry-after-ms."""
    try:
        if "retry-after-ms" in headers:
            return _positive(float(headers["retry-after-ms"]) / 1000)
        return _positive(float(headers["retry-after"]))
    except KeyError:
        return None
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        return _positive(date.timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None


def _positive(seconds: float) -> float | None:
    return max(0.0, seconds) if seconds == seconds else None  # NaN
