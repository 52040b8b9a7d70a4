"""Gradient caching: a large batch at the memory of a small one, with the gradients of the large one.

Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (RepL4NLP 2021): embeddings are
computed in chunks that keep nothing; the loss is taken of all of them; then each chunk is computed again, with the
gradients of its embeddings. Other than there, all of it is one node of autograd's graph. So there is one backward pass
and, with several ranks, one reduction of gradients; mixed precision, clipping and accumulation know nothing of it.


What a computation depends on beside its inputs, so that it can be done again with the same result.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from contextcir.batch import Phrases, TripletBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import ConceptLoss, mean_over_phrases
from contextcir.training.encoding import Distinct, Encoded, WholeBatch, distinct_images

if TYPE_CHECKING:
    from contextcir.training.module import ContextCIR
from collections.abc import Iterator
from contextlib import contextmanager


class Surroundings:
    """Mixed precision, as it is where this is made, and random numbers, as they are when told to `remember` them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._precision = torch.get_autocast_dtype(device.type)
        self._mixed = torch.is_autocast_enabled(device.type)
        self._states = self._now()

    def _now(self) -> tuple[Tensor, ...]:
        here = (torch.cuda.get_rng_state(self.device),) if self.device.type == "cuda" else ()
        return torch.get_rng_state(), *here

    def remember(self) -> None:
        """Keep the state of the generators: in its old place, for not to lie between what is freed soon."""
        for kept, state in zip(self._states, self._now(), strict=True):
            kept.copy_(state)

    def autocast(self) -> torch.autocast:
        """The mixed precision. Weights cast in a pass without gradients are not kept for one with: they have none."""
        return torch.autocast(self.device.type, self._precision, enabled=self._mixed, cache_enabled=False)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Mixed precision and random numbers as they were; afterwards the latter go on as if nothing had happened."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self.autocast():
            torch.set_rng_state(self._states[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self._states[1], self.device)
            yield


class Chunk(NamedTuple):
    """Some rows of a batch, and images to be encoded with them.

    ``rows`` (b,) of the batch. ``images`` (n,): which of the U distinct images are encoded; those of the rows come
    first. ``reference`` (b,): where among them the reference of each row is. ``kept`` (k,): those among them whose
    embedding no chunk before this one has given.
    """

    rows: Tensor
    images: Tensor
    reference: Tensor
    kept: Tensor


class Results(NamedTuple):
    """Of a chunk or of all: queries (b, E), images (k, E), and values of the Text-CC loss (F,), one per phrase."""

    query: Tensor
    image: Tensor
    concept: Tensor


class GradientCache(WholeBatch):
    """Encodes a batch in chunks, each of them twice: once for its embeddings, and again in backward for its gradients.

    Peak memory is that of one chunk and of the embeddings of all; a step takes one more forward pass. On a GPU images
    stay where the loader left them, and go there chunk by chunk. Text-CC losses have to be a mean over phrases
    (``by_phrase``). Strategies that keep parts of the weights only (FSDP, DeepSpeed) can't be used.

    Args:
        chunk: Triplets that are encoded at a time, at most: up to twice as many images.
    """

    def __init__(self, chunk: int = 32) -> None:
        if chunk < 1:
            raise ValueError(f"a chunk must hold at least 1 triplet, got {chunk} (--model.encoding.init_args.chunk)")
        self.chunk = chunk

    def check(self, concept: ConceptLoss | None) -> None:
        """ValueError for a Text-CC loss that compares the phrases of different rows."""
        if concept is not None and not concept.by_phrase:
            raise ValueError(
                f"{type(concept).__name__} compares the phrases of all rows of a batch, and GradientCache sees one "
                "chunk at a time: use TextConceptConsistency or SpatialConsistency (--model.concept), or "
                "--model.encoding=null"
            )

    def move(self, batch: TripletBatch, device: torch.device) -> TripletBatch:
        """The batch on a device, but for its images."""
        reference, target = batch.query.reference, batch.target
        pixels = reference[:0]
        moved = move_data_to_device(batch._replace(query=batch.query._replace(reference=pixels), target=pixels), device)
        return moved._replace(query=moved.query._replace(reference=reference), target=target)

    def __call__(self, model: "ContextCIR", batch: TripletBatch) -> Encoded:
        """Encode the batch in chunks. All ranks have to call it; how many rows they have may differ."""
        self.check(model.concept)
        distinct = distinct_images(batch.reference_id.cpu(), batch.target_id.cpu())
        chunks = plan_chunks(distinct, self.chunk)
        passes = Passes(model, batch, distinct, chunks)
        found = Results(*_InChunks.apply(passes, *passes.parameters))
        device = found.query.device
        query = torch.cat([chunk.rows for chunk in chunks]).argsort().to(device)  # (B,) place of each row
        image = torch.cat([chunk.images[chunk.kept] for chunk in chunks]).argsort().to(device)  # (U,)
        reference, target = (image[which.to(device)] for which in (distinct.reference, distinct.target))  # (B,)
        concept = None if model.concept is None else mean_over_phrases(found.concept)
        return Encoded(found.query[query], found.image[target], found.image[reference], concept)


def plan_chunks(distinct: Distinct, size: int) -> list[Chunk]:
    """Divide B rows into chunks of equal size, at most `size`, so that hardly any image is in two of them.

    Rows with the same reference stand together. Images that are targets only are dealt out evenly.
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
    """The chunks of a batch, and what encodes them, the same way each time.

    ``parameters``: all that may get gradients from it.
    """

    def __init__(self, model: "ContextCIR", batch: TripletBatch, distinct: Distinct, chunks: list[Chunk]) -> None:
        self.model, self.batch, self.distinct, self.chunks = model, batch, distinct, chunks
        self.device = batch.target_id.device
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        self.surroundings = [Surroundings(self.device) for _ in chunks]

    def first(self) -> Results:
        """Encode all chunks, and keep nothing but the results."""
        rows, images, values = 0, 0, []
        for chunk, around in zip(self.chunks, self.surroundings, strict=True):
            around.remember()
            with around.autocast():
                query, image, concept = self._encode(chunk)
            if not rows:
                # Kept in one place each: many small results between what is freed would leave an allocator with holes.
                queries = query.new_empty(len(self.batch.target), query.shape[1])  # (B, E)
                embeddings = image.new_empty(len(self.distinct.first), image.shape[1])  # (U, E)
            queries[rows : (rows := rows + len(query))] = query
            embeddings[images : (images := images + len(image))] = image
            values.append(concept)
        return Results(queries, embeddings, torch.cat(values))

    def again(self, gradients: Results) -> list[Tensor | None]:
        """Gradients of the parameters, given those of the results; None for those that are not used."""
        totals: list[Tensor | None] = [None for _ in self.parameters]
        start = Results(0, 0, 0)
        for chunk, around in zip(self.chunks, self.surroundings, strict=True):
            with around.again(), torch.enable_grad():
                found = self._encode(chunk)
            pairs = [
                (result, whole[begin : begin + len(result)])
                for result, whole, begin in zip(found, gradients, start, strict=True)
                if result.requires_grad
            ]
            start = Results(*(begin + len(result) for begin, result in zip(start, found, strict=True)))
            if pairs:
                results, given = zip(*pairs, strict=True)
                add(totals, torch.autograd.grad(results, self.parameters, given, allow_unused=True))
        return [total if total is None else total.to(p.dtype) for total, p in zip(totals, self.parameters, strict=True)]

    def _encode(self, chunk: Chunk) -> Results:
        model, query = self.model, self.batch.query
        tokens, embedding = model.backbone.encode_image(self._images(chunk))
        reference = chunk.reference.to(embedding.device)
        captions = [query.captions[row] for row in chunk.rows.tolist()]
        image = ImageFeatures(tokens[reference], embedding[reference])
        features = model.compose(image, captions, phrases_of_rows(query.phrases, chunk.rows, len(query.captions)))
        values = embedding.new_zeros(0)
        if model.concept is not None:
            ids = self.batch.reference_id[chunk.rows.to(self.device)]
            values = model.concept.values(ConceptReading(model.fusion, features, ids))  # (F,)
        return Results(features.fused.embedding, embedding[chunk.kept.to(embedding.device)], values)

    def _images(self, chunk: Chunk) -> Tensor:
        """The images of a chunk (n, 3, S, S), on the device: the rest of the batch need not be there."""
        place = self.distinct.first[chunk.images]  # (n,) among the 2B
        size = len(self.batch.target)
        parts = (self.batch.query.reference, place[place < size]), (self.batch.target, place[place >= size] - size)
        return torch.cat([pixels[rows.to(pixels.device)].to(self.device) for pixels, rows in parts])


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, passes: Passes, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.passes = passes
        return tuple(passes.first())

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.passes.again(Results(*gradients))


def phrases_of_rows(phrases: Phrases, rows: Tensor, count: int) -> Phrases:
    """The phrases of some rows (b,) of a batch of `count`, with their place among these rows as their owner."""
    rows = rows.to(phrases.owner.device)
    place = torch.full((count,), -1, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    owner = place[phrases.owner]  # (P,)
    here = owner >= 0
    return Phrases(owner[here], phrases.spans[here], phrases.boxes[here])


def add(totals: list[Tensor | None], gradients: tuple[Tensor | None, ...]) -> None:
    """Add gradients to totals, at the least in float32: many chunks would be lost to the rounding of a low precision.

    The first are copied, as two parameters may be given one and the same tensor.
    """
    for number, gradient in enumerate(gradients):
        if gradient is None:
            continue
        if totals[number] is None:
            precise = torch.promote_types(gradient.dtype, torch.float32)
            totals[number] = torch.zeros_like(gradient, dtype=precise, memory_format=torch.contiguous_format)
        totals[number] += gradient
