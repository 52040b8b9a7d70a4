"""Composing a query with noun phrases as units: vision tokens attend to the caption and to its concepts."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import ConceptTokens, PhraseTexts, mean_of
from contextcir.fusion.cross_attention import CrossAttentionFusion


class ConceptAttentionFusion(CrossAttentionFusion):
    """`CrossAttentionFusion` with a further key for each noun phrase, encoded alone: a concept.

    The mean of the phrase's own tokens, plus a learned embedding that says "concept", stands beside the tokens of the
    caption as key and value of every block; the composed query is pooled over the fused vision tokens and, projected
    to their width, the concepts. Captions without phrases have no concepts; those of one wording are one concept.
    """

    def __init__(self, widths: Widths, layers: int = 4, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__(widths, layers, heads, dropout)
        self.concept_type = nn.Parameter(torch.randn(widths.text) * widths.text**-0.5)
        self.concept_projection = nn.Linear(widths.text, widths.vision)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that should not shrink."""
        return {"concept_type"}

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """The composed query: ``embedding`` (B, E), and L maps (B, H, V, T + C) over the text, then the concepts."""
        concepts, found = self._concepts(text, phrases)  # (B, C, Dt), (B, C)
        tokens, maps = self.fuse(
            image.tokens, torch.cat([text.tokens, concepts], dim=1), torch.cat([text.valid, found], dim=1)
        )
        everything = torch.cat([tokens, self.concept_projection(concepts)], dim=1)  # (B, V + C, D)
        readable = torch.cat([found.new_ones(tokens.shape[:2]), found], dim=1)  # (B, V + C)
        return Fused(self.projection(self.pool(everything, readable)), maps)

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """L maps (B, H, V, T + 1) over texts that are one phrase each: its tokens, and itself as the only concept."""
        content = functional.pad(valid[:, 2:], (1, 1))  # (B, T) neither the first nor the last of the valid tokens
        concept = mean_of(text, content)[:, None] + self.concept_type  # (B, 1, Dt)
        found = content.any(dim=1, keepdim=True)  # (B, 1)
        return super().attention(image, torch.cat([text, concept], dim=1), torch.cat([valid, found], dim=1))

    def keys_of_phrases(self, tokens: Tensor, slot: Tensor) -> Tensor:
        """A phrase is its concept's key, (P, T + C), and only that; one without tokens in its text has none.

        Its tokens do not count as well: how many they are, and among how many, differs between a caption and the phrase
        alone, and so would any mean over them; a concept is one key in both.
        """
        count = int(slot.max()) + 1 if len(slot) else 0
        concept = slot[:, None] == torch.arange(count, device=slot.device)  # (P, C)
        return torch.cat([torch.zeros_like(tokens), concept & tokens.any(dim=1, keepdim=True)], dim=1)

    def _concepts(self, text: TextFeatures, phrases: PhraseTexts | None) -> ConceptTokens:
        """The concepts of B captions with their type embedding; without any, no columns, but gradients of 0."""
        if phrases is None or not len(phrases):
            tokens, found = text.tokens[:, :0], text.valid[:, :0]
        else:
            tokens, found = phrases.concept_tokens()
        return ConceptTokens(tokens + self.concept_type, found)
