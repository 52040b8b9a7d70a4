"""Composing a query with noun phrases as units: vision tokens attend to the caption and to its concepts."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.devices import to_device
from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import ConceptTokens, PhraseTexts, mean_of
from contextcir.fusion.cross_attention import CrossAttentionFusion


class ConceptAttentionFusion(CrossAttentionFusion):
    """`CrossAttentionFusion` with one more key for each noun phrase, encoded alone: a concept.

    The mean of the phrase's own tokens, plus a learned type embedding, stands beside the tokens of the caption as key
    and value of every block. The composed query is pooled over the fused vision tokens and the concepts, projected to
    the width of the former. Phrases of equal wording in a caption are one concept.

    Args:
        layers: number of blocks.
        heads: attention heads of a block.
        dropout: share of attention weights and activations that drop out in training.
    """

    def __init__(self, widths: Widths, layers: int = 4, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(widths, layers, heads, dropout)
        self.concept_type = nn.Parameter(torch.randn(widths.text) * widths.text**-0.5)
        self.concept_projection = nn.Linear(widths.text, widths.vision)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        return {"concept_type"}

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the composed query: ``embedding`` (B, E), and L maps (B, H, V, T + C), the concepts after the text."""
        concepts, present = self._concepts(text, phrases)  # (B, C, Dt), (B, C)
        tokens, maps = self.fuse(
            image.tokens, torch.cat([text.tokens, concepts], dim=1), torch.cat([text.valid, present], dim=1)
        )
        pooled_over = torch.cat([tokens, self.concept_projection(concepts)], dim=1)  # (B, V + C, D)
        valid = torch.cat([present.new_ones(tokens.shape[:2]), present], dim=1)  # (B, V + C)
        return Fused(self.projection(self.pool(pooled_over, valid)), maps)

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return L maps (B, H, V, T + 1) over texts that are one phrase each, and their own only concept."""
        content = functional.pad(valid[:, 2:], (1, 1))  # (B, T) neither the first nor the last of the valid tokens
        concept = mean_of(text, content)[:, None] + self.concept_type  # (B, 1, Dt)
        present = content.any(dim=1, keepdim=True)  # (B, 1)
        return super().attention(image, torch.cat([text, concept], dim=1), torch.cat([valid, present], dim=1))

    def keys_of_phrases(self, tokens: Tensor, slot: Tensor) -> Tensor:
        """Return the key of each phrase's concept, (P, T + C); a phrase without tokens in its text has none.

        The phrase's tokens are left out: their number, and that of all tokens, differs between a caption and the phrase
        alone, and so would any mean over them, whereas a concept is one key in both.
        """
        count = int(slot.max()) + 1 if len(slot) else 0
        concept = to_device(slot[:, None] == torch.arange(count), tokens.device)  # (P, C)
        return torch.cat([torch.zeros_like(tokens), concept & tokens.any(dim=1, keepdim=True)], dim=1)

    def _concepts(self, text: TextFeatures, phrases: PhraseTexts | None) -> ConceptTokens:
        """Return the concepts of B captions with their type embedding.

        Without phrases there are no columns, but the type embedding still gets a gradient, of 0: distributed training
        refuses parameters without one.
        """
        if phrases is None or not len(phrases):
            tokens, present = text.tokens[:, :0], text.valid[:, :0]
        else:
            tokens, present = phrases.concept_tokens()
        return ConceptTokens(tokens + self.concept_type, present)
