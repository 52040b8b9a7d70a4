"""Precision of rankings with many right answers: of the first k, and average precision over a whole ranking."""

from collections.abc import MutableMapping
from typing import Any

from contextcir.evaluation.metrics import Array, CutOff, Metric, Ranks


class PrecisionAt(CutOff):
    """Number of targets among the first k, divided by k."""

    family = "precision_at"
    prefix = "precision_at_"

    def values(self, ranks: Ranks) -> Array:
        return (ranks.targets <= self.k).sum(1) / self.k


class AveragePrecision(Metric):
    """The mean over the targets of the precision at their ranks in the whole gallery, 0 for one that is missing."""

    @property
    def name(self) -> str:
        return "average_precision"

    def values(self, ranks: Ranks) -> Array:
        found = ranks.targets  # (Q, K), rising
        return ((found > 0).cumsum(1) / found).sum(1) / ranks.target_counts.clip(1)

    def describe(self, description: MutableMapping[str, Any]) -> None:
        description["average_precision"] = "whole gallery, divided by all targets"


class SubsetTrapezoidalPrecision(Metric):
    """Area under the precision-recall curve by the trapezoidal rule, over the whole ranking of the query's own subset.

    The i-th of n targets at rank r adds ((i - 1) / (r - 1) + i / r) / 2 / (n + 0.00001), with 1 for the first term
    where r is 1: the average precision of the Oxford and Paris retrieval sets, and of i-CIR's ``utils.py`` (Psomas et
    al., NeurIPS 2025).
    """

    needs = ("subsets",)
    MARGIN = 1e-5  # of the published code

    @property
    def name(self) -> str:
        return "subset_average_precision"

    def values(self, ranks: Ranks) -> Array:
        found = ranks.subset_targets  # (Q, K), rising, infinite for missing ones
        number = (found > 0).cumsum(1)  # (Q, K), from 1
        first = found == 1  # their precision before is 1
        before = (number - 1 + first) / (found - 1 + first)
        return ((before + number / found) / 2).sum(1) / (ranks.target_counts + self.MARGIN)

    def describe(self, description: MutableMapping[str, Any]) -> None:
        description["subset_average_precision"] = "trapezoidal rule, own gallery of each query"
