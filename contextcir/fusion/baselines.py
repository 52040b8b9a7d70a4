"""Fusions without parameters, which a learned fusion has to outperform."""

from torch import Tensor
from torch.nn import functional

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.base import Fusion


class Baseline(Fusion):
    """A fusion of the two CLIP embeddings alone, without attention."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return no maps."""
        return ()


class ImageOnly(Baseline):
    """The reference image alone."""

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the ``embedding`` (B, E) of the image."""
        return Fused(image.embedding, ())


class TextOnly(Baseline):
    """The caption alone."""

    reads_text_embedding = True

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the ``embedding`` (B, E) of the caption."""
        return Fused(text.embedding, ())


class Sum(Baseline):
    """The sum of both embeddings, each L2-normalised."""

    reads_text_embedding = True

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the sum of the two as ``embedding`` (B, E)."""
        return Fused(functional.normalize(image.embedding, dim=-1) + functional.normalize(text.embedding, dim=-1), ())
