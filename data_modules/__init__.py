"""Benchmarks as data modules. Everything that a config names is imported here, so that its bare name is enough."""

from data_modules.base import CompositionDataModule
from data_modules.circo import CIRCO, QueryText, RelativeCaption, SharedConceptMagicLens, SharedConceptSentence
from data_modules.cirr import CIRR
from data_modules.fashioniq import (
    BothOrders,
    CaptionText,
    CategoryGallery,
    FashionIQ,
    FirstAndSecond,
    OriginalGallery,
    SecondAndFirst,
    VALGallery,
)
from data_modules.genecis import GeneCIS
from data_modules.lasco import LaSCo
from data_modules.loading.sampling import GroupedByImageSet, GroupedByReference, Shuffled, TrainingOrder
from data_modules.manifest import Manifest
from data_modules.mixture import Mixture
from data_modules.scenes import Scenes

__all__ = [
    "CIRCO",
    "CIRR",
    "BothOrders",
    "CaptionText",
    "CategoryGallery",
    "CompositionDataModule",
    "FashionIQ",
    "FirstAndSecond",
    "GeneCIS",
    "GroupedByImageSet",
    "GroupedByReference",
    "LaSCo",
    "Manifest",
    "Mixture",
    "OriginalGallery",
    "QueryText",
    "RelativeCaption",
    "Scenes",
    "SecondAndFirst",
    "SharedConceptMagicLens",
    "SharedConceptSentence",
    "Shuffled",
    "TrainingOrder",
    "VALGallery",
]
