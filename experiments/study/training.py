"""What the trainings of a study have cost, and how the figure on val has risen in them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import command
from experiments.study.plan import Plan
from experiments.study.results import Interval, interval
from experiments.study.tables import NONE

COLUMNS = 8  # steps in the table of a curve, at most
LATE = 0.75  # share of a training after which it should no longer rise

Records = Mapping[str, Mapping[int, Mapping[str, Any]]]  # content of training.json by variant and seed


class Point(NamedTuple):
    """A validation: the steps and processor seconds until then, and the figure by seed."""

    step: int
    seconds: float
    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return interval(list(self.values.values())).mean


def curves(records: Records, name: str) -> dict[str, list[Point]]:
    """Return the course of a figure ``SPLIT.composed.METRIC`` by variant, at the steps that all of its seeds have."""
    split, _, metric = name.split(".")
    found: dict[str, list[Point]] = {}
    for variant, by_seed in records.items():
        courses = {
            seed: {
                entry["step"]: (entry["cpu_seconds"], entry["figures"][split][metric])
                for entry in record["validations"]
                if metric in entry["figures"].get(split, {})
            }
            for seed, record in by_seed.items()
        }
        steps = set.intersection(*(set(course) for course in courses.values())) if courses else set()
        points = []
        for step in sorted(steps):
            seconds = [course[step][0] for course in courses.values()]
            points.append(
                Point(step, sum(seconds) / len(seconds), {seed: course[step][1] for seed, course in courses.items()})
            )
        if points:
            found[variant] = points
    return found


def late_rise(points: Sequence[Point]) -> Interval | None:
    """Return what the figure has risen in the last quarter of a training; None without a validation before it."""
    last = points[-1]
    before = [point for point in points if point.step <= LATE * last.step]
    if not before:
        return None
    return interval([last.values[seed] - before[-1].values[seed] for seed in last.values])


def cost_text(records: Records, label: str, figure: Callable[[str], Interval | None]) -> str:
    """Return the table of steps, processor seconds and a figure. ``figure``: its interval by variant."""
    rows = []
    for variant, by_seed in records.items():
        steps = sorted({record["steps"] for record in by_seed.values()})
        seconds = interval([record["cpu_seconds"] for record in by_seed.values()])
        rates = [rate for record in by_seed.values() if (rate := record["cpu_seconds_per_step"]) is not None]
        value = figure(variant)
        rows.append(
            [
                variant,
                " or ".join(f"{count:,}" for count in steps),
                seconds.text(0),
                f"{1000 * interval(rates).mean:.0f}" if rates else NONE,
                NONE if value is None else value.text(),
            ]
        )
    table = command.table(["", "steps", "CPU seconds of training", "CPU ms a step", label], rows).rstrip("\n")
    note = (
        "CPU seconds are those of all threads and loader processes in the training loop, without set-up, features that "
        "are encoded once, and validation; mean over seeds ± half of the 95 % interval."
    )
    return f"## Cost\n\n{note}\n\n{table}"


def curve_text(plan: Plan, found: Mapping[str, Sequence[Point]]) -> str:
    """Return the table of a figure by step."""
    steps = sorted({point.step for points in found.values() for point in points})
    steps = steps[:: -math.ceil(len(steps) / COLUMNS)][::-1]  # evenly, with the last one
    rows = []
    for variant, points in found.items():
        by_step = {point.step: point for point in points}
        rise = late_rise(points)
        cells = [f"{by_step[step].mean:.2f}" if step in by_step else NONE for step in steps]
        rows.append([variant, *cells, NONE if rise is None else rise.text(signed=True)])
    header = [f"`{plan.curve}`", *(f"{step:,} steps" for step in steps), "rise in the last quarter"]
    return "## During training\n\n" + command.table(header, rows).rstrip("\n")
