"""Fusions: how the features of a reference image and of a caption become one composed query."""

from contextcir.fusion.base import Fusion
from contextcir.fusion.baselines import ClauseSum, ImageOnly, RawSum, Sum, TextOnly
from contextcir.fusion.combiner import Combiner
from contextcir.fusion.concept_attention import ConceptAttentionFusion
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.fusion.distilled import DistilledSum
from contextcir.fusion.edited_image import CaptionComposer, ConceptComposer, EditedImageFusion

__all__ = [
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
    "RawSum",
    "Sum",
    "TextOnly",
]
