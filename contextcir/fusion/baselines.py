"""Fusions without interaction of image and text, which a composed query has to outperform."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.checks import positive
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


class ClauseSum(Baseline):
    """q = n(i) + exp(s) sum_c t(c): the image, L2-normalised, and the clauses of the caption, each encoded alone.

    The embeddings t(c) are not normalised, so that a text of many clauses moves the query further than one of few.

    Args:
        scale: exp(s) at initialisation, about the inverse length of a text embedding before normalisation; learned.

    Raises:
        InputError: if the scale is not positive.
    """

    reads_text_embedding = True
    reads_clauses = True

    def __init__(self, widths: Widths, scale: float = 1 / 30) -> None:
        super().__init__(widths)
        self.log_scale = nn.Parameter(torch.tensor(math.log(positive(scale, "model.fusion.scale"))))

    def parameter_groups(self) -> dict[str, set[str]]:
        """Return the names of parameters that an optimizer may give a rate of their own, by group."""
        return {"scales": {"log_scale"}}

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the image plus the scaled sum of the clauses as ``embedding`` (B, E)."""
        return Fused(add_text(image.embedding, text.embedding, self.log_scale), ())


class RawSum(ClauseSum):
    """`ClauseSum` of the whole caption as one text: what reading clause by clause changes is the difference of both."""

    reads_clauses = False


def add_text(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """Return n(i) + exp(s) t, (B, E), of embeddings i and t (B, E) and the logarithm s of the scale."""
    return functional.normalize(image, dim=-1) + log_scale.exp() * text
