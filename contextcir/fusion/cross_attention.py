"""Composing a query by cross-attention of vision tokens to the caption (paper section 1.1, column cc07007)."""

import torch
from torch import Tensor, nn

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.blocks import Attention, BlockFusion


class AttentionPool(nn.Module):
    """Attention of one learned query to all tokens, (B, V, D) -> (B, D), followed by a LayerNorm."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = Attention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return {"query"}

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pool tokens (B, V, D), of which those in ``valid`` (B, V) count, to (B, D)."""
        pooled, _ = self.attention.without_maps(self.query.expand(len(tokens), -1, -1), tokens, valid)  # (B, 1, D)
        return self.norm(pooled.squeeze(1))


class CrossAttentionFusion(BlockFusion):
    """Residual cross-attention blocks, attention pooling, and a projection into CLIP's image-embedding space.

    Args:
        layers: number of blocks.
        heads: attention heads of a block.
        dropout: share of attention weights and activations that drop out in training.

    Raises:
        InputError: if there is no layer, the width of the vision tokens is not a multiple of ``heads``, or all would
            drop out.
    """

    def __init__(self, widths: Widths, layers: int = 4, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(widths, layers, heads, dropout)
        self.pool = AttentionPool(widths.vision, heads)
        self.projection = nn.Linear(widths.vision, widths.embed)

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the composed query: ``embedding`` (B, E), and L maps (B, H, V, T)."""
        tokens, maps = self.fuse(image.tokens, text.tokens, text.valid)
        return Fused(self.projection(self.pool(tokens)), maps)
