"""Gradient caching: a large batch at the memory of a small one, with the gradients of the large one.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (RepL4NLP 2021): embeddings are
computed in chunks without activations for backward; the loss is computed on all of them; then each chunk is computed
again, with the gradients of its embeddings. Unlike there, all of it is one node of autograd's graph: there is one
backward pass and, with several ranks, one reduction of gradients, and mixed precision, clipping and accumulation need
no special case.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from contextcir.batch import Clauses, Phrases, TripletBatch
from contextcir.checks import whole
from contextcir.copies import CopyStream, rows_on
from contextcir.devices import to_device
from contextcir.encoders.features import ImageFeatures
from contextcir.errors import InputError
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import ConceptLoss, MeanOverPhrases, mean_over_phrases
from contextcir.training.encoding import Distinct, Encoded, Model, WholeBatch, distinct_of, image_tensors


class RandomState:
    """The random numbers of a forward pass, and its mixed precision, so that it can be repeated with the same result.

    The mixed precision is that at construction, the random numbers are those at the last `save`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._precision = torch.get_autocast_dtype(device.type)
        self._mixed = torch.is_autocast_enabled(device.type)
        self._states = self._current()

    def _current(self) -> tuple[Tensor, ...]:
        on_device = (torch.cuda.get_rng_state(self.device),) if self.device.type == "cuda" else ()
        return torch.get_rng_state(), *on_device

    def save(self) -> None:
        """Save the RNG state in place: a new allocation here would fragment memory that is about to be freed."""
        for saved, state in zip(self._states, self._current(), strict=True):
            saved.copy_(state)

    def autocast(self) -> torch.autocast:
        """Return the mixed precision, without a cache: weights cast in a pass without gradients would have none."""
        return torch.autocast(self.device.type, self._precision, enabled=self._mixed, cache_enabled=False)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore mixed precision and random numbers; afterwards the RNG continues as if nothing had been drawn."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self.autocast():
            torch.set_rng_state(self._states[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self._states[1], self.device)
            yield


class Chunk(NamedTuple):
    """Some rows of a batch, and the images that are encoded with them.

    ``rows`` (b,) of the batch. ``images`` (n,): which of the U distinct images are encoded, the references of the rows
    first. ``reference`` (b,): where among them the reference of each row is. ``kept`` (k,): those among them that no
    earlier chunk has encoded.
    """

    rows: Tensor
    images: Tensor
    reference: Tensor
    kept: Tensor


class Results(NamedTuple):
    """Results of one or all chunks: queries (b, E), images (k, E), and a value of the Text-CC loss per phrase (F,)."""

    query: Tensor
    image: Tensor
    concept: Tensor


class GradientCache(WholeBatch):
    """Encodes a batch in chunks, each of them twice: once for its embeddings, and again in backward for its gradients.

    Peak memory is that of one chunk and of the embeddings of all; a step takes one more forward pass. With a GPU,
    images stay in host memory and are copied chunk by chunk, those of the next while one is encoded. Text-CC losses
    have to be `MeanOverPhrases`. Strategies that shard the weights can't be used: `contextcir.training.sharding` has
    another class for FSDP2.

    Args:
        chunk: Number of triplets that are encoded at a time, at most, with up to twice as many images.

    Raises:
        InputError: if the chunk is empty.
    """

    def __init__(self, chunk: int = 32) -> None:
        self.chunk = whole(chunk, 1, "model.encoding.chunk")

    def check(self, concept: ConceptLoss | None) -> None:
        """Raise InputError for a Text-CC loss that compares the phrases of different rows."""
        self._mean(concept)

    @staticmethod
    def _mean(concept: ConceptLoss | None) -> MeanOverPhrases | None:
        if concept is None or isinstance(concept, MeanOverPhrases):
            return concept
        raise InputError(
            f"{type(concept).__name__} compares the phrases of all rows of a batch, and GradientCache encodes a chunk "
            "at a time: use TextConceptConsistency or SpatialConsistency, or no GradientCache",
            setting="model.concept",
        )

    def move(self, batch: TripletBatch, device: torch.device) -> TripletBatch:
        """Move the batch to the device, except for its images, and what says which image is which."""
        query, target, hard = batch.query, batch.target, batch.negatives
        nothing = target[:0]
        light = batch._replace(query=query._replace(reference=nothing, images=None), target=nothing)
        if hard is not None:
            light = light._replace(negatives=hard._replace(image=nothing))
        moved = move_data_to_device(light, device)
        if hard is not None:
            moved = moved._replace(negatives=moved.negatives._replace(image=hard.image))
        left = moved.query._replace(reference=query.reference, images=query.images)
        return moved._replace(query=left, target=target)

    def __call__(self, model: Model, batch: TripletBatch) -> Encoded:
        """Encode the batch in chunks. All ranks have to call it; how many rows they have may differ."""
        concept = self._mean(model.concept)
        found = distinct_of(batch)
        hard = None if found.negative is None else found.negative.cpu()
        distinct = Distinct(found.first.cpu(), found.reference.cpu(), found.target.cpu(), hard)
        chunks = plan_chunks(distinct, self.chunk)
        passes = Passes(model, concept, batch, distinct, chunks)
        results = self.results(passes)
        device = results.query.device
        query = to_device(torch.cat([chunk.rows for chunk in chunks]).argsort(), device)  # (B,) place of each row
        image = torch.cat([chunk.images[chunk.kept] for chunk in chunks]).argsort()  # (U,)
        reference, target = (to_device(image[which], device) for which in (distinct.reference, distinct.target))  # (B,)
        loss = None if concept is None else mean_over_phrases(results.concept)
        others = distinct.negative
        negative = None if others is None else results.image[to_device(image[others], device)]  # (M, E)
        return Encoded(results.query[query], results.image[target], results.image[reference], loss, negative)

    def results(self, passes: "Passes") -> Results:
        """Return the results of all chunks, as one node of autograd's graph."""
        return Results(*_InChunks.apply(passes, *passes.parameters))


def plan_chunks(distinct: Distinct, size: int) -> list[Chunk]:
    """Divide B rows into chunks of equal size, at most ``size``, so that hardly any image is in two of them.

    Rows with the same reference are neighbours. Images that are no references are distributed evenly.
    """
    order = distinct.reference.argsort(stable=True)  # (B,)
    count = -(-len(order) // size)
    given = torch.zeros(len(distinct.first), dtype=torch.bool)  # (U,)
    others = given.index_fill(0, distinct.reference, True).logical_not().nonzero().flatten()
    chunks = []
    for rows, others_here in zip(order.tensor_split(count), others.tensor_split(count), strict=True):
        own, reference = distinct.reference[rows].unique(return_inverse=True)
        images = torch.cat([own, others_here])
        chunks.append(Chunk(rows, images, reference, given[images].logical_not().nonzero().flatten()))
        given[images] = True
    return chunks


class Passes:
    """The chunks of a batch, encoded twice with the same result.

    ``parameters``: all that may get gradients.
    """

    def __init__(
        self,
        model: Model,
        concept: MeanOverPhrases | None,
        batch: TripletBatch,
        distinct: Distinct,
        chunks: list[Chunk],
    ) -> None:
        self.model, self.concept, self.batch, self.distinct, self.chunks = model, concept, batch, distinct, chunks
        self.device = next(model.parameters()).device
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        self.states = [RandomState(self.device) for _ in chunks]

    def first(self) -> Results:
        """Encode all chunks, and keep only the results."""
        rows, images, values = 0, 0, []
        for (chunk, pixels), state in zip(self._images_ahead(), self.states, strict=True):
            state.save()
            with state.autocast():
                query, image, concept = self._encode(chunk, pixels)
            if not rows:
                # One allocation each: many small results among memory that is freed would fragment it.
                queries = query.new_empty(len(self.batch.target), query.shape[1])  # (B, E)
                embeddings = image.new_empty(len(self.distinct.first), image.shape[1])  # (U, E)
            queries[rows : (rows := rows + len(query))] = query
            embeddings[images : (images := images + len(image))] = image
            values.append(concept)
        return Results(queries, embeddings, torch.cat(values))

    def again(self, gradients: Results) -> list[Tensor | None]:
        """Return the gradients of the parameters, given those of the results; None for unused parameters."""
        totals: list[Tensor | None] = [None for _ in self.parameters]
        for results, given in self.encoded_again(gradients):
            add(totals, torch.autograd.grad(results, self.parameters, given, allow_unused=True))
        return [total if total is None else total.to(p.dtype) for total, p in zip(totals, self.parameters, strict=True)]

    def encoded_again(self, gradients: Results) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Yield the results of each chunk, with their graph, and their gradients, given those of all results."""
        start = [0 for _ in gradients]  # rows of the results that belong to earlier chunks
        for (chunk, pixels), state in zip(self._images_ahead(), self.states, strict=True):
            with state.restored(), torch.enable_grad():
                encoded = self._encode(chunk, pixels)
            pairs = [
                (result, whole[begin : begin + len(result)])
                for result, whole, begin in zip(encoded, gradients, start, strict=True)
                if result.requires_grad
            ]
            start = [begin + len(result) for begin, result in zip(start, encoded, strict=True)]
            if pairs:
                yield [result for result, _ in pairs], [given for _, given in pairs]

    def _encode(self, chunk: Chunk, images: Tensor) -> Results:
        model, query = self.model, self.batch.query
        tokens, embedding = model.backbone.encode_image(images)
        reference, kept = (to_device(rows, embedding.device) for rows in (chunk.reference, chunk.kept))
        captions = [query.captions[row] for row in chunk.rows.tolist()]
        image = ImageFeatures(tokens[reference], embedding[reference])
        phrases = phrases_of_rows(query.phrases, chunk.rows, len(query.captions))
        clauses = clauses_of_rows(query.clauses, chunk.rows, len(query.captions))
        features = model.compose(image, captions, phrases, clauses)
        values = embedding.new_zeros(0)
        if self.concept is not None:
            ids = self.batch.reference_id.cpu()[chunk.rows]
            values = self.concept.values(ConceptReading(model.fusion, features, ids))  # (F,)
        return Results(features.fused.embedding, embedding[kept], values)

    def _images_ahead(self) -> Iterator[tuple[Chunk, Tensor]]:
        """Yield every chunk with its images (n, 3, S, S) on the device, where those of the next are copied meanwhile.

        Those of the other chunks need not be there.
        """
        return zip(self.chunks, CopyStream(self.device).ahead(self.chunks, self._images), strict=True)

    def _images(self, chunk: Chunk) -> Tensor:
        if self.batch.query.images is not None:
            return rows_on(self.device, self.batch.query.images.pixels, chunk.images)
        place = self.distinct.first[chunk.images]  # (n,) among the 2B + M
        start, parts = 0, []
        for pixels in image_tensors(self.batch):
            rows = place[(place >= start) & (place < start + len(pixels))] - start
            parts.append(rows_on(self.device, pixels, rows))
            start += len(pixels)
        return torch.cat(parts)


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.passes = passes
        return tuple(passes.first())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.passes.again(Results(*gradients))


def phrases_of_rows(phrases: Phrases, rows: Tensor, count: int) -> Phrases:
    """Return the phrases of some rows (b,) of a batch of ``count``; their owners count among these rows."""
    owner, here = _owners_among(rows, phrases.owner, count)
    return Phrases(owner, phrases.spans[here], phrases.boxes[here])


def clauses_of_rows(clauses: Clauses | None, rows: Tensor, count: int) -> Clauses | None:
    """Return the clauses of some rows (b,), as `phrases_of_rows`."""
    if clauses is None:
        return None
    owner, here = _owners_among(rows, clauses.owner, count)
    return Clauses(owner, clauses.spans[here])


def _owners_among(rows: Tensor, owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the owners, counted among some rows (b,), of those that belong to them, and which those are (P,)."""
    rows = rows.to(owner.device)
    place = torch.full((count,), -1, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    moved = place[owner]  # (P,)
    here = moved >= 0
    return moved[here], here


def add(totals: list[Tensor | None], gradients: tuple[Tensor | None, ...]) -> None:
    """Add gradients to totals, at least in float32: in low precision, rounding would lose those of many chunks.

    The first gradients are copied, as two parameters may share one tensor.
    """
    for number, gradient in enumerate(gradients):
        if gradient is None:
            continue
        total = totals[number]
        if total is None:
            precise = torch.promote_types(gradient.dtype, torch.float32)
            total = torch.zeros_like(gradient, dtype=precise, memory_format=torch.contiguous_format)
        total += gradient
        totals[number] = total
