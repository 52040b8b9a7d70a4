"""Controls for studies: losses without the effect that a studied loss was made for."""

from torch import Tensor

from contextcir.losses import ConceptMaps, SpatialConsistency


class MismatchedConsistency(SpatialConsistency):
    """`SpatialConsistency` with the isolated map of another phrase, nearly always on another image.

    Gradients and cost are as large, but carry no information on the phrase: a gain with it is no effect of consistency.
    """

    def values_of_maps(self, maps: ConceptMaps) -> Tensor:
        """Return the divergences of given maps, with the isolated maps shifted by half of the phrases."""
        return super().values_of_maps(maps._replace(alone=maps.alone.roll(len(maps.alone) // 2)))
