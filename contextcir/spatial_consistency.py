"""Spatial consistency: a phrase should look at the same patches in its caption as it does alone."""

from torch import Tensor

from contextcir.concept import ConceptLoss, mean_over_phrases
from contextcir.concept_maps import ConceptMaps, ConceptReading, phrase_maps
from contextcir.patch_shares import jensen_shannon, shares_at_contrast


class SpatialConsistency(ConceptLoss):
    """Jensen-Shannon divergence between a phrase's places in its caption and alone, in [0, 1].

    Both maps become shares of the patches at one and the same contrast, so that only the order and spacing of patches
    is compared. The map alone is a constant. Making maps uniform does not make the loss smaller: it does not change,
    nor has it a gradient, along a power of a map. Nor does draining attention into start and end of text: it does not
    change along a factor of a map, and what those take has no gradient (`contextcir.concept_maps.among_words`).

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
