"""How the rows of a training batch become embeddings: all at once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn

from contextcir.batch import Clauses, Phrases, QueryBatch, TripletBatch, first_of_each
from contextcir.devices import to_device
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import ImageFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.fusion.base import Fusion
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import ConceptLoss


class Model(Protocol):
    """What an encoding needs of a model, such as `contextcir.training.module.ContextCIR`."""

    backbone: OpenCLIPBackbone
    fusion: Fusion
    concept: ConceptLoss | None

    def compose(
        self,
        image: ImageFeatures,
        captions: Sequence[str],
        phrases: Phrases | None,
        clauses: Clauses | None = None,
    ) -> QueryFeatures:
        """Compose encoded references with B captions."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters."""


class Encoded(NamedTuple):
    """The inputs of the losses, with gradients.

    ``query``, ``target`` and ``reference`` (B, E), not normalised. ``concept``: the Text-CC loss without its weight,
    None for a model without one. ``negative`` (M, E): the hard negatives of the batch, None for a batch without any.
    """

    query: Tensor
    target: Tensor
    reference: Tensor
    concept: Tensor | None
    negative: Tensor | None = None


class Distinct(NamedTuple):
    """The U distinct images among the references, then the targets, of B triplets, then their M hard negatives.

    ``first`` (U,): where each comes first among these 2B + M; 0 to U - 1 for a batch that holds each image once.
    ``reference`` and ``target`` (B,), ``negative`` (M,): which of the U they are; None for a batch without hard
    negatives.
    """

    first: Tensor
    reference: Tensor
    target: Tensor
    negative: Tensor | None = None


class WholeBatch:
    """Encodes all rows in one pass, and keeps the activations of all of them for backward."""

    def check(self, concept: ConceptLoss | None) -> None:
        """Raise InputError for a Text-CC loss that can't be computed this way."""

    def move(self, batch: TripletBatch, device: torch.device) -> TripletBatch:
        """Move a batch to the device, or as much of it as is needed there as a whole."""
        return move_data_to_device(batch, device)

    def __call__(self, model: Model, batch: TripletBatch) -> Encoded:
        """Encode every distinct image once: batches that keep image sets together contain most references repeatedly.

        All ranks have to call it.
        """
        distinct, shared = distinct_of(batch), batch.query.images
        if shared is None:
            images = torch.cat(image_tensors(batch))  # (2B + M, 3, S, S)
            images = images[to_device(distinct.first, images.device)]  # (U, 3, S, S)
            image_id = torch.cat(image_ids(batch))[distinct.first]  # (U,)
        else:
            images, image_id = shared
        tokens, embedding = model.backbone.encode_image(images)
        place = to_device(distinct.reference, embedding.device)  # (B,)
        reference = ImageFeatures(tokens[place], embedding[place])
        query = batch.query
        features = model.compose(reference, query.captions, query.phrases, query.clauses)
        concept = model.concept
        loss = None
        if concept is not None:
            loss = concept(ConceptReading(model.fusion, features, batch.reference_id, (embedding.detach(), image_id)))
        negative = None if distinct.negative is None else embedding[to_device(distinct.negative, embedding.device)]
        target = embedding[to_device(distinct.target, embedding.device)]
        return Encoded(features.fused.embedding, target, reference.embedding, loss, negative)


def encode_references(backbone: OpenCLIPBackbone, batch: QueryBatch) -> ImageFeatures:
    """Return the features of B references; where the batch holds each image once, it is encoded once.

    Of a batch of triplets that holds each image once, targets are encoded too.
    """
    if batch.images is None:
        return backbone.encode_image(batch.reference)
    tokens, embedding = backbone.encode_image(batch.images.pixels)
    place = to_device(batch.reference, embedding.device)  # (B,)
    return ImageFeatures(tokens[place], embedding[place])


def image_tensors(batch: TripletBatch) -> list[Tensor]:
    """Return the images of references, targets and hard negatives: those that `Distinct.first` counts through."""
    further = [] if batch.negatives is None else [batch.negatives.image]
    return [batch.query.reference, batch.target, *further]


def image_ids(batch: TripletBatch) -> list[Tensor]:
    """Return the ids of references, targets and hard negatives."""
    further = [] if batch.negatives is None else [batch.negatives.image_id]
    return [batch.reference_id, batch.target_id, *further]


def distinct_of(batch: TripletBatch) -> Distinct:
    """Return the distinct images of a batch: those that it was loaded with, else what the ids of its images say."""
    if batch.query.images is None:
        return distinct_images(*image_ids(batch))
    first = torch.arange(len(batch.query.images.pixels))
    return Distinct(first, *image_tensors(batch))


def distinct_images(reference_id: Tensor, target_id: Tensor, negative_id: Tensor | None = None) -> Distinct:
    """Return the distinct images that the ids (B,) of references and of targets, and (M,) of negatives, name."""
    rows = len(reference_id)
    further = [] if negative_id is None else [negative_id]
    _, inverse, first = first_of_each(torch.cat([reference_id, target_id, *further]))  # (2B + M,), (U,)
    negative = None if negative_id is None else inverse[2 * rows :]
    return Distinct(first, inverse[:rows], inverse[rows : 2 * rows], negative)
