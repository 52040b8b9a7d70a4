"""How the rows of a training batch become embeddings: all at once."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor

from contextcir.batch import TripletBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.losses.maps import ConceptReading
from contextcir.losses.text_cc import ConceptLoss

if TYPE_CHECKING:
    from contextcir.training.module import ContextCIR


class Encoded(NamedTuple):
    """What the losses are made of, with gradients.

    ``query``, ``target`` and ``reference`` (B, E), not normalised. ``concept``: the Text-CC loss without its weight,
    None for a model without one.
    """

    query: Tensor
    target: Tensor
    reference: Tensor
    concept: Tensor | None


class Distinct(NamedTuple):
    """The U distinct images among the references, then the targets, of B triplets.

    ``first`` (U,): where each comes first among these 2B. ``reference`` and ``target`` (B,): which of the U they are.
    """

    first: Tensor
    reference: Tensor
    target: Tensor


class WholeBatch:
    """Encodes all rows in one pass, and keeps what backward needs of all of them."""

    def check(self, concept: ConceptLoss | None) -> None:
        """ValueError for a Text-CC loss that can't be computed this way."""

    def move(self, batch: TripletBatch, device: torch.device) -> TripletBatch:
        """The batch on a device, as far as the whole of it is needed there."""
        return move_data_to_device(batch, device)

    def __call__(self, model: "ContextCIR", batch: TripletBatch) -> Encoded:
        """Encode every distinct image once: batches that keep image sets together hold most references several times.

        All ranks have to call it.
        """
        distinct = distinct_images(batch.reference_id, batch.target_id)
        images = torch.cat([batch.query.reference, batch.target])  # (2B, 3, S, S)
        tokens, embedding = model.backbone.encode_image(images[distinct.first])
        reference = ImageFeatures(tokens[distinct.reference], embedding[distinct.reference])
        features = model.compose(reference, batch.query.captions, batch.query.phrases)
        concept = model.concept
        loss = None if concept is None else concept(ConceptReading(model.fusion, features, batch.reference_id))
        return Encoded(features.fused.embedding, embedding[distinct.target], reference.embedding, loss)


def distinct_images(reference_id: Tensor, target_id: Tensor) -> Distinct:
    """The distinct images that the ids (B,) of references and of targets name."""
    ids = torch.cat([reference_id, target_id])  # (2B,)
    unique, inverse = ids.unique(return_inverse=True)
    row = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(unique, len(ids)).scatter_reduce(0, inverse, row, "amin")  # a row that holds the image
    return Distinct(first, *inverse.chunk(2))
