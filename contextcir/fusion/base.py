"""The interface of a fusion."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from contextcir.batch import Clauses
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.clause_texts import encode_by_clause
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import PhraseTexts


class Fusion(nn.Module, ABC):
    """Composes queries, and gives the attention of vision tokens to texts.

    Classes are called with the `Widths` of the backbone and their own settings. What every fusion has to satisfy is
    checked by tests/fusion/test_every_fusion.py, which finds the classes of this package by itself.
    """

    reads_text_embedding: bool = False  # where false, the text projection gets no gradient and has to be frozen
    reads_clauses: bool = False  # whether captions are encoded clause by clause (`contextcir.encoders.clause_texts`)
    trained_by: str | None = None  # the concept loss without which a part of this fusion is not trained
    maps_at_once: bool = False  # whether a loss reads the maps of this batch; else they are computed if asked for

    def connect(self, backbone: OpenCLIPBackbone) -> None:
        """Take what this fusion uses of the encoders besides their features; called once, before anything else."""

    def encode_text(self, backbone: OpenCLIPBackbone, captions: Sequence[str], clauses: Clauses | None) -> TextFeatures:
        """Return the features of B captions as this fusion reads them: by their clauses, or each as one text."""
        return encode_by_clause(backbone, captions, clauses if self.reads_clauses else None)

    @abstractmethod
    def forward(self, image: ImageFeatures, text: TextFeatures, phrases: PhraseTexts | None = None) -> Fused:
        """Return the composed query: ``embedding`` (B, E), and L attention maps (B, H, V, K) over all K keys.

        The first T keys are the text tokens. ``phrases``: the noun phrases of the captions, for fusions that read
        them; a caption without phrases, or with none given, is composed from its tokens alone. Where not
        ``maps_at_once``, attention need not make maps, and `Fused` has a function of each.
        """

    @abstractmethod
    def attention(self, image: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Return L maps (B, H, V, K) over texts that are one noun phrase each, summing to 1 over the valid keys.

        ``image`` (B, V, D) vision tokens, ``text`` (B, T, Dt) text tokens, ``valid`` (B, T). Nothing is computed
        beyond the last map.
        """

    def keys_of_phrases(self, tokens: Tensor, slot: Tensor) -> Tensor:
        """Return which of the K keys stand for each of P phrases, (P, K).

        ``tokens`` (P, T) the phrase's tokens in its text; ``slot`` (P,), on the host, its number among the phrases of
        that text.
        """
        return tokens
