"""The noun phrases of a batch of captions as texts of their own, encoded once and on first use."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from contextcir.batch import Clauses, Phrases
from contextcir.devices import to_device
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures, TokenBatch


class ConceptTokens(NamedTuple):
    """One token for each different noun phrase of B captions: ``tokens`` (B, C, Dt), ``valid`` (B, C); C may be 0."""

    tokens: Tensor
    valid: Tensor


class PhraseTexts:
    """P noun phrases of B captions; each different wording is encoded once, alone and without padding to the captions.

    ``owner`` (P,): the row of the caption that each phrase is in; ``spans`` (P, 2): its characters there. All that says
    where phrases are is on the host, and moved (`contextcir.devices`) where it is needed; phrases that are given on a
    device are waited for. Raises ValueError, on first use, for a span that is empty or not inside its caption.
    """

    def __init__(self, backbone: OpenCLIPBackbone, captions: Sequence[str], phrases: Phrases) -> None:
        places = torch.cat([phrases.owner[:, None], phrases.spans], dim=1).cpu()  # (P, 3), in one transfer
        self.owner, self.spans = places[:, 0], places[:, 1:]
        self.captions = captions
        self._backbone = backbone
        self._features: TextFeatures | None = None

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def backbone(self) -> OpenCLIPBackbone:
        """The backbone that encodes them."""
        return self._backbone

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens of each phrase in its caption, (P, T); a row without any was truncated with its caption."""
        return self._backbone.tokenizer.span_tokens(self.captions, self.owner, self.spans)

    @cached_property
    def slot(self) -> Tensor:
        """Number (P,) of each phrase among the different wordings of its caption, in order of first occurrence.

        Phrases of equal wording in a caption are one concept.
        """
        rows = self.owner.tolist()
        slots = [self._concepts[row][text] for row, text in zip(rows, self._wordings, strict=True)]
        return torch.tensor(slots, dtype=torch.long)

    @cached_property
    def row(self) -> Tensor:
        """Which of the N wordings each phrase is, (P,)."""
        return torch.tensor([self._numbers[text] for text in self._wordings], dtype=torch.long)

    @cached_property
    def texts(self) -> list[str]:
        """The N different wordings."""
        return list(self._numbers)

    @cached_property
    def content(self) -> Tensor:
        """Tokens of each wording, (N, Tp), without start and end of text."""
        return self._backbone.tokenizer.content(self._batch)

    @cached_property
    def _wordings(self) -> list[str]:
        return self._backbone.tokenizer.isolated(self.captions, self.owner, self.spans)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(dict.fromkeys(self._wordings))}

    @cached_property
    def _concepts(self) -> list[dict[str, int]]:
        """The wordings of each caption, numbered."""
        concepts: list[dict[str, int]] = [{} for _ in self.captions]
        for row, text in zip(self.owner.tolist(), self._wordings, strict=True):
            concepts[row].setdefault(text, len(concepts[row]))
        return concepts

    @cached_property
    def _batch(self) -> TokenBatch:
        first: dict[str, int] = {}
        for phrase, text in enumerate(self._wordings):
            first.setdefault(text, phrase)
        rows = list(first.values())  # (N,) a phrase of each wording
        return self._backbone.tokenizer.encode_isolated(self.captions, self.owner[rows], self.spans[rows])

    def features(self) -> TextFeatures:
        """Return the N encoded wordings, tokens (N, Tp, Dt), with a graph where gradients are enabled."""
        if self._features is None or (torch.is_grad_enabled() and not self._features.tokens.requires_grad):
            self._features = self._backbone.encode_text(self._batch)
        return self._features

    def detached(self) -> TextFeatures:
        """Return the same without a graph: cached features, or those of a pass without gradients."""
        with torch.no_grad():
            features = self.features()
        return TextFeatures(features.tokens.detach(), features.valid, features.embedding.detach())

    def concept_tokens(self) -> ConceptTokens:
        """Return one token for each different phrase of a caption: the mean of its tokens when encoded alone.

        A phrase without any token is no concept.
        """
        encoded = self.features().tokens  # (N, Tp, Dt)
        mean = mean_of(encoded, to_device(self.content, encoded.device))  # (N, Dt)
        count = max((len(concepts) for concepts in self._concepts), default=0)
        table = [[self._numbers[text] for text in concepts] for concepts in self._concepts]
        padded = [numbers + [-1] * (count - len(numbers)) for numbers in table]
        number = torch.tensor(padded, dtype=torch.long).reshape(len(padded), count)  # (B, C)
        if not len(self):
            return ConceptTokens(mean.new_zeros(*number.shape, mean.shape[-1]), to_device(number >= 0, mean.device))
        valid = (number >= 0) & self.content.any(dim=1)[number]  # (B, C); -1 reads the last row, which is masked
        number, valid = (to_device(part, mean.device) for part in (number, valid))
        return ConceptTokens(torch.where(valid[..., None], mean[number], 0.0), valid)


def mean_of(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean (N, D) of the ``chosen`` (N, T) among tokens (N, T, D), 0 where none is chosen."""
    share = chosen.to(tokens.dtype) / chosen.sum(dim=1, keepdim=True).clamp(min=1)  # (N, T)
    return (tokens * share[..., None]).sum(dim=1)


class QueryFeatures(NamedTuple):
    """Everything that was computed for a batch of queries; ``phrases`` is None where none were given.

    ``clauses``: those of the captions, as given, whether or not the fusion reads them.
    """

    image: ImageFeatures
    text: TextFeatures
    fused: Fused
    phrases: PhraseTexts | None = None
    clauses: Clauses | None = None
