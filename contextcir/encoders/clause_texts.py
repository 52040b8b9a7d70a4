"""Captions read clause by clause: each clause goes through the text tower alone, so that none interferes with another.

What comes out has the shape of the features of whole captions, so that fusions and losses need not know the difference.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from contextcir.batch import Clauses
from contextcir.devices import to_device
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import TextFeatures
from contextcir.encoders.text import Tokenizer


def encode_by_clause(backbone: OpenCLIPBackbone, captions: Sequence[str], clauses: Clauses | None) -> TextFeatures:
    """Encode B captions with C clauses; different clauses of equal words are encoded once.

    Each token (B, T, D) is that of its clause alone. The end token is the mean of the clauses' end tokens, and the
    ``embedding`` (B, E) the sum of their embeddings, neither normalised. Tokens between clauses are not valid. Where a
    caption has no clauses it is one by itself, and its features are those of the whole caption. Of a clause beyond the
    end of a truncated caption, only the embedding is read.

    Raises:
        ValueError: for a clause that is empty or not inside its caption.
    """
    whole = backbone.tokenizer(captions)
    if clauses is None or not len(clauses.owner):
        return backbone.encode_text(whole)
    reading = _Reading(backbone.tokenizer, captions, clauses)
    alone = backbone.encode_text(backbone.tokenizer.pad(list(reading.texts)))
    device, width = alone.tokens.device, alone.tokens.shape[1]
    ends = whole.valid.sum(dim=1) - 1  # (B,)
    source = torch.full(whole.ids.shape, -1)  # (B, T) position in all tokens of all texts, -1 for none
    source[:, 0] = torch.tensor([first * width for first in reading.first])
    row, column, text, position = torch.tensor(reading.places).reshape(-1, 4).unbind(1)
    inside = column < ends[row]
    source[row[inside], column[inside]] = (text * width + position)[inside]
    at_end = torch.arange(source.shape[1]) == ends[:, None]  # (B, T)
    source, at_end = (to_device(part, device) for part in (source, at_end))
    valid = source >= 0
    tokens = torch.where(valid[..., None], alone.tokens.flatten(0, 1)[source], 0.0)  # (B, T, D); -1 reads any row
    owner, number = (to_device(torch.tensor(part), device) for part in (reading.owner, reading.number))  # (C,)
    end_tokens = alone.tokens[torch.arange(len(alone.tokens), device=device), alone.valid.sum(dim=1) - 1]  # (N, D)
    counts = torch.zeros(len(captions), device=device, dtype=end_tokens.dtype).index_add(
        0, owner, torch.ones(len(owner), device=device, dtype=end_tokens.dtype)
    )
    mean_end = _sum_by(owner, end_tokens[number], len(captions)) / counts[:, None]  # (B, D)
    tokens = torch.where(at_end[..., None], mean_end[:, None], tokens)
    return TextFeatures(tokens, valid | at_end, _sum_by(owner, alone.embedding[number], len(captions)))


class _Reading:
    """Which texts are encoded, and where their tokens go.

    ``texts``: the N different clauses as token ids. ``owner`` and ``number``: of C clauses, the row of the caption and
    the text. ``first``: of each of B captions, the text of its first clause. ``places``: of each token, row and column
    in the captions, and text and position in the clause.
    """

    def __init__(self, tokenizer: Tokenizer, captions: Sequence[str], clauses: Clauses) -> None:
        self.texts: dict[tuple[int, ...], int] = {}
        self.owner: list[int] = []
        self.number: list[int] = []
        self.first: list[int] = []
        self.places: list[tuple[int, int, int, int]] = []
        spans: list[list[tuple[int, int]]] = [[] for _ in captions]
        for row, (start, end) in zip(clauses.owner.tolist(), clauses.spans.tolist(), strict=True):
            spans[row].append((start, end))
        for row, caption in enumerate(captions):
            for place, (ids, columns) in enumerate(tokenizer.parts(caption, sorted(spans[row]))):
                number = self.texts.setdefault(ids, len(self.texts))
                self.owner.append(row)
                self.number.append(number)
                if not place:
                    self.first.append(number)
                self.places += [(row, column, number, position) for position, column in enumerate(columns, start=1)]


def _sum_by(owner: Tensor, values: Tensor, count: int) -> Tensor:
    """Return the sum (B, ...) of the values (C, ...) of each owner (C,)."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, owner, values)
