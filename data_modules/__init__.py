"""Benchmarks as data modules."""

from typing import TYPE_CHECKING

from contextcir.lazy import lazy_exports

if TYPE_CHECKING:
    from data_modules.base import CompositionDataModule
    from data_modules.benchmarks import (
        CIRCO,
        CIRR,
        ICIR,
        FashionIQ,
        GeneCIS,
        LaSCo,
        Manifest,
        PatternCom,
        PinPoint,
        Scenes,
    )
    from data_modules.circo import QueryText, RelativeCaption, SharedConceptMagicLens, SharedConceptSentence
    from data_modules.fashioniq import (
        BothOrders,
        CaptionText,
        CategoryGallery,
        FirstAndSecond,
        OriginalGallery,
        SecondAndFirst,
        VALGallery,
    )
    from data_modules.loading.sampling import GroupedByImageSet, GroupedByReference, Shuffled, TrainingOrder
    from data_modules.mixture import Mixture

__all__ = [
    "CIRCO",
    "CIRR",
    "ICIR",
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
    "PatternCom",
    "PinPoint",
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

# Lazy: reading annotations (`data_modules.readers`) needs no torch, and a run needs one benchmark of many.
__getattr__ = lazy_exports(
    __name__,
    {
        "base": ["CompositionDataModule"],
        "benchmarks": [
            "CIRCO",
            "CIRR",
            "ICIR",
            "FashionIQ",
            "GeneCIS",
            "LaSCo",
            "Manifest",
            "PatternCom",
            "PinPoint",
            "Scenes",
        ],
        "circo": ["QueryText", "RelativeCaption", "SharedConceptMagicLens", "SharedConceptSentence"],
        "fashioniq": [
            "BothOrders",
            "CaptionText",
            "CategoryGallery",
            "FirstAndSecond",
            "OriginalGallery",
            "SecondAndFirst",
            "VALGallery",
        ],
        "loading.sampling": ["GroupedByImageSet", "GroupedByReference", "Shuffled", "TrainingOrder"],
        "mixture": ["Mixture"],
    },
)
