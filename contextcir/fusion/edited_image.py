"""Composing a query by editing the reference's tokens: CLIP's own head turns them into an embedding, plus the text's.

Such a query equals an interaction-free one before training, so that training can only improve on it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.checks import positive
from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.blocks import BlockFusion


class EditedImageFusion(BlockFusion):
    """q = n(e) + n(t): e, the embedding of the edited tokens, and t, that of the caption, each L2-normalised.

    Blocks edit the vision tokens, and the image tower's own pooling, norm and projection make e of them. Blocks are
    the identity at initialisation: the query then equals that of `Sum`.

    Args:
        layers: number of blocks.
        heads: attention heads of a block.
        dropout: share of attention weights and activations that drop out in training.

    Raises:
        InputError: if there is no layer, the width of the vision tokens is not a multiple of ``heads``, or all would
            drop out.
    """

    reads_text_embedding = True
    head: Callable[[Tensor], Tensor]

    def __init__(self, widths: Widths, layers: int = 2, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(widths, layers, heads, dropout)

    def connect(self, backbone: OpenCLIPBackbone) -> None:
        """Take the head of the image tower; it stays a part of the backbone, not of this module."""
        self.head = backbone.embed_tokens

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the composed query: ``embedding`` (B, E), and L maps (B, H, V, T)."""
        tokens, maps = self.fuse(image.tokens, text.tokens, text.valid)
        return Fused(functional.normalize(self.head(tokens), dim=-1) + self.of_text(text), maps)

    def of_text(self, text: TextFeatures) -> Tensor:
        """Return what the text adds to the query, (B, E)."""
        return functional.normalize(text.embedding, dim=-1)


class CaptionComposer(EditedImageFusion):
    """q = n(e) + exp(s) t: image tokens edited by the caption, and its embedding, not normalised, with a learned scale.

    The query equals that of `RawSum` at initialisation.

    Args:
        layers: number of blocks.
        heads: attention heads of a block.
        dropout: as that of EditedImageFusion.
        scale: exp(s) at initialisation, about the inverse length of a text embedding before normalisation; learned.

    Raises:
        InputError: as EditedImageFusion, and if the scale is not positive.
    """

    def __init__(
        self, widths: Widths, layers: int = 2, heads: int = 8, dropout: float = 0.0, scale: float = 1 / 30
    ) -> None:
        super().__init__(widths, layers, heads, dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(positive(scale, "model.fusion.scale"))))

    def parameter_groups(self) -> dict[str, set[str]]:
        """Return the names of parameters that an optimizer may give a rate of their own, by group."""
        return {"scales": {"log_scale"}}

    def of_text(self, text: TextFeatures) -> Tensor:
        """Return the scaled embedding of the text, (B, E)."""
        return self.log_scale.exp() * text.embedding


class ConceptComposer(CaptionComposer):
    """q = n(e) + exp(s) sum_c t(c): `CaptionComposer` with the clauses of a caption, each encoded alone.

    Blocks attend to the tokens of the clauses, so that no clause interferes with another one in the text tower. The
    query equals that of `ClauseSum` at initialisation.
    """

    reads_clauses = True
