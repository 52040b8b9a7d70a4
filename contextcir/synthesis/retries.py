"""When a request that failed is sent again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import Random


@dataclass(frozen=True)
class Retries:
    """How often, and after how long, a request is sent again.

    The wait doubles with each attempt and is shortened at random by up to a half, so that what failed together does not
    come again together. What the server asks for (Retry-After) is the least that is waited.

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
        if self.attempts < 1 or not 0 <= self.first <= self.longest:
            raise ValueError(
                f"retries need attempts of at least 1 and 0 <= first <= longest, got {self.attempts}, {self.first}, "
                f"{self.longest}"
            )

    def wait(self, failed: int, asked: float | None, random: Random) -> float | None:
        """Return the seconds to wait after so many failed attempts; None: give up.

        ``asked``: seconds that the server asked for, if it did.
        """
        if failed >= self.attempts or (asked or 0) > self.patience:
            return None
        doubled = min(self.longest, self.first * 2.0 ** min(failed - 1, 60))
        return max(asked or 0.0, doubled * random.uniform(0.5, 1))


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
    return max(0.0, seconds) if seconds == seconds else None  # a NaN is no wait
