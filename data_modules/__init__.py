"""Benchmarks as data modules. Their names are imported when they are first used.

So whoever only reads annotation files (`data_modules.readers`) starts without torch and Lightning.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_modules.base import CompositionDataModule
    from data_modules.benchmarks import CIRCO, CIRR, FashionIQ, GeneCIS, LaSCo, Manifest, Scenes
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
MODULES = {
    "base": ("CompositionDataModule",),
    "benchmarks": ("CIRCO", "CIRR", "FashionIQ", "GeneCIS", "LaSCo", "Manifest", "Scenes"),
    "circo": ("QueryText", "RelativeCaption", "SharedConceptMagicLens", "SharedConceptSentence"),
    "fashioniq": (
        "BothOrders", "CaptionText", "CategoryGallery", "FirstAndSecond", "OriginalGallery", "SecondAndFirst",
        "VALGallery",
    ),
    "loading.sampling": ("GroupedByImageSet", "GroupedByReference", "Shuffled", "TrainingOrder"),
    "mixture": ("Mixture",),
}  # fmt: skip
_MODULE_OF = {name: f"data_modules.{module}" for module, names in MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
