"""Rate limits: so many requests and tokens a minute, evenly, and a pause for all when the server asks for one."""

import asyncio
import time
from dataclasses import dataclass


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
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"pace.{name} must be above 0, or null for no limit, got {value}")


class Pacer:
    """Gives each request its time.

    Every request is given the next free moment, and moves the one after it by its share of the minute: no more than
    the limit are sent in any minute, and no burst at its beginning.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._request_free = self._token_free = self._resume = 0.0
        self._ratio = 1.0  # of the tokens used to those estimated, of late

    async def turn(self, estimated: float) -> None:
        """Wait for the turn of a request of about so many tokens."""
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
        """Correct the estimate of a request by what it used."""
        if self.pace.tokens_per_minute is not None:
            self._token_free += (tokens - estimated * self._ratio) * 60 / self.pace.tokens_per_minute
        if estimated > 0:
            self._ratio += 0.1 * (tokens / estimated - self._ratio)

    def pause(self, seconds: float) -> None:
        """Let nobody begin for so long."""
        self._resume = max(self._resume, time.monotonic() + seconds)
