"""Fusions: how the features of a reference image and of a caption become one composed query."""

from contextcir.fusion.base import Fusion
from contextcir.fusion.baselines import ImageOnly, Sum, TextOnly
from contextcir.fusion.concept_attention import ConceptAttentionFusion
from contextcir.fusion.cross_attention import CrossAttentionFusion

__all__ = ["ConceptAttentionFusion", "CrossAttentionFusion", "Fusion", "ImageOnly", "Sum", "TextOnly"]
