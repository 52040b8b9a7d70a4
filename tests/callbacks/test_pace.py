"""The stopwatch of a run, by a clock that tests set; and its hooks in a Trainer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.progress import Pace, clock


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


def test_the_rate_is_that_of_the_last_steps() -> None:
    time = Clock()
    pace = Pace(window=2, now=time)
    pace.start(0, 10)
    assert pace.rate is None
    for step, (seconds, triplets) in enumerate([(100, 1), (1, 8), (3, 8)], start=1):
        time.wait(seconds)
        pace.add(step, triplets)
    assert pace.rate == 16 / 4


def test_an_evaluation_is_left_out_of_the_rate_and_counts_for_the_time_left() -> None:
    time = Clock()
    pace = Pace(now=time)
    pace.start(0, 11)
    for step in range(1, 6):
        time.wait(2)
        pace.add(step, 8)
    assert (pace.rate, pace.seconds_left) == (4.0, 2.0 * 6)
    pace.pause()
    time.wait(8)
    pace.resume()
    time.wait(2)
    pace.add(6, 8)
    assert pace.rate == 4.0
    assert pace.seconds_left == (5 * 2 + 8) / 5 * 5  # five steps since the first, five to go


@given(st.lists(st.floats(0.1, 50), min_size=2, max_size=30), st.integers(0, 1000), st.integers(1, 500))
def test_the_time_left_is_that_of_the_mean_step(seconds: list[float], begin: int, left: int) -> None:
    time = Clock()
    pace = Pace(now=time)
    done = begin + len(seconds)
    pace.start(begin, done + left)  # as a run that goes on from a checkpoint
    for step, each in enumerate(seconds, start=begin + 1):
        time.wait(each)
        pace.add(step, 4)
    assert pace.seconds_left == pytest.approx(sum(seconds[1:]) / (len(seconds) - 1) * left)


def test_batches_that_share_a_step_count_as_one_step() -> None:
    time = Clock()
    pace = Pace(now=time)
    pace.start(0, 3)
    for step in (0, 1, 1, 2):  # two batches a step: it is done with the second
        time.wait(1)
        pace.add(step, 4)
    assert (pace.rate, pace.seconds_left) == (4.0, 2.0)


def test_no_time_left_is_told_where_nobody_knows_it() -> None:
    pace = Pace(now=Clock())
    pace.start(0, math.inf)
    for step in range(1, 4):
        pace.add(step, 4)
    assert pace.seconds_left is None
    assert pace.rate is None  # no time has passed
    assert clock(pace.seconds_left) == "-:--:--"


def test_times_are_told_as_a_clock_does() -> None:
    assert (clock(3725.4), clock(-1.0), clock(90000)) == ("1:02:05", "0:00:00", "1 day, 1:00:00")
