"""Means over seeds with intervals by Student's t: exact, in plain Python."""

import math
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95  # of all intervals


class Interval(NamedTuple):
    """A mean over ``count`` values, and the half-width of its interval; None where one value can't tell."""

    mean: float
    half: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.half is not None and abs(self.mean) > self.half

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """Return it as it stands in a table."""
        mean = f"{self.mean:{'+' if signed else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"


def student_central(t: float, degrees: int) -> float:
    """Return the probability that |T| <= t for Student's T with ``degrees`` of freedom.

    The finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, got {degrees}")
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(3 if odd else 2, degrees, 2):  # cos^k times (k - 1) / k times the one before
        term *= cosine * cosine * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """Return the t with |T| <= t of probability ``level`` in [0, 1): 2.776 at 4 degrees of freedom and 0.95."""
    if not 0 <= level < 1:
        raise ValueError(f"expected a level from 0 up to, but not, 1, got {level}")
    low, high = 0.0, 1.0
    while student_central(high, degrees) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_central(middle, degrees) < level else (low, middle)
    return high


def interval(values: Sequence[float]) -> Interval:
    """Return mean and interval of independent values, one for each seed."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, student_quantile(count - 1) * math.sqrt(variance / count), count)


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """Return mean and interval of ``values`` minus ``reference``, pair by pair: the same seed in both."""
    return interval([value - other for value, other in zip(values, reference, strict=True)])
