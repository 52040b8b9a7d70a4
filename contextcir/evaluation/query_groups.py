"""Metrics over groups of queries: paraphrases that ask for the same, or the queries about one object.

A group metric has the values of another metric, query by query, and another mean over them. Queries outside of the
mean (another stratum, not seen) do not count in their group.
"""

from abc import abstractmethod
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

from contextcir.evaluation.metrics import Array, Metric, Ranks


class GroupMetric(Metric):
    """The mean over groups of a number that the values of each group's queries give.

    Args:
        of: the metric of the queries.
    """

    suffix: str

    def __init__(self, of: Metric) -> None:
        self.of = of

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # what the other metric needs, too
        return (*self.of.needs, "query_groups")

    @property
    def lower_is_better(self) -> bool:  # type: ignore[override]
        return self.of.lower_is_better

    @property
    def name(self) -> str:
        return f"{self.of.name}_{self.suffix}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.of == other.of

    def __hash__(self) -> int:
        return hash((type(self), self.of))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.of!r})"

    def values(self, ranks: Ranks) -> Array:
        return self.of.values(ranks)

    def over(self, values: Array, groups: Sequence[int] | None) -> float:
        """Return the figure, in 0..1, of values (Q,) of queries in ``groups`` (Q,)."""
        members: dict[int, list[float]] = {}
        for group, value in zip(groups or (), values.tolist(), strict=True):
            members.setdefault(group, []).append(value)
        numbers = [self.of_group(of) for of in self.chosen(members.values())]
        return sum(numbers) / len(numbers) if numbers else 0.0

    def chosen(self, groups: Iterable[list[float]]) -> list[list[float]]:
        """Return the groups that count."""
        return list(groups)

    @abstractmethod
    def of_group(self, values: list[float]) -> float:
        """Return the number of a group."""

    def describe(self, description: MutableMapping[str, Any]) -> None:
        description.setdefault("over_query_groups", []).append(self.name)


class MeanOfGroups(GroupMetric):
    """The mean over groups of their means: a group counts once, however many queries it has."""

    suffix = "by_group"

    def of_group(self, values: list[float]) -> float:
        return sum(values) / len(values)


class WorstOfGroups(GroupMetric):
    """The mean over groups of the worst value of each."""

    suffix = "worst"

    def of_group(self, values: list[float]) -> float:
        return max(values) if self.lower_is_better else min(values)


class SpreadOfGroups(GroupMetric):
    """The mean over groups of two queries or more of the difference of the largest and the smallest value.

    Over paraphrases this is the linguistic sensitivity of PinPoint's ``evaluate.py`` (Mahadev et al., CVPR 2026); lower
    is better.
    """

    suffix = "spread"
    lower_is_better = True

    def chosen(self, groups: Iterable[list[float]]) -> list[list[float]]:
        return [group for group in groups if len(group) > 1]

    def of_group(self, values: list[float]) -> float:
        return max(values) - min(values)
