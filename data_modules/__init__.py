"""Benchmarks as data modules."""

from typing import TYPE_CHECKING

from contextcir.lazy import lazy_exports

if TYPE_CHECKING:
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

# Lazy: reading annotations needs no torch, and a run needs one benchmark of many.
__getattr__ = lazy_exports(
    __name__,
    {
        "base": ["CompositionDataModule"],
        "circo": ["CIRCO", "QueryText", "RelativeCaption", "SharedConceptMagicLens", "SharedConceptSentence"],
        "cirr": ["CIRR"],
        "fashioniq": [
            "BothOrders",
            "CaptionText",
            "CategoryGallery",
            "FashionIQ",
            "FirstAndSecond",
            "OriginalGallery",
            "SecondAndFirst",
            "VALGallery",
        ],
        "genecis": ["GeneCIS"],
        "lasco": ["LaSCo"],
        "loading.sampling": ["GroupedByImageSet", "GroupedByReference", "Shuffled", "TrainingOrder"],
        "manifest": ["Manifest"],
        "mixture": ["Mixture"],
        "scenes": ["Scenes"],
    },
)
