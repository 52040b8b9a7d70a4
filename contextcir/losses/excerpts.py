"""Queries composed of other texts than the captions of a batch: single clauses, several clauses, captions joined."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import Clauses, phrases_of
from contextcir.devices import to_device
from contextcir.encoders.clause_texts import encode_by_clause
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import PhraseTexts
from contextcir.fusion.base import Fusion
from contextcir.losses.maps import ConceptReading

Spans = tuple[tuple[int, int], ...]


class Excerpt(NamedTuple):
    """A text that is composed with the reference image of a ``row`` of the batch.

    ``caption``: cleaned. ``clauses``: the parts of it that are read, each encoded alone; without any, it is read as a
    whole. ``phrases``: its noun phrases, for fusions that read them.
    """

    row: int
    caption: str
    clauses: Spans
    phrases: Spans

    def whole(self) -> "Excerpt":
        """Return the caption read as one text."""
        return self._replace(clauses=())

    def parts(self) -> "list[Excerpt]":
        """Return each clause by itself, with the phrases that lie in it."""
        return [
            self._replace(
                clauses=((start, end),), phrases=tuple(x for x in self.phrases if start <= x[0] < x[1] <= end)
            )
            for start, end in self.clauses
        ]

    def blank(self) -> "Excerpt":
        """Return a caption without words for the same image."""
        return Excerpt(self.row, "", (), ())


def captions_by_clause(reading: ConceptReading) -> list[Excerpt]:
    """Return the B captions with their clauses and phrases, both in the order of the text."""
    phrases, given = reading.phrases, reading.features.clauses
    clauses = [set[tuple[int, int]]() for _ in phrases.captions]
    named = [set[tuple[int, int]]() for _ in phrases.captions]
    if given is not None:
        _spread(clauses, given.owner, given.spans)
    _spread(named, phrases.owner, phrases.spans)
    clean = phrases.backbone.tokenizer.clean
    return [
        Excerpt(row, clean(caption), tuple(sorted(clauses[row])), tuple(sorted(named[row])))
        for row, caption in enumerate(phrases.captions)
    ]


def _spread(rows: list[set[tuple[int, int]]], owner: Tensor, spans: Tensor) -> None:
    for row, (start, end) in zip(owner.tolist(), spans.tolist(), strict=True):
        rows[row].add((start, end))


def compose(reading: ConceptReading, texts: Sequence[Excerpt]) -> Tensor:
    """Return the composed queries (N, E) of N texts, L2-normalised; images are not encoded again."""
    image, backbone = reading.features.image, reading.phrases.backbone
    device = image.embedding.device
    captions = [text.caption for text in texts]
    spans = [(number, *span) for number, text in enumerate(texts) for span in text.clauses]
    places = torch.tensor(spans, dtype=torch.long).reshape(-1, 3)  # (C, 3)
    text = encode_by_clause(backbone, captions, Clauses(places[:, 0], places[:, 1:]))
    phrases = PhraseTexts(backbone, captions, phrases_of([text.phrases for text in texts]))
    rows = to_device(torch.tensor([text.row for text in texts]), device)  # (N,)
    fused = reading.fusion(ImageFeatures(image.tokens[rows], image.embedding[rows]), text, phrases)
    return normalised(fused.embedding)


def compose_as_teacher(reading: ConceptReading, texts: Sequence[Excerpt]) -> Tensor:
    """Return `compose` without a graph and without dropout; weights have to have been used with a graph before.

    Under autocast, a weight that is first used without a graph would have no gradient afterwards.
    """
    if not texts:
        embedding = reading.features.fused.embedding
        return normalised(embedding.new_zeros(0, embedding.shape[1]))
    with torch.no_grad(), _without_dropout(reading.fusion):
        return compose(reading, texts)


def normalised(embedding: Tensor) -> Tensor:
    """Return embeddings (N, E) at length 1, at least in float32: cosines in low precision are off by hundredths."""
    return functional.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=-1)


@contextmanager
def _without_dropout(fusion: Fusion) -> Iterator[None]:
    training = fusion.training
    fusion.eval()
    try:
        yield
    finally:
        fusion.train(training)
