"""Every figure of a result, computed again from the ranks: verified, different, or why neither can be said."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from contextcir.errors import InputError
from contextcir.evaluation.metrics import CutOff, FirstTargetRecallAt, MeanOf, Metric, RecallAt
from experiments.bundle.ranks import NotKeptError, StoredRanks

VERIFIED, UNVERIFIED, DIFFERS = "verified", "could not be verified", "differs"
DIGITS = 4  # of figures in result files
SINGLE = 6e-7  # relative precision of figures that were computed in single precision
MEAN = "mean_of"
METRICS = ("metrics", "gain", "wrong_answers", "query_groups", "whole_rankings")  # modules of contextcir.evaluation
ROWS = "rows"
BEFORE = "target_before"
ABOUT = ("epoch", "step", "parameters", "dimension")  # numbers that say what was evaluated, and are no figures
COUNTED = ("queries", "labelled", "targets_per_query_max", "strata", "gallery")


class Figure(NamedTuple):
    """What became of a figure. ``name`` begins with phase and split; ``found``: from the ranks; ``why`` in words."""

    name: str
    value: Any
    state: str
    found: Any = None
    why: str = ""

    @property
    def line(self) -> str:
        """Return the figure in a line."""
        if self.state == DIFFERS:
            return f"{self.name} says {self.value}, {self.why or f'the ranks give {self.found}'}"
        return f"{self.name} {self.value}: {self.state}{f' ({self.why})' if self.why else ''}"


class Split:
    """The ranks of a split, and the metrics of its protocol.

    Args:
        entry: of the split, as in ``queries.json``.
        protocol: as its result describes it.

    Raises:
        InputError: if the ranks contradict each other.
    """

    def __init__(self, entry: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
        self.entry, self.protocol = entry, protocol
        several = protocol["targets_per_query_max"] > 1
        self.rows = {row: StoredRanks(entry, row, several, bool(protocol["recall_of_first"])) for row in entry[ROWS]}
        if not self.rows or len(entry["references"]) != len(entry["queries"]):
            raise InputError("expected ranks of at least one row, and one reference for each query")
        self.strata: dict[str, set[int]] = {name: set(members) for name, members in entry["strata"].items()}
        if any(not members <= set(range(len(entry["queries"]))) for members in self.strata.values()):
            raise InputError("strata: a group names a query that does not exist")
        self._values: dict[tuple[str, str], np.ndarray] = {}

    def values(self, row: str, name: str) -> np.ndarray:
        """Return the values (Q,) of a metric in 0..1 of the queries that were seen.

        Raises:
            NotKeptError: if it can't be computed from what was kept.
        """
        if row not in self.rows:
            raise NotKeptError(f"the ranks of {row} were not kept")
        if (row, name) not in self._values:
            metric = metric_of(name, self.protocol)
            if metric is None:
                raise NotKeptError("it does not follow from ranks")
            try:
                self._values[row, name] = np.asarray(metric.values(self.rows[row]), dtype=float)
            except (AttributeError, NotImplementedError, TypeError) as error:
                raise NotKeptError(f"it needs more than ranks of targets ({type(error).__name__})") from None
        return self._values[row, name]

    def mean(self, row: str, figure: str) -> tuple[float, bool]:
        """Return a figure in percent, and whether single precision computes it without rounding errors but the last.

        Raises:
            NotKeptError: if it can't be computed from what was kept.
        """
        name, stratum = self.parts(figure)
        values = self.values(row, name)
        seen, of_queries = self.rows[row].seen, self.entry.get("query_groups")
        chosen = [stratum is None or place in self.strata[stratum] for place in seen]
        mean, exact = _mean(values[chosen])
        over = getattr(metric_of(name, self.protocol), "over", None)
        if over is None or name not in self.protocol.get("over_query_groups", ()):
            return mean, exact
        if not isinstance(of_queries, list) or len(of_queries) != len(self.entry["queries"]):
            raise NotKeptError("the groups of queries were not kept")
        groups = [of_queries[place] for place, inside in zip(seen, chosen, strict=True) if inside]
        return 100 * float(over(values[chosen], groups)), False

    def gain(self, row: str, stratum: str | None = None) -> float:
        """Return the nDCG of a row in percent: the sum over targets of 1 / log2(1 + rank), divided by the highest one.

        Raises:
            NotKeptError: if it can't be computed from what was kept.
        """
        if row not in self.rows:
            raise NotKeptError(f"the ranks of {row} were not kept")
        ranks = self.rows[row]
        only_subsets = not self.protocol["recall_at"] and bool(self.protocol["subset_recall_at"])
        counts = ranks.target_counts
        found = ranks.subset_targets if only_subsets else ranks.targets  # (Q, K), infinite where missing
        ideal = np.array([(1 / np.log2(np.arange(2, count + 2))).sum() for count in counts])
        chosen = [stratum is None or place in self.strata[stratum] for place in ranks.seen]
        return _mean(((1 / np.log2(found + 1)).sum(1) / ideal)[chosen])[0]

    def before(self, figure: str) -> tuple[float, bool]:
        """Return the share of queries whose target came before all images of a role; as `mean`."""
        for role, outcomes in self.entry.get(BEFORE, {}).items():
            word = re.sub(r"\W+", "_", role)
            begin = f"{BEFORE}_{word}"
            if figure == begin or figure.removeprefix(f"{begin}_") in self.strata:
                group = self.strata.get(figure.removeprefix(f"{begin}_"))
                values = [
                    float(outcome)
                    for place, outcome in enumerate(outcomes)
                    if outcome is not None and (group is None or place in group)
                ]
                return _mean(np.array(values))
        raise NotKeptError("it does not follow from ranks")

    def parts(self, figure: str) -> tuple[str, str | None]:
        """Return the metric and the group of a figure's name."""
        if metric_of(figure, self.protocol) is None:
            for stratum in sorted(self.strata, key=len, reverse=True):
                name = figure.removesuffix(f"_{stratum}")
                if name != figure and metric_of(name, self.protocol) is not None:
                    return name, stratum
        return figure, None


def check_composition(name: str, found: Any, gain: Callable[[str, str | None], float]) -> Iterator[Figure]:
    """Yield what became of the nDCG of every row and of the Composition Gaps that follow from them.

    ``gain`` returns the nDCG of a row, in percent, among all queries or a group of them. A gap is
    1 - max(image only, text only) / composed, None where the composed query finds nothing.
    """

    def gap(stratum: str | None) -> float | None:
        composed, image, text = (gain(row, stratum) for row in ("composed", "image_only", "text_only"))
        return None if composed == 0 else 1 - max(image, text) / composed

    for row, value in found.get("ndcg", {}).items():
        yield _compared(f"{name}.composition.ndcg.{row}", value, lambda r=row: gain(r, None), DIGITS)
    gaps = {"gap": (found.get("gap"), None)}
    gaps |= {f"gap.{stratum}": (value, stratum) for stratum, value in found.get("strata", {}).items()}
    for key, (value, stratum) in gaps.items():
        yield _compared(f"{name}.composition.{key}", value, lambda s=stratum: gap(s), 6)


def _compared(name: str, value: Any, compute: Callable[[], float | None], digits: int) -> Figure:
    try:
        found = compute()
    except NotKeptError as error:
        return Figure(name, value, UNVERIFIED, why=str(error))
    if value is None or found is None:
        same = value is None and found is None
    else:
        same = type(value) in (int, float) and abs(value - found) <= 0.51 * 10**-digits + 2e-6 * max(1, abs(found))
    return Figure(name, value, VERIFIED if same else DIFFERS, None if found is None else round(found, digits))


def metric_of(name: str, protocol: Mapping[str, Any]) -> Metric | None:
    """Return the metric of a name under a protocol, None for one that is not known."""
    means = protocol.get("means") or {}
    if name in means:
        parts = [metric_of(part, {**protocol, "means": {}}) for part in means[name]]
        known = [part for part in parts if part is not None]
        return MeanOf(name, *known) if len(known) == len(parts) and known else None
    load_metrics()
    kinds = {kind.prefix: kind for kind in _cut_offs(CutOff) if kind is not FirstTargetRecallAt}
    if protocol.get("recall_of_first"):
        kinds[RecallAt.prefix] = FirstTargetRecallAt
    if name in (plain := whole_metrics()):
        return plain[name]
    for group in group_metrics():
        of = metric_of(name.removesuffix(f"_{group.suffix}"), protocol) if name.endswith(f"_{group.suffix}") else None
        if of is not None:
            return group(of)
    for prefix, kind in kinds.items():
        if name.startswith(prefix) and name[len(prefix) :].isdecimal() and len(name) - len(prefix) < 7:
            return kind(int(name[len(prefix) :]))
    return None


def check_result(name: str, entry: Mapping[str, Any], ranks: Split | None, why: str = "") -> Iterator[Figure]:
    """Yield what became of every figure of a result of one split.

    Args:
        name: phase and split.
        entry: the result.
        ranks: of its queries; None where there are none, for the reason ``why``.
    """
    for row, figures in entry.get(ROWS, {}).items():
        for figure, value in figures.items():
            yield _checked(f"{name}.{row}.{figure}", value, ranks, lambda r=row, f=figure: ranks.mean(r, f), why)
    for figure, value in entry.items():
        if figure not in ABOUT and isinstance(value, float | int) and not isinstance(value, bool):
            if figure.startswith(f"{BEFORE}_"):
                yield _checked(f"{name}.{figure}", value, ranks, lambda f=figure: ranks.before(f), why)
            else:
                yield Figure(f"{name}.{figure}", value, UNVERIFIED, why="it does not follow from ranks")
    if "composition" in entry:
        if ranks is not None:
            yield from check_composition(name, entry["composition"], ranks.gain)
        else:
            yield Figure(f"{name}.composition", entry["composition"].get("gap"), UNVERIFIED, why=why)
    if "protocol" in entry and ranks is not None:
        yield from _counts(name, entry, ranks)


def check_mean(name: str, entry: Mapping[str, Any], parts: Sequence[Split | None], why: str = "") -> Iterator[Figure]:
    """Yield what became of every figure of a mean over several splits."""
    known = [part for part in parts if part is not None]
    whole = known[0] if len(known) == len(parts) and known else None

    def mean(row: str, figure: str) -> tuple[float, bool]:
        return sum(part.mean(row, figure)[0] for part in known) / len(known), False

    for row, figures in entry.get(ROWS, {}).items():
        for figure, value in figures.items():
            yield _checked(f"{name}.{row}.{figure}", value, whole, lambda r=row, f=figure: mean(r, f), why)
    if "composition" in entry and whole is not None:
        yield from check_composition(
            name, entry["composition"], lambda row, _: sum(part.gain(row) for part in known) / len(known)
        )


def _checked(name: str, value: Any, ranks: Split | None, compute: Any, why: str) -> Figure:
    if ranks is None:
        return Figure(name, value, UNVERIFIED, why=why)
    try:
        found, exact = compute()
    except NotKeptError as error:
        return Figure(name, value, UNVERIFIED, why=str(error))
    if type(value) not in (float, int) or not agrees(float(value), found, exact):
        return Figure(name, value, DIFFERS, round(found, DIGITS))
    return Figure(name, value, VERIFIED, round(found, DIGITS))


def agrees(value: float, found: float, exact: bool) -> bool:
    """Tell whether a figure of a result file is what the ranks give, rounded, in double or in single precision.

    ``exact``: the mean is over multiples of 1/64, so that the only error of single precision is that of the division.
    """
    slack = (2.5e-7 if exact else SINGLE) * abs(found)
    return any(abs(value - round(bound, DIGITS)) < 1e-9 for bound in (found, found - slack, found + slack))


def _mean(values: np.ndarray) -> tuple[float, bool]:
    if not len(values):
        raise NotKeptError("no query of its group was seen")
    return 100 * float(values.mean()), bool((values * 64 % 1 == 0).all())


def _counts(name: str, entry: Mapping[str, Any], ranks: Split) -> Iterator[Figure]:
    """Yield what became of the numbers that a protocol has in common with the ranks."""
    protocol, queries = entry["protocol"], len(ranks.entry["queries"])
    rows = list(ranks.rows.values())
    strata = {group: len(members) for group, members in ranks.strata.items()}
    known: dict[str, Any] = {"benchmark": ranks.entry.get("benchmark"), "queries": queries, "strata": strata}
    if (most := max((row.most_targets or 0 for row in rows), default=0)) and len(rows[0].seen) == queries:
        known["targets_per_query_max"] = most
    for field, found in known.items():
        state = VERIFIED if protocol.get(field) == found else DIFFERS
        if field != "benchmark" or found is not None:
            yield Figure(f"{name}.protocol.{field}", protocol.get(field), state, found)
    highest, size = max(row.highest_rank for row in rows), protocol.get("gallery")
    if not isinstance(size, int) or highest > size:
        yield Figure(f"{name}.protocol.gallery", size, DIFFERS, why=f"the ranks go up to {highest:,}")
    if isinstance(seen := entry.get("seen"), Mapping):
        found = len(rows[0].seen)
        yield Figure(
            f"{name}.seen.queries", seen.get("queries"), VERIFIED if seen.get("queries") == found else DIFFERS, found
        )


@cache
def whole_metrics() -> dict[str, Metric]:
    """Return the metrics without a cut-off, by name."""
    load_metrics()
    kinds: list[Any] = [kind for kind in Metric.__subclasses__() if kind not in (CutOff, MeanOf)]
    return {kind().name: kind() for kind in kinds if not kind.__abstractmethods__}


@cache
def group_metrics() -> list[Any]:
    """Return the classes of metrics over groups of queries."""
    load_metrics()
    base: Any = next((kind for kind in Metric.__subclasses__() if kind.__name__ == "GroupMetric"), None)
    return [] if base is None else list(base.__subclasses__())


@cache
def load_metrics() -> None:
    """Import the modules of the project that define metrics."""
    for module in METRICS:
        with suppress(ModuleNotFoundError):
            import_module(f"contextcir.evaluation.{module}")


def _cut_offs(kind: type[CutOff]) -> Iterator[type[CutOff]]:
    for inner in kind.__subclasses__():
        if hasattr(inner, "prefix"):
            yield inner
        yield from _cut_offs(inner)
