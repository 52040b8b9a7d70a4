"""Controls for studies: what a loss does for another reason than the one that it was made for."""

from torch import Tensor

from contextcir.losses.maps import ConceptMaps
from contextcir.losses.text_cc import SpatialConsistency


class MismatchedConsistency(SpatialConsistency):
    """`SpatialConsistency` with the map alone of another phrase, nearly always on another image.

    It pulls as hard, at the same cost, but says nothing about the phrase. What it gains is no effect of consistency.
    """

    def values_of(self, maps: ConceptMaps) -> Tensor:
        """The divergences for given maps, those alone moved on by half of the phrases."""
        return super().values_of(maps._replace(alone=maps.alone.roll(len(maps.alone) // 2)))
