"""How the rows of a training batch become embeddings: all at once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn

from contextcir.batch import Clauses, Phrases, TripletBatch, first_of_each
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

    ``first`` (U,): where each comes first among these 2B + M. ``reference`` and ``target`` (B,), ``negative`` (M,):
    which of the U they are; None for a batch without hard negatives.
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
        hard = batch.negatives
        distinct = distinct_images(batch.reference_id, batch.target_id, None if hard is None else hard.image_id)
        further, ids = ([], []) if hard is None else ([hard.image], [hard.image_id])
        images = torch.cat([batch.query.reference, batch.target, *further])  # (2B + M, 3, S, S)
        tokens, embedding = model.backbone.encode_image(images[to_device(distinct.first, images.device)])
        place = to_device(distinct.reference, embedding.device)  # (B,)
        reference = ImageFeatures(tokens[place], embedding[place])
        query = batch.query
        features = model.compose(reference, query.captions, query.phrases, query.clauses)
        concept = model.concept
        loss = None
        if concept is not None:
            named = embedding.detach(), torch.cat([batch.reference_id, batch.target_id, *ids])[distinct.first]
            loss = concept(ConceptReading(model.fusion, features, batch.reference_id, named))
        negative = None if distinct.negative is None else embedding[to_device(distinct.negative, embedding.device)]
        target = embedding[to_device(distinct.target, embedding.device)]
        return Encoded(features.fused.embedding, target, reference.embedding, loss, negative)


def distinct_images(reference_id: Tensor, target_id: Tensor, negative_id: Tensor | None = None) -> Distinct:
    """Return the distinct images that the ids (B,) of references and of targets, and (M,) of negatives, name."""
    rows = len(reference_id)
    further = [] if negative_id is None else [negative_id]
    _, inverse, first = first_of_each(torch.cat([reference_id, target_id, *further]))  # (2B + M,), (U,)
    negative = None if negative_id is None else inverse[2 * rows :]
    return Distinct(first, inverse[:rows], inverse[rows : 2 * rows], negative)
