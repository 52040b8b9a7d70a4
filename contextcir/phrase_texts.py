"""The noun phrases of a batch of captions as texts of their own, encoded once and only where somebody reads them."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from contextcir.backbone import OpenCLIPBackbone
from contextcir.batch import Phrases, TextFeatures, TokenBatch


class ConceptTokens(NamedTuple):
    """One token for each noun phrase of B captions: ``tokens`` (B, C, Dt), ``valid`` (B, C); C may be 0."""

    tokens: Tensor
    valid: Tensor


class PhraseTexts:
    """P noun phrases of B captions, each different wording encoded once, alone and no longer than it is.

    ``owner`` (P,): the row of the caption that each phrase is in. Raises ValueError, on first use, for a span that is
    empty or not inside its caption.
    """

    def __init__(self, backbone: OpenCLIPBackbone, captions: Sequence[str], phrases: Phrases) -> None:
        self.owner = phrases.owner
        self.captions = captions
        self._spans = phrases.spans
        self._backbone = backbone
        self._features: TextFeatures | None = None

    def __len__(self) -> int:
        return len(self.owner)

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens of each phrase in its caption, (P, T); a row without any was cut away with the caption's end."""
        return self._backbone.tokenizer.span_tokens(self.captions, self.owner, self._spans)

    @cached_property
    def slot(self) -> Tensor:
        """Number (P,) of each phrase among those of its caption, in the order given."""
        same = self.owner[:, None] == self.owner[None, :]  # (P, P)
        return same.tril(diagonal=-1).sum(dim=1)

    @cached_property
    def row(self) -> Tensor:
        """Which of the N wordings each phrase is, (P,)."""
        number = {text: row for row, text in enumerate(self.texts)}
        return torch.tensor([number[text] for text in self._wordings], dtype=torch.long, device=self.owner.device)

    @cached_property
    def texts(self) -> list[str]:
        """The N different wordings."""
        return list(dict.fromkeys(self._wordings))

    @cached_property
    def content(self) -> Tensor:
        """Tokens of each wording, (N, Tp), without start and end of text."""
        return self._backbone.tokenizer.content(self._batch).to(self.owner.device)

    @cached_property
    def _wordings(self) -> list[str]:
        return self._backbone.tokenizer.isolated(self.captions, self.owner, self._spans)

    @cached_property
    def _batch(self) -> TokenBatch:
        return self._backbone.tokenizer(self.texts)

    def features(self) -> TextFeatures:
        """The N wordings, encoded: tokens (N, Tp, Dt), with a graph where gradients are on."""
        if self._features is None or (torch.is_grad_enabled() and not self._features.tokens.requires_grad):
            self._features = self._backbone.encode_text(self._batch)
        return self._features

    def detached(self) -> TextFeatures:
        """The same without a graph: what was encoded already, or a pass that keeps nothing for gradients."""
        with torch.no_grad():
            found = self.features()
        return TextFeatures(found.tokens.detach(), found.valid, found.embedding.detach())

    def concept_tokens(self) -> ConceptTokens:
        """One token for each phrase, the mean of its own tokens when it is read alone, by captions."""
        features = self.features()
        mean = mean_of(features.tokens, self.content)  # (N, Dt)
        count = int(self.slot.max()) + 1 if len(self) else 0
        tokens = mean.new_zeros(len(self.captions), count, mean.shape[-1])  # (B, C, Dt)
        tokens = tokens.index_put((self.owner, self.slot), mean[self.row])
        valid = torch.zeros(len(self.captions), count, dtype=torch.bool, device=self.owner.device)
        valid[self.owner, self.slot] = True
        return ConceptTokens(tokens, valid)


def mean_of(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Mean over those of the tokens (N, T, D) that are ``chosen`` (N, T): (N, D); 0 where there are none."""
    share = chosen.to(tokens.dtype) / chosen.sum(dim=1, keepdim=True).clamp(min=1)  # (N, T)
    return (tokens * share[..., None]).sum(dim=1)
