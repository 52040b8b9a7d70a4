"""Fusions without parameters: what a composed query has to beat."""

import torch.nn.functional as F
from torch import Tensor

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.cross_attention import Fusion


class Baseline(Fusion):
    """A fusion that looks at the two CLIP embeddings only, and so has no attention."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """No maps."""
        return ()


class ImageOnly(Baseline):
    """The reference image alone."""

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """``embedding`` (B, E) of the image."""
        return Fused(image.embedding, ())


class TextOnly(Baseline):
    """The caption alone."""

    reads_text_embedding = True

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """``embedding`` (B, E) of the caption."""
        return Fused(text.embedding, ())


class Sum(Baseline):
    """The sum of both embeddings, each of unit length."""

    reads_text_embedding = True

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """``embedding`` (B, E), the sum of the two."""
        return Fused(F.normalize(image.embedding, dim=-1) + F.normalize(text.embedding, dim=-1), ())
