"""Intervals against published quantiles of Student's t, and against what they are for: coverage."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.study.results import Interval, interval, paired_difference, student_quantile

# Two-sided 95 %, 99 % and 90 %, by degrees of freedom: any textbook's table.
PUBLISHED = {
    1: (12.706, 63.657, 6.314),
    2: (4.303, 9.925, 2.920),
    3: (3.182, 5.841, 2.353),
    4: (2.776, 4.604, 2.132),
    5: (2.571, 4.032, 2.015),
    9: (2.262, 3.250, 1.833),
    10: (2.228, 3.169, 1.812),
    30: (2.042, 2.750, 1.697),
    120: (1.980, 2.617, 1.658),
}


@pytest.mark.parametrize("degrees", PUBLISHED)
def test_quantiles_are_the_published_ones(degrees: int) -> None:
    for level, expected in zip((0.95, 0.99, 0.90), PUBLISHED[degrees], strict=True):
        assert student_quantile(degrees, level) == pytest.approx(expected, abs=6e-4)


def student_central(t: float, degrees: int) -> float:
    """The probability that |T| <= t, by the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = total = cosine if degrees % 2 else 1.0
    for k in range(3 if degrees % 2 else 2, degrees, 2):  # cos^k times (k - 1) / k times the one before
        term *= cosine * cosine * (k - 1) / k
        total += term
    if degrees % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))


@given(st.integers(1, 40), st.floats(0, 0.9999))
def test_quantile_inverts_probability(degrees: int, level: float) -> None:
    assert student_central(student_quantile(degrees, level), degrees) == pytest.approx(level, abs=1e-9)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert student_quantile(100_000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-4)


def test_the_interval_of_five_values_by_hand() -> None:
    values = [20.0, 22.0, 21.0, 25.0, 22.0]
    found = interval(values)
    assert found.mean == 22.0 and found.count == 5
    assert found.half == pytest.approx(2.776 * statistics.stdev(values) / 5**0.5, abs=1e-3)
    assert found.text() == "22.00 ± 2.32" and found.text(1, signed=True) == "+22.0 ± 2.3"
    assert found.excludes_zero and not Interval(1.0, 1.5, 5).excludes_zero


def test_values_that_no_seed_changes_have_no_interval() -> None:
    found = interval([1.5, 1.5, 1.5])
    assert found == (1.5, None, 3) and found.text() == "1.50" and not found.excludes_zero
    assert paired_difference([3.0, 4.0, 5.0], [2.0, 3.0, 4.0]).text(signed=True) == "+1.00"


def test_one_or_two_values_have_no_interval() -> None:
    assert interval([3.0]) == Interval(3.0, None, 1) and interval([3.0, 5.0]) == Interval(4.0, None, 2)
    assert interval([3.0]).text() == "3.00" and not interval([3.0]).excludes_zero


def test_pairs_take_out_what_seeds_have_in_common() -> None:
    reference = [10.0, 30.0, 50.0, 70.0]
    better = [value + gain for value, gain in zip(reference, (1.0, 1.1, 0.9, 1.0), strict=True)]
    found = paired_difference(better, reference)
    assert found.mean == pytest.approx(1.0) and found.excludes_zero
    assert interval(better).half > 20 > 1 > found.half
    with pytest.raises(ValueError):
        paired_difference(better, reference[:3])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        found = interval([draw.gauss(5.0, 2.0) for _ in range(4)])
        hits += abs(found.mean - 5.0) <= found.half
    assert 0.935 < hits / 2000 < 0.965
