"""Retrieval metrics: each is one class that turns ranks into one value in 0..1 per query.

A `Protocol` lists the metrics that it reports. They compute with the methods that tensors and numpy arrays have in
common, so that the same class scores embeddings (torch, on their device) and the lists of a submission file (numpy).
This module itself needs neither. Letters: Q queries, K targets per query, R images with a relevance.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from contextcir.errors import shown

Array = Any  # a tensor or a numpy array

# A prefix, suffix or name of metrics; loggers can't sort or filter other names.
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Graded(NamedTuple):
    """Ranks (Q, R) of images and their relevance (Q, R), which is 0 where it is negative; R >= 1."""

    ranks: Array
    relevance: Array


class Ranks(ABC):
    """Ranks of the images that matter to Q queries, computed when a metric first uses them and shared by all metrics.

    Ranks start at 1, and are infinite where an image is missing or not ranked. Those of the targets are rising.
    """

    @property
    @abstractmethod
    def target_counts(self) -> Array:
        """Number (Q,) of targets, whether they are ranked or not."""

    @property
    @abstractmethod
    def targets(self) -> Array:
        """Ranks (Q, K) of the targets in the gallery."""

    @property
    @abstractmethod
    def first_target(self) -> Array:
        """Rank (Q, 1) in the gallery of the first of each query's targets, with the others as its rivals."""

    @property
    @abstractmethod
    def subset_targets(self) -> Array:
        """Ranks (Q, K) of the targets in each query's own subset."""

    @property
    @abstractmethod
    def graded(self) -> Graded:
        """Images with a relevance, by their ranks in the gallery."""

    @property
    @abstractmethod
    def subset_graded(self) -> Graded:
        """Images with a relevance, by their ranks in each query's own subset."""

    @property
    def negatives(self) -> Array:
        """Ranks (Q, W) in the gallery of the wrong answers, in any order, before all other images of equal score."""
        raise NotImplementedError

    @property
    def negative_counts(self) -> Array:
        """Number (Q,) of wrong answers, whether they are ranked or not."""
        raise NotImplementedError

    @property
    def targets_without_negatives(self) -> Array:
        """Ranks (Q, K) of the targets in the gallery without the wrong answers, rising."""
        raise NotImplementedError

    @abstractmethod
    def highest(self, values: Array) -> Array:
        """Return the maximum (Q,) of each row of values (Q, R)."""

    def falling(self, values: Array) -> Array:
        """Return each row of values (Q, R) in falling order."""
        raise NotImplementedError

    def log2(self, values: Array) -> Array:
        """Return the logarithm to base 2 of every value."""
        raise NotImplementedError


class Metric(ABC):
    """A figure of a benchmark: the mean over queries of one value per query.

    ``needs`` names the optional fields of a `Protocol` without which the metric is undefined.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    lower_is_better: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """How loggers and result files name the figure, without the split."""

    @abstractmethod
    def values(self, ranks: Ranks) -> Array:
        """Return the value (Q,) of each query, in 0..1."""

    def over(self, values: Array, groups: Sequence[int] | None) -> Any:
        """Return the figure, in 0..1, of values (Q,) of queries: their mean; ``groups`` (Q,) is for group metrics."""
        return values.mean()

    @abstractmethod
    def describe(self, description: MutableMapping[str, Any]) -> None:
        """Add what defines this metric to the description of a protocol."""


@dataclass(frozen=True)
class CutOff(Metric):
    """A metric of the first ``k`` images; ``family`` is its name without k."""

    family: ClassVar[str]
    prefix: ClassVar[str]
    k: int

    @classmethod
    def at(cls, *cutoffs: int) -> tuple[Self, ...]:
        """Return one metric for each cut-off."""
        return tuple(cls(k) for k in cutoffs)

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.k}"

    def describe(self, description: MutableMapping[str, Any]) -> None:
        description.setdefault(self.family, []).append(self.k)


class RecallAt(CutOff):
    """1 for a query with any of its targets among the first k of the gallery."""

    family = "recall_at"
    prefix = "recall_at_"

    def values(self, ranks: Ranks) -> Array:
        return _any_within(ranks.targets, self.k)


class FirstTargetRecallAt(RecallAt):
    """Recall of the first target alone: the one that the query was written for (CIRCO; Baldrati et al., ICCV 2023)."""

    def values(self, ranks: Ranks) -> Array:
        return _any_within(ranks.first_target, self.k)

    def describe(self, description: MutableMapping[str, Any]) -> None:
        super().describe(description)
        description["recall_of_first"] = True


class SubsetRecallAt(CutOff):
    """Recall in the query's own subset of the gallery (CIRR; Liu et al., ICCV 2021)."""

    family = "subset_recall_at"
    prefix = "subset_recall_at_"
    needs = ("subsets",)

    def values(self, ranks: Ranks) -> Array:
        return _any_within(ranks.subset_targets, self.k)


class AveragePrecisionAt(CutOff):
    """Sum over i <= k of P(i) rel(i), divided by min(targets, k), where targets are counted whether ranked or not.

    The definition of the official CIRCO evaluation (Baldrati et al., ICCV 2023). torchmetrics and others divide by the
    targets found, which is a different figure.
    """

    family = "average_precision_at"
    prefix = "map_at_"

    def found(self, ranks: Ranks) -> Array:
        """Return the ranks (Q, K) of the targets, rising."""
        return ranks.targets

    def values(self, ranks: Ranks) -> Array:
        found = self.found(ranks)  # (Q, K), rising
        # The i-th target by rank has i targets at or before it, so the precision there is i / rank.
        precision = (found > 0).cumsum(1) / found  # (Q, K)
        return (precision * (found <= self.k)).sum(1) / ranks.target_counts.clip(1, self.k)


class SoftRecallAt(CutOff):
    """The highest relevance among the first k of the gallery, 0 if there is none.

    The figure that the authors of CIRR compute on their validation set (CIRPLANT; Liu et al., ICCV 2021).
    """

    family = "soft_recall_at"
    prefix = "soft_recall_at_"
    needs = ("graded_targets",)

    def values(self, ranks: Ranks) -> Array:
        return ranks.highest(ranks.graded.relevance * (ranks.graded.ranks <= self.k))


class SoftSubsetRecallAt(CutOff):
    """The highest relevance among the first k of the query's own subset, 0 if there is none."""

    family = "soft_subset_recall_at"
    prefix = "soft_subset_recall_at_"
    needs = ("graded_targets", "subsets")

    def values(self, ranks: Ranks) -> Array:
        return ranks.highest(ranks.subset_graded.relevance * (ranks.subset_graded.ranks <= self.k))


class MeanOf(Metric):
    """The mean of other metrics of the same protocol, under a name of its own.

    Args:
        name: of the mean, e.g. ``mean_recall``.
        parts: the other metrics.
    """

    def __init__(self, name: str, *parts: Metric) -> None:
        self._name, self.parts = name, parts

    @property
    def name(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeanOf) and (self.name, self.parts) == (other.name, other.parts)

    def __hash__(self) -> int:
        return hash((self._name, self.parts))

    def __repr__(self) -> str:
        return f"MeanOf({self._name!r}, {', '.join(map(repr, self.parts))})"

    def values(self, ranks: Ranks) -> Array:
        return sum(part.values(ranks) for part in self.parts) / len(self.parts)

    def describe(self, description: MutableMapping[str, Any]) -> None:
        description["means"][self.name] = [part.name for part in self.parts]


def find_problem(metrics: Sequence[Metric]) -> tuple[str, str] | None:
    """Return the name of a metric, or of a family of them, and why a protocol can't report it; None if all are well."""
    names = [metric.name for metric in metrics]
    for metric in metrics:
        if names.count(metric.name) > 1:
            return metric.name, "is reported twice: give every metric a name of its own"
        if isinstance(metric, CutOff):
            cutoffs = [other.k for other in metrics if type(other) is type(metric)]
            if any(type(k) is not int for k in cutoffs) or cutoffs != sorted(set(cutoffs)) or cutoffs[0] < 1:
                return metric.family, f"expected rising positive cut-offs, whole numbers, got {shown(cutoffs)}"
        if not WORD.fullmatch(metric.name):
            return metric.name, "is no word (letters, digits, _), so loggers can't sort or filter it"
        if isinstance(metric, MeanOf):
            parts, others = [part.name for part in metric.parts], [name for name in names if name != metric.name]
            if not parts or not set(parts) <= set(others):
                return metric.name, f"expected a mean of some of {', '.join(others)}, got {parts}"
    return None


def _any_within(ranks: Array, k: int) -> Array:
    return 1.0 * (ranks <= k).any(1)
