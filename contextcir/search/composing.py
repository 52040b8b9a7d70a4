"""Queries as embeddings: what a model makes of images and texts, weighed against each other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import clauses_of, phrases_of
from contextcir.encoders.features import ImageFeatures
from contextcir.errors import InputError
from contextcir.losses.maps import phrase_attention
from contextcir.phrases.parser import Parse
from contextcir.search.folder import ImageEncoder
from contextcir.search.queries import Query
from contextcir.synthesis.clip import half_on_gpu
from contextcir.training.module import ContextCIR


class Composed(NamedTuple):
    """Queries as embeddings (Q, E), L2-normalised, in float32 on the CPU, and the maps of their noun phrases.

    ``maps``: of each query, (rows, columns) over its first image for each phrase of its parse, or None.
    """

    embedding: Tensor
    maps: list[tuple[Tensor | None, ...]]


class ModelEncoder(ImageEncoder):
    """The image tower of a model, in half precision on a GPU.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: ContextCIR) -> None:
        self.model = model
        self.transform = model.preprocess
        self.side = model.backbone.image_size

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embeddings of images; raises InputError if one is zero or not finite."""
        device = self.model.device
        with torch.inference_mode(), half_on_gpu(device):
            embedding = self.model.backbone.encode_image(pixels.to(device, non_blocking=True)).embedding
        return _unit(embedding.float().cpu())


class Composer:
    """Turns queries into embeddings with a model, many at once.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: ContextCIR) -> None:
        self.model = model
        # checkpoints as published have no text projection, so that texts alone can't be searched for
        self.has_text_embedding = any(bool(weight.any()) for weight in model.backbone._text_projection())

    def check(self, query: Query) -> None:
        """Raise InputError for a query that this model has no embedding for."""
        needs_text = bool(query.text.strip()) and (not query.images or query.balance > 0.5)
        if needs_text and not self.has_text_embedding:
            what = "a balance of at most 0.5" if query.images else "an image as well"
            problem = f"this model has no text projection, so no text can be compared with images: give {what}"
            raise InputError(problem, setting="balance" if query.images else "image")

    def compose(self, queries: Sequence[Query], parses: Sequence[Parse]) -> Composed:
        """Return the embeddings of queries, and maps where they are asked for.

        Args:
            queries: each checked by `check`.
            parses: noun phrases and clauses of their texts.

        Raises:
            InputError: if an embedding is zero or not finite.
        """
        device = self.model.device
        with torch.inference_mode(), half_on_gpu(device):
            return self._compose(queries, parses)

    def _compose(self, queries: Sequence[Query], parses: Sequence[Parse]) -> Composed:
        width = self.model.backbone.widths.embed
        maps: list[tuple[Tensor | None, ...]] = [(None,) * len(parse.phrases) for parse in parses]
        texted = {number for number, query in enumerate(queries) if query.text.strip()}
        # a row for each image of each query, and of those with a text another one in `pairs`
        owner = [number for number, query in enumerate(queries) for _ in query.images]
        image_part, text_part, composed_part = (torch.zeros(len(queries), width) for _ in range(3))
        if owner:
            preprocess = self.model.preprocess
            pixels = torch.stack([preprocess(image) for query in queries for image in query.images])
            features = self.model.backbone.encode_image(pixels.to(self.model.device))
            image_part = _mean_by(owner, features.embedding, len(queries))
            rows = [row for row, number in enumerate(owner) if number in texted]
            needed = [row for row in rows if queries[owner[row]].balance > 0 or queries[owner[row]].maps]
            if needed:
                composed_part = self._pairs(queries, parses, features, owner, needed, maps)
        alone = [n for n in sorted(texted) if not queries[n].images or queries[n].balance > 0.5]
        if alone:
            clauses = clauses_of([parses[n].clauses for n in alone])
            texts = self.model.fusion.encode_text(self.model.backbone, [queries[n].text for n in alone], clauses)
            text_part[alone] = functional.normalize(texts.embedding.float().cpu(), dim=-1)
        mixed = [
            _balanced(query, image, text, both)
            for query, image, text, both in zip(queries, image_part, text_part, composed_part, strict=True)
        ]
        return Composed(_unit(torch.stack(mixed)), maps)

    def _pairs(
        self,
        queries: Sequence[Query],
        parses: Sequence[Parse],
        features: ImageFeatures,
        owner: Sequence[int],
        rows: Sequence[int],
        maps: list[tuple[Tensor | None, ...]],
    ) -> Tensor:
        """Return the composed embedding (Q, E) of each query, n of the mean of those of its images; fill ``maps``."""
        of = [owner[row] for row in rows]
        image = ImageFeatures(features.tokens[rows], features.embedding[rows])
        phrases = phrases_of([parses[number].phrases for number in of])
        clauses = clauses_of([parses[number].clauses for number in of])
        composed = self.model.compose(image, [queries[number].text for number in of], phrases, clauses)
        wanted = {of.index(number): number for number in dict.fromkeys(of) if queries[number].maps}  # first images
        if composed.fused.attention and wanted and len(phrases.owner):
            attention = phrase_attention(self.model.fusion, composed).float().cpu()  # (P, N)
            grid = self.model.backbone.grid
            for row, number in wanted.items():
                mine = attention[phrases.owner == row]
                maps[number] = tuple(_map_of(one, grid) for one in mine)
        return _mean_by(of, composed.fused.embedding, len(queries))


def _balanced(query: Query, image: Tensor, text: Tensor, both: Tensor) -> Tensor:
    """Return the embedding (E,) of a query from those of its images, its text, and both composed."""
    if not query.text.strip():
        return image
    if not query.images:
        return text
    b = query.balance
    return (1 - 2 * b) * image + 2 * b * both if b <= 0.5 else (2 - 2 * b) * both + (2 * b - 1) * text


def _map_of(attention: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """Return the attention (N,) of a phrase as a map that sums to 1; None for a phrase that was cut off."""
    total = float(attention.sum())
    return (attention / total).unflatten(0, grid) if total > 0 else None  # NaN is not above 0


def _mean_by(owner: Sequence[int], embedding: Tensor, count: int) -> Tensor:
    """Return n of the mean of the n(embedding) (N, E) of each owner, (count, E) in float32 on the CPU; else zero."""
    single = functional.normalize(embedding.float().cpu(), dim=-1)
    total = torch.zeros(count, single.shape[1]).index_add(0, torch.tensor(owner), single)
    return functional.normalize(total, dim=-1)


def _unit(embedding: Tensor) -> Tensor:
    """Return embeddings (B, E) at length 1; raises InputError if one is zero or not finite."""
    length = embedding.norm(dim=-1, keepdim=True)
    if not (length.isfinite().all() and (length > 0).all()):
        raise InputError("the model gives an embedding that is zero or not finite: take another one", setting="model")
    return embedding / length
