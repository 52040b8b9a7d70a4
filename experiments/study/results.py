"""What the runs of a study have measured: metrics by name, the settings that they choose, and means over seeds."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.errors import InputError
from contextcir.files import read_json
from experiments.study.plan import Plan, Trial

RESULT = "result.json"  # of a trial, in its folder
RUN_FOLDER = "run"  # of what experiments.run leaves, in it
LEVEL = 0.95  # of all confidence intervals
FEWEST = 3  # values of an interval: the spread of two is a single number, of which Student's t would take nine times
PHASES = ("fit_end", "validate", "test")  # of metrics.json; later ones take precedence
POOLED = re.compile(r"(?P<stem>.+_)(?P<parts>\d+(?:\+\d+)+)$")  # ..._concepts_3+4

Outcomes = Callable[[str], Mapping[Any, float]]  # of a figure's name, by query, in 0..1


def read_result(trial: Trial, root: Path) -> dict[str, Any] | None:
    """Return the result of a trial, None while there is none.

    Raises:
        InputError: if other settings made it: the study has changed since.
    """
    path = root / trial.name / RESULT
    result = read_json(path)
    if result is None:
        return None
    if not isinstance(result, dict) or not {"flags", "subcommands", "metrics"} <= result.keys():
        raise InputError("is no result of a run: remove it, and the same command makes it again", file=path)
    if result["flags"] != list(trial.flags) or result["subcommands"] != list(trial.subcommands):
        changed = ", ".join(sorted(set(result["flags"]) ^ set(trial.flags))) or "in another order"
        raise InputError(
            f"was made with other settings ({changed}): the study has changed; choose another folder for it, or remove "
            "that of this trial",
            file=path,
            setting="out",
        )
    return result


class Figures:
    """All metrics of a run, named ``SPLIT.ROW.METRIC`` (recall tables) and ``SPLIT.METRIC`` (anything else).

    ``SPLIT.ROW.METRIC_concepts_3+4`` is the mean over the queries of both groups, and ``SPLIT+SPLIT.ROW.METRIC`` that
    over the queries of both splits.

    Args:
        results: content of ``metrics.json``. What was measured before training is left out.
        outcomes: returns what a figure finds by query (see `QueryFigures`), for figures over several splits.
    """

    def __init__(self, results: Mapping[str, Any], outcomes: Outcomes = lambda name: {}) -> None:
        self.outcomes = outcomes
        self.values: dict[str, float] = {}
        self.sizes: dict[str, Mapping[str, int]] = {}  # number of queries by split and group
        self.tested: set[str] = set()  # splits that only `test` has evaluated
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
        """Return one metric, None where there is none of this name."""
        if "+" in name.partition(".")[0]:
            of_queries = list(self.outcomes(name).values())
            return 100 * mean(of_queries) if of_queries else None
        pooled = POOLED.match(name)
        if name in self.values or not pooled:
            return self.values.get(name)
        sizes = self.sizes.get(name.split(".", 1)[0], {})
        total, count = 0.0, 0
        for part in pooled["parts"].split("+"):
            metric = pooled["stem"] + part
            size = next((size for group, size in sizes.items() if metric.endswith(f"_{group}")), None)
            if metric not in self.values or size is None:
                return None
            total, count = total + self.values[metric] * size, count + size
        return total / count

    def names(self, pattern: str) -> dict[str, str]:
        """Return the names that match a pattern, sorted, by what its ``*`` stands for.

        The ``*`` never covers the name of a group: ``first_*`` is every ``first_ROLE``, but not those by concepts.
        Without a ``*`` it is one name, which may be that of pooled groups.
        """
        if "*" not in pattern:
            return {"": pattern} if self.get(pattern) is not None else {}
        splits, _, rest = pattern.partition(".")
        if "+" in splits:  # what the first one has
            first = self.names(f"{splits.partition('+')[0]}.{rest}")
            names = {match: f"{splits}.{name.partition('.')[2]}" for match, name in first.items()}
            return {match: name for match, name in names.items() if self.get(name) is not None}
        before, _, behind = pattern.partition("*")
        groups = tuple({f"_{group}" for sizes in self.sizes.values() for group in sizes})
        names = [name for name in sorted(self.values) if fnmatchcase(name, pattern)]
        matches = {name[len(before) : len(name) - len(behind)]: name for name in names}
        return {match: name for match, name in matches.items() if not match.endswith(groups)}

    def is_test(self, name: str) -> bool:
        """Tell whether a metric comes from a split, or from one of several, that only ``test`` has evaluated."""
        return not self.tested.isdisjoint(name.partition(".")[0].split("+"))


class Choices(NamedTuple):
    """The outcome of tuning: mean of ``metric`` by variant and setting, and the index of the chosen setting."""

    metric: str
    seeds: tuple[int, ...]
    means: dict[str, list[float]]
    chosen: dict[str, int]


def choose(plan: Plan, root: Path) -> Choices | None:
    """Return the setting of the highest mean for each variant, the first of equal ones; None until all runs are done.

    Raises:
        InputError: if a run lacks the metric that decides.
    """
    if plan.tune is None:
        return Choices("", (), {}, dict.fromkeys((variant.name for variant in plan.variants), 0))
    scores: dict[str, dict[str, list[float]]] = {}
    for trial in plan.tuning_trials():
        result = read_result(trial, root)
        if result is None:
            return None
        value = Figures(result["metrics"]).get(plan.tune.metric)
        if value is None:
            path = root / trial.name / RESULT
            raise InputError(f"has no {plan.tune.metric}, by which tune.metric chooses settings", file=path)
        setting = trial.name.split("/")[2]
        scores.setdefault(trial.variant, {}).setdefault(setting, []).append(value)
    means = {name: [mean(values) for values in settings.values()] for name, settings in scores.items()}
    chosen = {name: values.index(max(values)) for name, values in means.items()}
    return Choices(plan.tune.metric, plan.tune.seeds, means, chosen)


class Interval(NamedTuple):
    """A mean over ``count`` values, and the half-width of its confidence interval; None where `interval` gives none."""

    mean: float
    half: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.half is not None and abs(self.mean) > self.half

    def text(self, digits: int = 2, signed: bool = False) -> str:
        """Format it for a table."""
        mean = f"{self.mean:{'+' if signed else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"


def mean(values: Sequence[float]) -> float:
    """Return the mean, rounded once."""
    return math.fsum(values) / len(values)


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """Return the t with |T| <= t of probability ``level`` in [0, 1): 2.776 at 4 degrees of freedom and 0.95."""
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls, at a third of its import time

    return float(stdtrit(degrees, (1 + level) / 2))


def interval(values: Sequence[float]) -> Interval:
    """Return mean and confidence interval (Student's t) of independent values, one a seed.

    There is none for fewer than `FEWEST`, nor for equal values: a figure that no seed changes has no spread to tell.
    """
    count, centre = len(values), mean(values)
    if count < FEWEST or math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-9):
        return Interval(centre, None, count)
    variance = math.fsum((value - centre) ** 2 for value in values) / (count - 1)
    return Interval(centre, student_quantile(count - 1) * math.sqrt(variance / count), count)


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """Return mean and interval of ``values`` minus ``reference``, pair by pair: the same seed in both."""
    return interval([value - other for value, other in zip(values, reference, strict=True)])
