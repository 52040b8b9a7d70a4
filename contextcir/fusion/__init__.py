"""Fusions: how the features of a reference image and of a caption become one composed query."""

from contextcir.fusion.base import Fusion
from contextcir.fusion.baselines import ClauseSum, ImageOnly, RawSum, Sum, TextOnly
from contextcir.fusion.combiner import Combiner, RawCombiner
from contextcir.fusion.concept_attention import ConceptAttentionFusion
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.fusion.distilled import DistilledSum
from contextcir.fusion.edited_image import CaptionComposer, ConceptComposer, EditedImageFusion
from contextcir.fusion.interpolation import Slerp, WeightedSum
from contextcir.fusion.inversion import SEARLE, LinCIR, Pic2Word

__all__ = [
    "SEARLE",
    "CaptionComposer",
    "ClauseSum",
    "Combiner",
    "ConceptAttentionFusion",
    "ConceptComposer",
    "CrossAttentionFusion",
    "DistilledSum",
    "EditedImageFusion",
    "Fusion",
    "ImageOnly",
    "LinCIR",
    "Pic2Word",
    "RawCombiner",
    "RawSum",
    "Slerp",
    "Sum",
    "TextOnly",
    "WeightedSum",
]
