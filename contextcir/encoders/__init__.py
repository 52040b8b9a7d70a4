"""Encoders: captions to tokens, images and texts to features, and noun phrases as texts of their own."""

from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures, TokenBatch
from contextcir.encoders.frozen import FrozenImageBackbone, ImageList, StoredImages
from contextcir.encoders.phrase_texts import PhraseTexts, QueryFeatures
from contextcir.encoders.text import Tokenizer

__all__ = [
    "FrozenImageBackbone",
    "Fused",
    "ImageFeatures",
    "ImageList",
    "OpenCLIPBackbone",
    "PhraseTexts",
    "QueryFeatures",
    "StoredImages",
    "TextFeatures",
    "TokenBatch",
    "Tokenizer",
    "Widths",
]
