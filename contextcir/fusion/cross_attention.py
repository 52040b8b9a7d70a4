"""Composing a query: vision tokens read the caption by cross-attention (paper section 1.1, column cc07007)."""

import torch
from torch import Tensor, nn

from contextcir.encoders.backbone import Widths
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts


class Fusion(nn.Module):
    """What every fusion offers: a composed embedding, and the attention of vision tokens over text tokens."""

    reads_text_embedding: bool = False  # where false, the text projection gets no gradient and has to be frozen

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """The composed query: ``embedding`` (B, E), and L maps (B, H, V, K) over all K keys that there are.

        The first T keys are the text tokens. ``phrases``: the noun phrases of the captions, for fusions that read
        them; without any of them, there is the caption still.
        """
        raise NotImplementedError

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """L maps (B, H, V, K) over texts that are one noun phrase each, summing to 1 over the valid keys.

        ``image`` (B, V, D) vision tokens, ``text`` (B, T, Dt) text tokens, ``valid`` (B, T). It goes no further than
        the last map, for callers that need nothing else.
        """
        raise NotImplementedError

    def keys_of_phrases(self, tokens: Tensor, slot: Tensor) -> Tensor:
        """Which of the K keys stand for each of P phrases, (P, K).

        ``tokens`` (P, T) the phrase's tokens in its text, ``slot`` (P,) its number among the phrases of that text.
        """
        return tokens


class Attention(nn.Module):
    """Multi-head attention whose maps can be had without its output."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} can't be divided into {heads} attention heads (--model.fusion.heads)")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.output = nn.Linear(width, width)

    def maps(self, target: Tensor, source: Tensor, valid: Tensor | None) -> Tensor:
        """Softmax over the S source tokens for every target token: (B, H, N, S)."""
        query, key = self._split(self.query(target)), self._split(self.key(source))  # (B, H, N, D/H), (B, H, S, D/H)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, H, N, S)
        return self._softmax(scores, valid)

    def forward(self, target: Tensor, source: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Target tokens (B, N, D) read source tokens (B, S, Ds): the result (B, N, D) and the maps (B, H, N, S)."""
        maps = self.maps(target, source, valid)
        value = self._split(self.value(source))  # (B, H, S, D/H)
        read = maps.to(value.dtype) @ value  # (B, H, N, D/H)
        return self.output(read.transpose(1, 2).flatten(2)), maps  # (B, N, D)

    def few_maps(self, target: Tensor, source: Tensor, valid: Tensor) -> Tensor:
        """`maps` for a source of a few tokens, cheaper: their keys go through the query projection, not N targets."""
        key = self._split(self.key(source)) * (self.query.out_features // self.heads) ** -0.5  # (B, H, S, D/H)
        weight, bias = (x.unflatten(0, (self.heads, -1)) for x in (self.query.weight, self.query.bias))
        folded = torch.einsum("bhsd,hde->bhse", key, weight).flatten(1, 2)  # (B, H S, D)
        offset = torch.einsum("bhsd,hd->bhs", key, bias)  # (B, H, S)
        scores = (target @ folded.mT).unflatten(-1, offset.shape[1:]).transpose(1, 2) + offset[:, :, None]
        return self._softmax(scores, valid)  # (B, H, N, S)

    def few(self, target: Tensor, source: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a source of a few tokens, cheaper: their values too go through the output projection first."""
        maps = self.few_maps(target, source, valid)  # (B, H, N, S)
        value, weight = self._split(self.value(source)), self.output.weight.unflatten(1, (self.heads, -1))
        folded = torch.einsum("bhsd,ehd->bhse", value, weight).flatten(1, 2)  # (B, H S, D)
        read = maps.to(folded.dtype).transpose(1, 2).flatten(2) @ folded  # (B, N, H S) @ (B, H S, D)
        return read + self.output.bias, maps

    @staticmethod
    def _softmax(scores: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], float("-inf"))
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, D/H)


class FusionBlock(nn.Module):
    """Pre-norm cross-attention and feed-forward, both residual; the identity at initialisation."""

    def __init__(self, width: int, text_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, text_width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        for last in (self.attention.output, self.feed_forward[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, tokens: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, V, D) after reading text (B, T, Dt), and the maps (B, H, V, T)."""
        read, maps = self.attention(self.attention_norm(tokens), text, valid)
        return self._add(tokens, read), maps

    def few(self, tokens: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for texts of a few tokens: the same but for rounding, and cheaper."""
        read, maps = self.attention.few(self.attention_norm(tokens), text, valid)
        return self._add(tokens, read), maps

    def few_maps(self, tokens: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """What `few` attends to, (B, H, V, T), without the rest of it."""
        return self.attention.few_maps(self.attention_norm(tokens), text, valid)

    def _add(self, tokens: Tensor, read: Tensor) -> Tensor:
        tokens = tokens + read
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class AttentionPool(nn.Module):
    """One learned query reads all tokens: (B, V, D) -> (B, D), normalised by a LayerNorm."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attention = Attention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that should not shrink."""
        return {"query"}

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens (B, V, D), of which ``valid`` (B, V) are there -> pooled (B, D)."""
        pooled, _ = self.attention(self.query.expand(len(tokens), -1, -1), tokens, valid)  # (B, 1, D)
        return self.norm(pooled.squeeze(1))


class CrossAttentionFusion(Fusion):
    """Residual cross-attention blocks, attention pooling, and a projection into CLIP's image-embedding space."""

    def __init__(self, widths: Widths, layers: int = 4, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a cross-attention fusion needs at least 1 layer, got {layers} (--model.fusion.layers)")
        self.blocks = nn.ModuleList(FusionBlock(widths.vision, widths.text, heads, dropout) for _ in range(layers))
        self.pool = AttentionPool(widths.vision, heads)
        self.projection = nn.Linear(widths.vision, widths.embed)

    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """The composed query: ``embedding`` (B, E), and L maps (B, H, V, T)."""
        tokens, maps = self.fuse(image.tokens, text.tokens, text.valid)
        return Fused(self.projection(self.pool(tokens)), maps)

    def fuse(self, image: Tensor, keys: Tensor, valid: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Vision tokens (B, V, D) after reading keys (B, K, Dt) in all blocks, and the L maps (B, H, V, K)."""
        tokens, attention = image, []
        for block in self.blocks:
            tokens, maps = block(tokens, keys, valid)
            attention.append(maps)
        return tokens, tuple(attention)

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """L maps (B, H, V, T) of vision tokens (B, V, D) over text tokens (B, T, Dt)."""
        tokens, attention = image, []
        for block in self.blocks[:-1]:
            tokens, maps = block.few(tokens, text, valid)
            attention.append(maps)
        return (*attention, self.blocks[-1].few_maps(tokens, text, valid))
