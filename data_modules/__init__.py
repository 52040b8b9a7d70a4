"""Benchmarks as data modules. Everything that a config names is imported here, so that its bare name is enough."""

from data_modules.base import CompositionDataModule
from data_modules.circo import CIRCO, QueryText, RelativeCaption, SharedConceptMagicLens, SharedConceptSentence
from data_modules.cirr import CIRR
from data_modules.sampling import GroupedByImageSet, GroupedByReference, Shuffled, TrainingOrder
from data_modules.scenes import Scenes

__all__ = [
    "CIRCO",
    "CIRR",
    "CompositionDataModule",
    "GroupedByImageSet",
    "GroupedByReference",
    "QueryText",
    "RelativeCaption",
    "Scenes",
    "SharedConceptMagicLens",
    "SharedConceptSentence",
    "Shuffled",
    "TrainingOrder",
]
