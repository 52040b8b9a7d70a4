"""Figures of a trial by name, from its ``metrics.json``: ``test.composed.recall_at_1_concepts_3``.

Means over seeds with intervals by Student's t: exact, in plain Python.
"""

import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

PHASES = ("fit_end", "validate", "test")  # of metrics.json, the most wanted last
POOLED = re.compile(r"(?P<stem>.+_)(?P<parts>\d+(?:\+\d+)+)$")  # ..._concepts_3+4


class Figures:
    """All numbers of a run, named ``SPLIT.ROW.METRIC`` (recall tables) and ``SPLIT.METRIC`` (anything else).

    ``SPLIT.ROW.METRIC_concepts_3+4`` is the mean over the queries of both groups.

    Args:
        results: content of ``metrics.json``. What was measured before training is left out.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.values: dict[str, float] = {}
        self.sizes: dict[str, Mapping[str, int]] = {}  # queries of each group, by split
        self.tested: set[str] = set()  # splits that only `test` has seen
        for phase in PHASES:
            for split, entry in results.get(phase, {}).items():
                if phase == "test" and split not in self.sizes:
                    self.tested.add(split)
                self.sizes[split] = entry.get("protocol", {}).get("strata", {})
                for row, figures in entry.get("rows", {}).items():
                    self.values |= {f"{split}.{row}.{name}": value for name, value in figures.items()}
                self.values |= {
                    f"{split}.{name}": value
                    for name, value in entry.items()
                    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
                }

    def get(self, name: str) -> float | None:
        """Return one figure, None where there is none of this name."""
        pooled = POOLED.match(name)
        if name in self.values or not pooled:
            return self.values.get(name)
        sizes = self.sizes.get(name.split(".", 1)[0], {})
        total, count = 0.0, 0
        for part in pooled["parts"].split("+"):
            value = self.values.get(pooled["stem"] + part)
            size = next(
                (size for group, size in sizes.items() if f"{pooled['stem']}{part}".endswith(f"_{group}")), None
            )
            if value is None or size is None:
                return None
            total, count = total + value * size, count + size
        return total / count

    def names(self, pattern: str) -> dict[str, str]:
        """Return what stands for the ``*`` of a pattern, and the whole name of the figure, sorted.

        The ``*`` never covers the name of a group: ``first_*`` is every ``first_ROLE``, but not those by concepts.
        Without a ``*`` it is one name, which may be that of pooled groups.
        """
        if "*" not in pattern:
            return {"": pattern} if self.get(pattern) is not None else {}
        before, _, behind = pattern.partition("*")
        found = {
            name[len(before) : len(name) - len(behind)]: name
            for name in sorted(self.values)
            if fnmatchcase(name, pattern)
        }
        groups = {group for of in self.sizes.values() for group in of}
        return {what: name for what, name in found.items() if not what.endswith(tuple(f"_{g}" for g in groups))}

    def is_test(self, name: str) -> bool:
        """Tell whether a figure comes from a split that only ``test`` has seen."""
        return name.split(".", 1)[0] in self.tested


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
