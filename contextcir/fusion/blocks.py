"""Residual blocks in which vision tokens attend to text, and the base of the fusions that are built of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from contextcir.checks import fraction, whole
from contextcir.encoders.backbone import Widths
from contextcir.errors import InputError
from contextcir.fusion.base import Fusion

Maps = Tensor | Callable[[], Tensor]  # of a layer, (B, H, N, S), or a function that computes them
MOST_LAYERS = 256  # several times those of the deepest towers: more would only fill the memory


class Attention(nn.Module):
    """Multi-head attention that can compute its maps without its output.

    Raises:
        InputError: if the width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        if width % whole(heads, 1, "model.fusion.heads"):
            raise InputError(
                f"a width of {width} can't be divided into {heads} attention heads", setting="model.fusion.heads"
            )
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.output = nn.Linear(width, width)

    def maps(self, target: Tensor, source: Tensor, valid: Tensor | None) -> Tensor:
        """Return the softmax over the S source tokens for every target token, (B, H, N, S)."""
        return self._maps_of(self._split(self.query(target)), self._split(self.key(source)), valid)

    def without_maps(
        self, target: Tensor, source: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return `forward`, by torch's fused attention, which makes no maps; in their place a function of them."""
        query, key, value = (
            self._split(part) for part in (self.query(target), self.key(source), self.value(source))
        )  # (B, H, N, D/H), twice (B, H, S, D/H)
        mask = None if valid is None else valid[:, None, None, :]
        with kernel(query.device):
            attended = functional.scaled_dot_product_attention(query, key, value, mask)  # (B, H, N, D/H)
        return self.output(attended.transpose(1, 2).flatten(2)), partial(self._maps_of, query, key, valid)

    def _maps_of(self, query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, H, N, S)
        return self._softmax(scores, valid)

    def forward(self, target: Tensor, source: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from targets (B, N, D) to sources (B, S, Ds); return the result (B, N, D) and maps (B, H, N, S)."""
        maps = self.maps(target, source, valid)
        value = self._split(self.value(source))  # (B, H, S, D/H)
        attended = maps.to(value.dtype) @ value  # (B, H, N, D/H)
        return self.output(attended.transpose(1, 2).flatten(2)), maps  # (B, N, D)

    def maps_folded(self, target: Tensor, source: Tensor, valid: Tensor) -> Tensor:
        """Return `maps`, cheaper for few source tokens: the query projection is folded into the S keys.

        Then the N target tokens need no projection of their own.
        """
        key = self._split(self.key(source)) * (self.query.out_features // self.heads) ** -0.5  # (B, H, S, D/H)
        weight, bias = (x.unflatten(0, (self.heads, -1)) for x in (self.query.weight, self.query.bias))
        folded = torch.einsum("bhsd,hde->bhse", key, weight).flatten(1, 2)  # (B, H S, D)
        offset = torch.einsum("bhsd,hd->bhs", key, bias)  # (B, H, S)
        scores = (target @ folded.mT).unflatten(-1, offset.shape[1:]).transpose(1, 2) + offset[:, :, None]
        return self._softmax(scores, valid)  # (B, H, N, S)

    def forward_folded(self, target: Tensor, source: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward`, cheaper for few source tokens: the output projection is folded into the S values."""
        maps = self.maps_folded(target, source, valid)  # (B, H, N, S)
        value, weight = self._split(self.value(source)), self.output.weight.unflatten(1, (self.heads, -1))
        folded = torch.einsum("bhsd,ehd->bhse", value, weight).flatten(1, 2)  # (B, H S, D)
        attended = maps.to(folded.dtype).transpose(1, 2).flatten(2) @ folded  # (B, N, H S) @ (B, H S, D)
        return attended + self.output.bias, maps

    @staticmethod
    def _softmax(scores: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], float("-inf"))
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, H, N, D/H)


def kernel(device: torch.device) -> AbstractContextManager:
    """Choose plain matrix products on a CPU, as the backbone does: fused attention trains up to ten times slower."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


class FusionBlock(nn.Module):
    """Pre-norm cross-attention and feed-forward, both residual; the identity at initialisation."""

    def __init__(self, width: int, text_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, text_width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.feed_forward = nn.Sequential(widen, nn.GELU(), nn.Dropout(dropout), narrow)
        for last in (self.attention.output, narrow):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, tokens: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, V, D) after attending to text (B, T, Dt), and the maps (B, H, V, T)."""
        attended, maps = self.attention(self.attention_norm(tokens), text, valid)
        return self._add(tokens, attended), maps

    def without_maps(self, tokens: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return `forward` up to rounding, with a function that computes the maps in their place."""
        attended, maps = self.attention.without_maps(self.attention_norm(tokens), text, valid)
        return self._add(tokens, attended), maps

    def forward_folded(self, tokens: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward` up to rounding, cheaper for texts of few tokens."""
        attended, maps = self.attention.forward_folded(self.attention_norm(tokens), text, valid)
        return self._add(tokens, attended), maps

    def maps_folded(self, tokens: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """Return only the maps (B, H, V, T) of `forward_folded`."""
        return self.attention.maps_folded(self.attention_norm(tokens), text, valid)

    def _add(self, tokens: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + attended
        return tokens + self.feed_forward(self.feed_forward_norm(tokens))


class BlockFusion(Fusion):
    """Vision tokens that attend to keys in residual blocks; subclasses make an embedding of the result.

    Raises:
        InputError: if there is no layer, the width of the vision tokens is not a multiple of ``heads``, or all would
            drop out.
    """

    def __init__(self, widths: Widths, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        whole(layers, 1, "model.fusion.layers", MOST_LAYERS)
        fraction(dropout, "model.fusion.dropout")
        self.blocks = nn.ModuleList(FusionBlock(widths.vision, widths.text, heads, dropout) for _ in range(layers))

    def fuse(self, image: Tensor, keys: Tensor, valid: Tensor) -> tuple[Tensor, tuple[Maps, ...]]:
        """Return vision tokens (B, V, D) after attending to keys (B, K, Dt) in all blocks, and L maps (B, H, V, K).

        In the place of maps there are functions of them where no loss reads all of them (``maps_at_once``).
        """
        tokens, attention = image, list[Maps]()
        for block in self._blocks():
            attend = block if self.maps_at_once else block.without_maps
            tokens, maps = attend(tokens, keys, valid)
            attention.append(maps)
        return tokens, tuple(attention)

    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return L maps (B, H, V, T) of vision tokens (B, V, D) over text tokens (B, T, Dt)."""
        tokens, attention = image, []
        *first, last = self._blocks()
        for block in first:
            tokens, maps = block.forward_folded(tokens, text, valid)
            attention.append(maps)
        return (*attention, last.maps_folded(tokens, text, valid))

    def _blocks(self) -> Iterator[FusionBlock]:
        return (cast(FusionBlock, block) for block in self.blocks)
