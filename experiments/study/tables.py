"""The tables of a report as data."""

from typing import NamedTuple

from experiments.study.results import Interval

NONE = "–"  # where a table has no figure


class Cell(NamedTuple):
    """A metric of a variant: its values by seed, their mean, and the paired difference from the reference's."""

    values: dict[int, float]
    mean: Interval
    difference: Interval | None


class Table(NamedTuple):
    """A section of the report: ``cells`` by variant and label of the metric."""

    title: str
    labels: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]
