"""Means over queries with bootstrap intervals, and the exact test of two runs on the same queries."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from experiments.study.queries import cluster_bootstrap

DRAWS = 2000
SEED = 0


class Estimate(NamedTuple):
    """A mean over ``count`` queries of ``clusters`` references, in percent, and its interval."""

    mean: float
    low: float
    high: float
    count: int
    clusters: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0


def estimate(
    values: Sequence[float | None], clusters: Sequence[str], among: Sequence[int], draws: int = DRAWS
) -> Estimate | None:
    """Return the mean of some queries' values in percent; None where no query has one.

    The interval is of percentiles when the references are drawn again with replacement, each with all of its queries
    (cluster bootstrap; Efron and Tibshirani 1993, chapter 8). The same references are drawn for all figures of a group.

    Args:
        values: of all queries, None for one that does not count.
        clusters: the reference of each query.
        among: positions of the queries that are meant.
        draws: how often references are drawn.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for place in among:
        value = values[place]
        if value is not None:
            sums[clusters[place]] = sums.get(clusters[place], 0.0) + value
            counts[clusters[place]] = counts.get(clusters[place], 0) + 1
    if not sums:
        return None
    names = sorted(sums)
    number = [counts[name] for name in names]
    mean, low, high = cluster_bootstrap([sums[name] for name in names], number, draws, SEED)
    return Estimate(100 * mean, 100 * low, 100 * high, sum(number), len(names))


def mcnemar(won: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Of the queries on which two runs differ, as many should be won as lost if the runs are equally good: a binomial test
    with probability 1/2 (McNemar 1947; Agresti, Categorical Data Analysis, section 11.1). 1 where they never differ.
    """
    trials, least = won + lost, min(won, lost)
    ways, total = 1, 0
    for hits in range(least + 1):
        total += ways
        ways = ways * (trials - hits) // (hits + 1)
    return float(min(Fraction(1), Fraction(2 * total, 2**trials)))
