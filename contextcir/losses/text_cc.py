"""Text Concept-Consistency: attention to a phrase in its caption should equal that to the phrase alone (section 1.2).

`TextConceptConsistency` is the published loss; `SpatialConsistency` compares only where on the image a phrase attends.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from contextcir.batch import QueryBatch
from contextcir.checks import between, fraction, not_negative
from contextcir.fusion.base import Fusion
from contextcir.losses.gathering import world_size
from contextcir.losses.maps import ConceptMaps, ConceptReading, jensen_shannon, phrase_maps, shares_at_contrast

# A phrase that is all of its caption has the same attention both times, up to rounding. Without a threshold, such a
# difference would have a gradient as long as any other, in a direction that rounding determines.
ROUNDING = 1e-6
# Standard deviations of the logarithm of shares: at the lower bound all patches have nearly equal shares, at the upper
# one a single patch has them all, and neither changes any more.
CONTRASTS = (0.01, 100.0)


class ConceptLoss(nn.Module, ABC):
    """A loss on parts of captions: noun phrases or clauses.

    Args:
        weight: its factor in the total, which the caller applies; 0 only measures it.

    Raises:
        InputError: if the weight is negative or not finite.
    """

    needs_maps: ClassVar[bool] = True  # whether it reads the attention maps of the fusion
    needs_phrases: ClassVar[bool] = True  # whether it is 0 without noun phrases
    needs_clauses: ClassVar[bool] = False  # whether it is 0 without captions of two clauses or more

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = not_negative(weight, "model.concept.weight")

    def check(self, fusion: Fusion) -> None:
        """Raise InputError for a fusion with which this loss would be 0 for another reason than missing maps."""

    def missing(self, batch: QueryBatch) -> str | None:
        """Return what all captions of a batch lack, so that the loss is 0; None where some have it."""
        if self.needs_phrases and not len(batch.phrases.owner):
            return "noun phrases"
        given = batch.clauses is not None and len(batch.clauses.owner)
        return "clauses" if self.needs_clauses and not given else None

    @abstractmethod
    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the loss over the phrases of all ranks, without its weight.

        Without any phrase it is 0, with zero gradients. All ranks have to call it, also those without phrases.
        """


class MeanOverPhrases(ConceptLoss):
    """A concept loss that is a mean of independent values, one per phrase, so that a batch can be read in chunks."""

    def forward(self, reading: ConceptReading) -> Tensor:
        """Return the mean of `values` over the phrases of all ranks, without the weight of the loss."""
        return mean_over_phrases(self.values(reading))

    @abstractmethod
    def values(self, reading: ConceptReading) -> Tensor:
        """Return the loss of each phrase (P,), independent of all others, and `UNCOUNTED` if it does not count."""


# The value of a phrase that does not count, in place of leaving it out: which do is known on the GPU alone, and the
# host would have to wait to learn how many are left.
UNCOUNTED = float("-inf")


def mean_over_phrases(values: Tensor) -> Tensor:
    """Return the mean of one value per phrase (P,) over the phrases of all ranks, 0 without any; a collective call.

    Those that are `UNCOUNTED` are left out. Ranks return different numbers, scaled so that DDP's averaged gradient
    equals that of one process with all phrases.
    """
    counted = ~values.isneginf()  # a NaN counts
    count = counted.sum().to(values.dtype)
    if world_size() > 1:
        dist.all_reduce(count)  # in place
    return values.masked_fill(~counted, 0.0).sum() * world_size() / count.clamp(min=1)


class MapConsistency(MeanOverPhrases):
    """A loss that compares the attention map of each phrase in its caption with its map alone, a constant."""

    @abstractmethod
    def compare(self, context: Tensor, isolated: Tensor) -> Tensor:
        """Return the loss (P,) of P phrases' maps over patches in context (P, V - 1) and alone (P, V - 1)."""

    def values(self, reading: ConceptReading) -> Tensor:
        """Return the loss of each phrase (P,); those without a token in their (truncated) caption do not count."""
        return self.values_of_maps(reading.detached_maps())

    def from_maps(self, maps: ConceptMaps) -> Tensor:
        """Return the loss of given maps; ``isolated`` may be empty where there are no phrases."""
        return mean_over_phrases(self.values_of_maps(maps))

    def values_of_maps(self, maps: ConceptMaps) -> Tensor:
        """Return the `values` of given maps."""
        counted = maps.context_tokens.any(dim=1) & maps.isolated_tokens.any(dim=1)[maps.alone]  # (P,)
        context = phrase_maps(maps.context, maps.owner, maps.context_tokens)  # (P, V - 1)
        isolated = context.detach()  # (P, V - 1); without phrases there was no isolated pass
        if maps.isolated:
            isolated = phrase_maps(maps.isolated, maps.alone, maps.isolated_tokens[maps.alone]).detach()
        return self.compare(context, isolated).masked_fill(~counted, UNCOUNTED)


class TextConceptConsistency(MapConsistency):
    """ReLU(|in context - alone| - epsilon), averaged, as published in 2026 (paper section 1.2, column cc07007).

    Args:
        weight: the factor of this loss in the total, which the caller applies.
        epsilon: tolerated difference.

    Raises:
        InputError: if epsilon is negative, or 1 or more: attention differs by at most 1, so that the loss would be 0.
    """

    def __init__(self, weight: float = 0.08, epsilon: float = 0.0) -> None:
        super().__init__(weight)
        self.epsilon = fraction(epsilon, "model.concept.epsilon")

    def compare(self, context: Tensor, isolated: Tensor) -> Tensor:
        """Return the mean excess difference over patches, (P,)."""
        difference = functional.threshold((context - isolated).abs(), ROUNDING, 0.0)
        return (difference - self.epsilon).relu().mean(dim=1)


class SpatialConsistency(MapConsistency):
    """Jensen-Shannon divergence between where a phrase attends in its caption and alone, in [0, 1].

    Both maps become shares of the patches at one and the same contrast, so that only the order and spacing of patches
    is compared. The map alone is a constant. Making maps uniform does not reduce the loss: its value is constant, and
    its gradient zero, along a power of a map. Nor does moving attention to the start and end of text: the value is
    constant along a factor of a map, and their attention has no gradient
    (`contextcir.losses.maps.without_gradient_to_ends`).

    Args:
        weight: the factor of this loss in the total, which the caller applies.
        contrast: standard deviation of the logarithm of shares; at 1 the best patches count a little more than the
            others, at 3 almost only they count.

    Raises:
        InputError: if the contrast is outside of `CONTRASTS`.
    """

    def __init__(self, weight: float = 0.1, contrast: float = 1.0) -> None:
        super().__init__(weight)
        self.contrast = between(contrast, *CONTRASTS, "model.concept.contrast")

    def values(self, reading: ConceptReading) -> Tensor:
        """Return the divergence of each phrase (P,); those without a token in their truncated caption do not count."""
        return self.values_of_maps(reading.detached_maps()._replace(context=reading.context_without_ends()))

    def compare(self, context: Tensor, isolated: Tensor) -> Tensor:
        """Return the divergence of the shares at `contrast`, (P,)."""
        return jensen_shannon(*(shares_at_contrast(x, self.contrast) for x in (context, isolated)))
