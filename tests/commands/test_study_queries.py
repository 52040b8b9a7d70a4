"""Figures by query and their bootstrap, against counts by hand and against all resamples there are."""

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.study.queries import QueryFigures, bootstrap_difference, cluster_bootstrap


def entry(ranks: list[int | None], references: list[str | None], subset: list[int | None] | None = None) -> dict:
    half = len(ranks) // 2
    return {
        "queries": list(range(100, 100 + len(ranks))),
        "references": references,
        "strata": {"concepts_1": list(range(half)), "concepts_2": [half], "concepts_3": list(range(half + 1, 4))},
        "rows": {"composed": {"rank": ranks, "subset_rank": subset or ranks}},
        "target_before": {"wrong object": [True, None, False, True]},
    }


CONTENT = {
    "val": entry([1, 2, 0, None], ["a", "a", "b", "b"], [1, 1, 2, 3]),
    "test": entry([1, 1, 5, 1], ["c", "c", "d", None]),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val.composed.recall_at_1", {("val", 0): 1, ("val", 1): 0, ("val", 2): 0}),
        ("val.composed.recall_at_5", {("val", 0): 1, ("val", 1): 1, ("val", 2): 0}),  # 0: not ranked at all
        ("val.composed.subset_recall_at_1", {("val", 0): 1, ("val", 1): 1, ("val", 2): 0, ("val", 3): 0}),
        ("val+test.composed.recall_at_1_concepts_2", {("val", 2): 0, ("test", 2): 0}),
        ("test.composed.recall_at_1_concepts_2+3", {("test", 2): 0, ("test", 3): 1}),
        ("val.target_before_wrong_object", {("val", 0): 1, ("val", 2): 0, ("val", 3): 1}),
        ("val.target_before_wrong_object_concepts_1", {("val", 0): 1}),
        ("val+other.composed.recall_at_1", {}),
        ("val.sum.recall_at_1", {}),
        ("val.composed.map_at_5", {}),
        ("val.composed.recall_at_1_concepts_9", {}),
        ("val.target_before_nobody", {}),
    ],
)
def test_a_name_chooses_queries_and_what_counts(name: str, expected: dict) -> None:
    assert QueryFigures(CONTENT).outcomes(name) == expected


def test_a_query_without_a_named_reference_stands_for_itself() -> None:
    figures = QueryFigures(CONTENT)
    assert figures.reference(("val", 2)) == "b" and figures.reference(("test", 3)) == "test 3"


def all_resamples(sums: list[float], counts: list[int]) -> list[float]:
    """The mean of every resample of the clusters, each as likely as the others."""
    return sorted(
        sum(sums[i] for i in drawn) / sum(counts[i] for i in drawn)
        for drawn in itertools.product(range(len(sums)), repeat=len(sums))
    )


def share_below(values: list[float], bound: float) -> float:
    return sum(value < bound - 1e-9 for value in values) / len(values)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(3, 5)), min_size=2, max_size=5), st.integers(0, 99))
def test_the_interval_is_that_of_all_resamples(clusters: list[tuple[int, int]], seed: int) -> None:
    sums, counts = [float(total) for total, _ in clusters], [count for _, count in clusters]
    mean, low, high = cluster_bootstrap(sums, counts, draws=4000, seed=seed)
    every = all_resamples(sums, counts)
    assert mean == pytest.approx(sum(sums) / sum(counts)) and low <= high
    # With 4,000 draws, the share below a quantile is known to 0.0025 (one standard deviation): four of them.
    assert share_below(every, low) <= 0.025 + 0.01 and share_below(every, high) <= 0.975 + 0.01
    assert 1 - share_below([-value for value in every], -low) >= 0.025 - 0.01 or low == every[0]
    assert 1 - share_below([-value for value in every], -high) >= 0.975 - 0.01


def test_the_difference_is_paired_by_query_and_seed_and_drawn_by_reference() -> None:
    draw = random.Random(3)
    references = [f"r{number // 4}" for number in range(40)]

    def run(gain: float) -> QueryFigures:
        ranks = [1 if draw.random() < 0.4 + gain else 2 for _ in references]
        return QueryFigures({"val": entry(ranks, references)})

    first, second = {seed: run(0.2) for seed in (1, 2)}, {seed: run(0.0) for seed in (1, 2, 3)}
    found = bootstrap_difference(first, second, "val.composed.recall_at_1")

    def outcome(runs: dict[int, QueryFigures], seed: int, query: int) -> int:
        return runs[seed].content["val"]["rows"]["composed"]["rank"][query] == 1

    by_reference: dict[str, list[int]] = {}
    for seed, query in itertools.product((1, 2), range(40)):
        by_reference.setdefault(references[query], []).append(
            outcome(first, seed, query) - outcome(second, seed, query)
        )
    names, rng = sorted(by_reference), np.random.default_rng(0)
    means = []
    for _ in range(2000):
        times = rng.multinomial(len(names), [1 / len(names)] * len(names))
        values = [value for name, count in zip(names, times, strict=True) for value in by_reference[name] * count]
        means.append(100 * sum(values) / len(values))
    every = [value for values in by_reference.values() for value in values]
    assert found.mean == pytest.approx(100 * sum(every) / len(every))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert (found.references, found.queries, found.seeds) == (10, 40, 2)


def test_equal_runs_differ_by_nothing_and_runs_without_the_figure_have_no_difference() -> None:
    same: dict[int, Any] = {1: QueryFigures(CONTENT)}
    found = bootstrap_difference(same, same, "val+test.composed.recall_at_1")
    assert found[:3] == (0, 0, 0) and not found.excludes_zero and found.text() == "+0.00 [+0.00, +0.00]"
    assert bootstrap_difference(same, same, "val.composed.map_at_5") is None
    assert bootstrap_difference(same, {2: same[1]}, "val.composed.recall_at_1") is None


def test_intervals_cover_the_truth_where_queries_of_a_reference_go_together() -> None:
    draw, hits = random.Random(0), 0
    for repeat in range(300):
        sums, counts = [], []
        for _ in range(80):
            shared = draw.gauss(0.1, 0.5)  # of all queries of a reference: intervals over queries would be too narrow
            values = [shared + draw.gauss(0, 0.1) for _ in range(4)]
            sums.append(sum(values))
            counts.append(len(values))
        _, low, high = cluster_bootstrap(sums, counts, draws=400, seed=repeat)
        hits += low <= 0.1 <= high
    assert 0.90 < hits / 300 < 0.98
