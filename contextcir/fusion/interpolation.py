"""Composers without training: a point between the embeddings of image and text, at a weight that is chosen on val."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.checks import between
from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.baselines import Baseline

PARALLEL = 1e-4  # sine of an angle below which an arc is a line in float32


class Interpolation(Baseline):
    """A query between n(i), at weight 0, and n(t), at weight 1: the embeddings of image and caption, L2-normalised.

    The weight is part of checkpoints. The callback `WeightChoice` chooses it on val, by embeddings that are computed
    once for all weights.

    Raises:
        InputError: if the weight is not from 0 to 1.
    """

    reads_text_embedding = True
    weight: Tensor

    def __init__(self, widths: Widths, weight: float) -> None:
        super().__init__(widths)
        self.register_buffer("weight", torch.tensor(float(between(weight, 0, 1, "model.fusion.weight"))))

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the point as ``embedding`` (B, E)."""
        return Fused(self.mix(image.embedding, text.embedding, self.weight), ())

    def mix(self, image: Tensor, text: Tensor, weight: Tensor | float) -> Tensor:
        """Return the points (B, E) at a weight between embeddings (B, E) each, normalised or not."""
        return self.between(functional.normalize(image, dim=-1), functional.normalize(text, dim=-1), weight)

    @abstractmethod
    def between(self, image: Tensor, text: Tensor, weight: Tensor | float) -> Tensor:
        """Return the points (B, E) at a weight between embeddings (B, E) of length 1."""


class WeightedSum(Interpolation):
    """q = (1 - w) n(i) + w n(t): the sum of both embeddings, weighted.

    At w = 0.5 it ranks as `Sum`. Without normalisation and at equal weights, it is the baseline ``element_wise_sum`` of
    CLIP4Cir (github.com/ABaldrati/CLIP4Cir, src/utils.py).

    Args:
        weight: w, the share of the text.

    Raises:
        InputError: if the weight is not from 0 to 1.
    """

    def __init__(self, widths: Widths, weight: float = 0.5) -> None:
        super().__init__(widths, weight)

    def between(self, image: Tensor, text: Tensor, weight: Tensor | float) -> Tensor:
        """Return the weighted sum (B, E)."""
        return (1 - weight) * image + weight * text


class Slerp(Interpolation):
    """q = (sin((1 - w) a) n(i) + sin(w a) n(t)) / sin a, a the angle of n(i) and n(t): a point on the arc of both.

    Jang et al., Spherical Linear Interpolation and Text-Anchoring for Zero-shot Composed Image Retrieval (ECCV 2024,
    arXiv 2405.00571), equation of Slerp; github.com/youngkyunJang/SLERP-TAT, slerp.py. The text-anchored tuning of the
    image tower, the other half of that paper, is not here. Where the two are parallel, or opposite, the arc is replaced
    by the line, as there; the published code does so from a cosine of 0.9995 on.

    A weight that is w on the arc is another one on the line, but each query of one is some query of the other: for one
    image and text both go through the same directions. They differ in how far a weight moves queries of different
    angles.

    Args:
        weight: w, the share of the text. The paper's own name for it is alpha.

    Raises:
        InputError: if the weight is not from 0 to 1.
    """

    def __init__(self, widths: Widths, weight: float = 0.5) -> None:
        super().__init__(widths, weight)

    def between(self, image: Tensor, text: Tensor, weight: Tensor | float) -> Tensor:
        """Return the point on the arc (B, E), of length 1."""
        # By the two diagonals of the rhombus: the arc cosine has no digits left, and no gradient, at small angles.
        apart, along = ((image + sign * text).norm(dim=-1, keepdim=True) for sign in (-1, 1))  # (B, 1)
        angle = 2 * torch.atan2(apart, along)
        sine = angle.sin()
        flat = sine < PARALLEL
        safe = sine.masked_fill(flat, 1.0)
        of_image = torch.where(flat, 1 - weight + 0 * sine, ((1 - weight) * angle).sin() / safe)
        of_text = torch.where(flat, weight + 0 * sine, (weight * angle).sin() / safe)
        return of_image * image + of_text * text
