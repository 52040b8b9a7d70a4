"""Text Concept-Consistency: a phrase should be attended to in its caption as it is on its own (paper section 1.2).

Spatial consistency: a phrase should look at the same patches in its caption as it does alone.
"""

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from contextcir.losses.contrastive import world_size
from contextcir.losses.maps import ConceptMaps, ConceptReading, jensen_shannon, phrase_maps, shares_at_contrast

# A phrase that is all of its caption is attended to alike both times, up to rounding. Such a difference, however small,
# would have a gradient as long as any other, in a direction of rounding's choice.
ROUNDING = 1e-6


class ConceptLoss(nn.Module):
    """A loss on how noun phrases are attended to. ``weight``: its factor in the total, which the caller applies."""

    by_phrase: bool = False  # whether it is the mean of `values`, so that a batch can be read in parts

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, reading: ConceptReading) -> Tensor:
        """The loss without its weight, over the phrases of all ranks.

        Without any phrase it is 0, with zero gradients; every rank has to call it all the same.
        """
        return mean_over_phrases(self.values(reading))

    def values(self, reading: ConceptReading) -> Tensor:
        """The loss of each phrase that counts (F,), whatever other phrases there are, where it is a mean of such."""
        raise NotImplementedError


def mean_over_phrases(values: Tensor) -> Tensor:
    """Mean of one value for each phrase (F,) over the phrases of all ranks; 0 without any. All ranks have to call it.

    What ranks return differs, but the mean over ranks that distributed training takes of the gradients is that of all
    phrases together.
    """
    count = values.new_tensor(len(values))
    if world_size() > 1:
        dist.all_reduce(count)  # in place
    return values.sum() * world_size() / count.clamp(min=1)


class TextConceptConsistency(ConceptLoss):
    """ReLU(|in context - alone| - epsilon), averaged, as published in 2026 (paper section 1.2, column cc07007).

    ``weight``: the factor of this loss in the total, which the caller applies. ``epsilon``: tolerated difference.
    """

    by_phrase = True

    def __init__(self, weight: float = 0.08, epsilon: float = 0.0) -> None:
        super().__init__(weight)
        self.epsilon = epsilon

    def values(self, reading: ConceptReading) -> Tensor:
        """Mean over patches for each phrase (F,) that has a token in its (cut) caption."""
        return self.values_of(reading.detached_maps())

    def of(self, maps: ConceptMaps) -> Tensor:
        """The loss of given maps.

        Phrases without a token in their (cut) caption are left out. Without any phrase it is 0, with zero gradients;
        every rank has to call it all the same, and ``isolated`` may then be empty.
        """
        return mean_over_phrases(self.values_of(maps))

    def values_of(self, maps: ConceptMaps) -> Tensor:
        """The `values` of given maps."""
        found = maps.context_tokens.any(dim=1) & maps.isolated_tokens.any(dim=1)[maps.alone]  # (P,)
        context = phrase_maps(maps.context, maps.owner[found], maps.context_tokens[found])  # (F, V - 1)
        isolated = context.detach()  # (F, V - 1)
        if found.any():  # else there may not have been an isolated pass
            rows = maps.alone[found]  # (F,)
            isolated = phrase_maps(maps.isolated, rows, maps.isolated_tokens[rows]).detach()
        excess = (F.threshold((context - isolated).abs(), ROUNDING, 0.0) - self.epsilon).relu()
        return excess.mean(dim=1)


class SpatialConsistency(ConceptLoss):
    """Jensen-Shannon divergence between a phrase's places in its caption and alone, in [0, 1].

    Both maps become shares of the patches at one and the same contrast, so that only the order and spacing of patches
    is compared. The map alone is a constant. Making maps uniform does not make the loss smaller: it does not change,
    nor has it a gradient, along a power of a map. Nor does draining attention into start and end of text: it does not
    change along a factor of a map, and what those take has no gradient (`contextcir.losses.maps.among_words`).

    ``weight``: the factor of this loss in the total, which the caller applies. ``contrast``: standard deviation of the
    logarithm of shares; at 1 the best patches count a little more, at 3 hardly any others do.
    """

    by_phrase = True

    def __init__(self, weight: float = 0.1, contrast: float = 1.0) -> None:
        super().__init__(weight)
        if contrast <= 0:
            raise ValueError(f"the contrast must be positive, got {contrast} (--model.concept.init_args.contrast)")
        self.contrast = contrast

    def values(self, reading: ConceptReading) -> Tensor:
        """The divergence of each phrase (F,) that has a token in its (cut) caption."""
        return self.values_of(reading.detached_maps()._replace(context=reading.among_words()))

    def of(self, maps: ConceptMaps) -> Tensor:
        """The loss of given maps.

        Phrases without a token in their (cut) caption are left out. Without any phrase it is 0, with zero gradients;
        every rank has to call it all the same, and ``isolated`` may then be empty.
        """
        return mean_over_phrases(self.values_of(maps))

    def values_of(self, maps: ConceptMaps) -> Tensor:
        """The `values` of given maps."""
        found = maps.context_tokens.any(dim=1) & maps.isolated_tokens.any(dim=1)[maps.alone]  # (P,)
        context = phrase_maps(maps.context, maps.owner[found], maps.context_tokens[found])  # (F, V - 1)
        isolated = context.detach()  # (F, V - 1)
        if found.any():  # else there may not have been an isolated pass
            rows = maps.alone[found]  # (F,)
            isolated = phrase_maps(maps.isolated, rows, maps.isolated_tokens[rows]).detach()
        return jensen_shannon(*(shares_at_contrast(x, self.contrast) for x in (context, isolated)))
