"""What runs have found query by query: figures over any queries, and differences with a bootstrap over references.

Queries of one reference share its picture and often their targets, so they are no independent samples: references are.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextcir.files import read_json
from experiments.study.plan import Trial
from experiments.study.results import LEVEL, RUN_FOLDER

DRAWS = 2000
MOST = 2**24  # numbers that a bootstrap draws at a time: 128 MB
SEED = 0
FIGURE = re.compile(
    r"(?P<splits>[A-Za-z]\w*(\+[A-Za-z]\w*)*)\.((?P<row>\w+)\.(?P<kind>recall|subset_recall)_at_(?P<k>\d+)"
    r"|target_before_(?P<role>\w+?))(_(?P<stem>[A-Za-z]+_)(?P<groups>\d+(\+\d+)*))?"
)
RANKS = {"recall": "rank", "subset_recall": "subset_rank"}

Query = tuple[str, int]  # split, position in its protocol


class QueryFigures:
    """The outcomes of a run by query.

    A name is ``SPLITS.ROW.recall_at_K``, ``SPLITS.ROW.subset_recall_at_K`` or ``SPLITS.target_before_ROLE``, where
    splits are joined by ``+``: ``val+test.composed.recall_at_1``. Groups of queries may follow as in the metrics'
    names, a word and a number, joined by ``+`` as well: ``val+test.composed.recall_at_1_concepts_3+4``.

    Args:
        content: of ``queries.json``.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def outcomes(self, name: str) -> dict[Query, float]:
        """Return 1 for a query that a figure counts and 0 for one that it does not; nothing if it has no such name.

        Queries that were not seen, or that have no image of the role, are left out.
        """
        parts = FIGURE.fullmatch(name)
        splits = parts["splits"].split("+") if parts else []
        if parts is None or not set(splits) <= self.content.keys():
            return {}
        found: dict[Query, float] = {}
        for split in splits:
            entry = self.content[split]
            if parts["role"]:
                roles = {re.sub(r"\W+", "_", role): of for role, of in entry.get("target_before", {}).items()}
                values = roles.get(parts["role"])
            else:
                values = entry["rows"].get(parts["row"], {}).get(RANKS[parts["kind"]])
            if values is None:
                return {}
            chosen = range(len(values))
            if parts["stem"]:
                groups = [f"{parts['stem']}{group}" for group in parts["groups"].split("+")]
                if not set(groups) <= entry["strata"].keys():
                    return {}
                chosen = sorted({place for group in groups for place in entry["strata"][group]})
            for place in chosen:
                value = values[place]
                if value is not None:
                    found[split, place] = float(value if parts["role"] else 0 < value <= int(parts["k"]))
        return found

    def reference(self, query: Query) -> str:
        """Return the name of a query's reference; a query whose reference has no name stands for itself."""
        split, place = query
        name = self.content[split]["references"][place]
        return f"{split} {place}" if name is None else name


def read_queries(trial: Trial, root: Path) -> QueryFigures:
    """Return what a run has found by query: nothing if it wrote no such file."""
    return QueryFigures(read_json(root / trial.name / RUN_FOLDER / "queries.json") or {})


class Bootstrapped(NamedTuple):
    """A difference in percent and its interval over ``references`` references with ``queries`` queries, ``seeds``."""

    mean: float
    low: float
    high: float
    references: int
    queries: int
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0

    def text(self) -> str:
        """Format it for a table."""
        text = f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"
        return f"**{text}**" if self.excludes_zero else text


def bootstrap_difference(
    first: Mapping[int, QueryFigures], second: Mapping[int, QueryFigures], name: str
) -> Bootstrapped | None:
    """Return the difference of a figure of two variants, given by seed, with a percentile interval.

    References are drawn with replacement, each with all of its queries and the runs of all seeds that both variants
    have (cluster bootstrap; Efron and Tibshirani 1993, chapter 8). So the interval says how the difference would vary
    with other queries, for these trained models; how it varies with the seed is another question. None where no query
    has the figure in both.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    queries: set[Query] = set()
    seeds = 0
    for seed in sorted(first.keys() & second.keys()):
        ours, theirs = first[seed].outcomes(name), second[seed].outcomes(name)
        both = sorted(ours.keys() & theirs.keys())
        seeds += bool(both)
        queries |= set(both)
        for query in both:
            reference = first[seed].reference(query)
            sums[reference] = sums.get(reference, 0.0) + ours[query] - theirs[query]
            counts[reference] = counts.get(reference, 0) + 1
    if not sums:
        return None
    names = sorted(sums)
    mean, low, high = cluster_bootstrap([sums[name] for name in names], [counts[name] for name in names])
    return Bootstrapped(100 * mean, 100 * low, 100 * high, len(names), len(queries), seeds)


def cluster_bootstrap(
    sums: Sequence[float], counts: Sequence[int], draws: int = DRAWS, seed: int = SEED, level: float = LEVEL
) -> tuple[float, float, float]:
    """Return the mean over all values of clusters, and its percentile interval when clusters are drawn again.

    ``sums`` and ``counts`` (C,) of the values of each cluster; every count is at least 1.
    """
    total, number = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    generator, shares = np.random.default_rng(seed), np.full(len(total), 1 / len(total))
    step, drawn = max(1, MOST // len(total)), []
    for start in range(0, draws, step):
        times = generator.multinomial(len(total), shares, min(step, draws - start))
        drawn.append(times @ total / (times @ number))
    means = np.concatenate(drawn)  # (draws,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(total.sum() / number.sum()), float(low), float(high)
