"""What the encoders and a fusion compute from a batch: the shapes of tokens and embeddings.

Letters as in `contextcir.batch`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Token ids (B, T) int64, T the longest text of the batch, and ``valid`` (B, T) bool, true up to and with EOT."""

    ids: Tensor
    valid: Tensor


class PseudoWords(NamedTuple):
    """Vectors in the place of words, as texts enter the text tower: at ``place`` (B, T) bool, ``vectors`` (B, D).

    A text may have its vector at several places, or at none.
    """

    place: Tensor
    vectors: Tensor

    def of(self, rows: Tensor, length: int) -> "PseudoWords":
        """Return those of some rows (b,), whose texts are cut to a length."""
        return PseudoWords(self.place[rows, :length], self.vectors[rows])


class Prompt(NamedTuple):
    """Texts (B, T) with a gap for a pseudo-word at ``place`` (B, T) bool; what token stands there has no influence."""

    tokens: TokenBatch
    place: Tensor


class ImageFeatures(NamedTuple):
    """A pass of the image tower: ``tokens`` (B, V, D) before the final norm; ``embedding`` (B, E), not normalised."""

    tokens: Tensor
    embedding: Tensor


class TextFeatures(NamedTuple):
    """A pass of the text tower.

    ``tokens`` (B, T, D) after the final norm, ``valid`` (B, T) bool, ``embedding`` (B, E), not normalised. ``prompt``:
    the same texts in a template with a gap, for fusions that fill it (`Fusion.encode_text`); None for all others.
    """

    tokens: Tensor
    valid: Tensor
    embedding: Tensor
    prompt: Prompt | None = None


class Fused:
    """A composed query.

    The first T of the K keys are the text tokens; a fusion may add keys of its own (`Fusion.keys_of_phrases`).

    Args:
        embedding: (B, E), not normalised.
        maps: Of each layer the attention (B, H, V, K), or a function that computes it, called once and if it is asked
            for; () for baselines.
    """

    def __init__(self, embedding: Tensor, maps: Sequence[Tensor | Callable[[], Tensor]]) -> None:
        self.embedding = embedding
        self._maps = maps

    @cached_property
    def attention(self) -> tuple[Tensor, ...]:
        """L maps (B, H, V, K), () for baselines; with gradients where the embedding has some, whoever asks first."""
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.embedding.requires_grad):
            return tuple(one if isinstance(one, Tensor) else one() for one in self._maps)


class RowFeatures(Protocol):
    """Features that were computed before, for rows in the place of images (`contextcir.encoders.frozen`)."""

    def encode(self, backbone: Any, rows: Tensor) -> ImageFeatures:
        """Return the features of rows (B, 2) int64: the number of a list of images, and a position in it."""

    def distinct(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the positions (U,) of the different images of a list, and their ids (U,)."""

    def alike(self, number: int, positions: Tensor) -> Tensor:
        """Return the ids (M,) of all images in the sets of similar images that hold those at ``positions``."""

    def embeddings(self, backbone: Any, number: int, positions: Tensor) -> Tensor:
        """Return the embeddings (M, E) of images of a list."""

    def close(self) -> None:
        """Forget what was opened: it belongs to other weights."""
