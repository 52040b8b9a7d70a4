"""Metrics of explicit negatives: images of which a benchmark says that they are wrong answers to a query.

A tie never favours the model here either: a wrong answer comes before whatever scores as much, and one whose score is
NaN comes first. A query without wrong answers has the value 0.
"""

from contextcir.evaluation.metrics import Array, AveragePrecisionAt, CutOff, Ranks


class NegRecallAt(CutOff):
    """Number of wrong answers among the first k, divided by min(wrong answers, k); lower is better.

    The figure of this name of PinPoint's ``evaluate.py`` (Mahadev et al., CVPR 2026).
    """

    family = "neg_recall_at"
    prefix = "neg_recall_at_"
    needs = ("negatives",)
    lower_is_better = True

    def values(self, ranks: Ranks) -> Array:
        return (ranks.negatives <= self.k).sum(1) / ranks.negative_counts.clip(1, self.k)


class AnyNegativeAt(CutOff):
    """1 for a query with any wrong answer among the first k: how often a user sees one; lower is better."""

    family = "any_negative_at"
    prefix = "any_negative_at_"
    needs = ("negatives",)
    lower_is_better = True

    def values(self, ranks: Ranks) -> Array:
        return 1.0 * (ranks.negatives <= self.k).any(1)


class AveragePrecisionWithoutNegativesAt(AveragePrecisionAt):
    """`AveragePrecisionAt` of the ranking without the wrong answers: what they cost is the difference of both.

    A target that is named as a wrong answer too is not found, as in PinPoint's ``evaluate.py`` (``mAP@k_noNeg``).
    """

    family = "average_precision_without_negatives_at"
    prefix = "map_without_negatives_at_"
    needs = ("negatives",)

    def found(self, ranks: Ranks) -> Array:
        return ranks.targets_without_negatives
