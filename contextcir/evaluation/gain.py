"""Normalised discounted cumulative gain: how early the relevant images come, over a whole ranking or its first k."""

from collections.abc import MutableMapping
from typing import Any

from contextcir.evaluation.metrics import Array, CutOff, Metric, Ranks


class NDCG(Metric):
    """The sum over the targets of 1 / log2(1 + rank), divided by that of a ranking which begins with all of them.

    Relevance is binary; every target counts in the ideal ranking, whether it is in the gallery or not. The ranking is
    that of the whole gallery (Jarvelin & Kekalainen, TOIS 2002).
    """

    @property
    def name(self) -> str:
        return "ndcg"

    def values(self, ranks: Ranks) -> Array:
        return binary_gain(ranks.targets, ranks)

    def describe(self, description: MutableMapping[str, Any]) -> None:
        description["ndcg"] = "binary relevance, whole gallery"


class NDCGAt(CutOff):
    """`NDCG` of the first k images, with the ideal ranking cut at k too: what trec_eval and MTEB call ndcg_cut."""

    family = "ndcg_at"
    prefix = "ndcg_at_"

    def values(self, ranks: Ranks) -> Array:
        return binary_gain(ranks.targets, ranks, self.k)


class GradedNDCGAt(CutOff):
    """nDCG of the first k images with the relevance of `graded_targets` as gain; 0 for a query without any.

    Among images of equal score the less relevant come first.
    """

    family = "graded_ndcg_at"
    prefix = "graded_ndcg_at_"
    needs = ("graded_targets",)

    def values(self, ranks: Ranks) -> Array:
        graded = ranks.graded
        place = distinct_ranks(graded.ranks)  # (Q, R)
        gained = (graded.relevance * (place <= self.k) / ranks.log2(place + 1)).sum(1)
        ideal = ranks.falling(graded.relevance)  # (Q, R)
        number = (ideal >= 0).cumsum(1)  # (Q, R), from 1
        best = (ideal * (number <= self.k) / ranks.log2(number + 1)).sum(1)
        return gained / (best + (best == 0))


def binary_gain(found: Array, ranks: Ranks, k: int | None = None) -> Array:
    """Return the nDCG (Q,) of targets at ranks ``found`` (Q, K), rising, infinite where a target is missing.

    ``ranks`` has their numbers; ``k``: of the first k images, None for all.
    """
    number = (found > 0).cumsum(1)  # (Q, K), from 1
    counted = number <= ranks.target_counts[:, None]
    within = found > 0
    if k is not None:
        counted, within = counted & (number <= k), found <= k
    return (within / ranks.log2(found + 1)).sum(1) / (counted / ranks.log2(number + 1)).sum(1)


def distinct_ranks(ranks: Array) -> Array:
    """Return ranks (Q, R) in which images that share the first of their ranks get one each."""
    same = ranks[:, :, None] == ranks[:, None, :]  # (Q, R, R)
    return ranks + same.cumsum(2).diagonal(0, 1, 2) - 1
