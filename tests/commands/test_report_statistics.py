"""Intervals against those of the studies, and the exact test against SciPy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from experiments.report.statistics import estimate, mcnemar
from experiments.study.queries import cluster_bootstrap


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_test_is_the_binomial_test_of_the_queries_on_which_runs_differ(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost, 0.5).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_test_holds_for_many_queries() -> None:
    assert mcnemar(20_000, 20_100) == pytest.approx(binomtest(20_000, 40_100, 0.5).pvalue, rel=1e-6)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 1)), min_size=1, max_size=30))
def test_intervals_are_those_of_the_cluster_bootstrap_of_studies(queries: list[tuple[str, int | None]]) -> None:
    clusters, values = [name for name, _ in queries], [value for _, value in queries]
    among = range(0, len(queries), 2)
    figure = estimate(values, clusters, among, draws=300)
    counted = [(clusters[place], values[place]) for place in among if values[place] is not None]
    if not counted:
        assert figure is None
        return
    names = sorted({name for name, _ in counted})
    sums = [float(sum(value for name, value in counted if name == one)) for one in names]
    counts = [sum(name == one for name, _ in counted) for one in names]
    expected = cluster_bootstrap(sums, counts, draws=300)
    assert (figure.mean, figure.low, figure.high) == pytest.approx([100 * bound for bound in expected])
    assert figure.count == len(counted) and figure.clusters == len(names)
