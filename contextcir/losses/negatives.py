"""Further negatives of the contrastive loss: training images that are not in the batch, by their stored features."""

import os
from typing import NamedTuple, cast

import torch
from torch import Tensor

from contextcir.checks import whole
from contextcir.devices import to_device
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.features import RowFeatures
from contextcir.errors import InputError
from contextcir.files import stable_hash
from contextcir.losses.gathering import gather_ids

SETTING = "model.contrastive.negatives"


class FurtherImages(NamedTuple):
    """Images by their embeddings (M, E), not normalised, and ``image_id`` (M,) int64, each id once."""

    embedding: Tensor
    image_id: Tensor


class StoredNegatives:
    """Draws training images as further negatives of every query, without encoding any.

    They are exact while the image tower is frozen. The images of a step depend on the seed and the number of the step
    alone: a run that goes on draws the same, and all ranks draw the same, so that the loss is that of one process.

    Args:
        count: of images in a step; all of them, where there are no more.
        seed: of the draws; None for the seed of the run (``seed_everything``).
    """

    def __init__(self, count: int = 2000, seed: int | None = None) -> None:
        self.count = whole(count, 1, f"{SETTING}.count")
        self.seed = None if seed is None else whole(seed, 0, f"{SETTING}.seed")

    def check(self, backbone: OpenCLIPBackbone) -> None:
        """Raise InputError if the image tower is trained: stored features would be those of older weights."""
        if any(weight.requires_grad for weight in backbone.clip.visual.parameters()):
            raise InputError(
                "StoredNegatives needs a frozen image tower: set model.backbone.trainable_image_blocks to 0, or leave "
                "it out (null)",
                setting=SETTING,
            )

    def draw(self, backbone: OpenCLIPBackbone, images: Tensor, step: int) -> FurtherImages:
        """Return the further images of a step.

        Args:
            backbone: has the stored features.
            images: (B, 2) rows of training images; the others are drawn from their list.
            step: of the optimizer.

        Raises:
            InputError: if batches hold pixels: there are no stored features.
        """
        stored, number = self._stored(backbone, images)
        positions, ids = stored.distinct(number)  # (U,)
        drawn = self._draw(len(positions), step)
        return _further(backbone, number, positions[drawn], ids[drawn])

    def _stored(self, backbone: OpenCLIPBackbone, images: Tensor) -> tuple[RowFeatures, int]:
        """Return the stored features, and the number of the list of training images in them."""
        if backbone.stored is None or images.is_floating_point():
            problem = f"{type(self).__name__} needs stored features: set data.features to auto, or leave it out (null)"
            raise InputError(problem, setting=SETTING)
        return backbone.stored, int(images[0, 0])

    def _draw(self, images: int, step: int) -> Tensor:
        """Return which of so many images are drawn, (M,)."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        generator = torch.Generator().manual_seed(stable_hash(f"seed {seed}, step {step}, negatives"))
        return torch.randperm(images, generator=generator)[: self.count]


class ImageSetNegatives(StoredNegatives):
    """`StoredNegatives`, and all images of the image sets that the targets of the batch belong to.

    The images of a set look alike, and a query is about what tells them apart. Some are the target of no caption, so
    that training never sees them otherwise. Sets are those of the training annotations (``img_set.members`` of CIRR's
    format). Of several ranks, the sets of all batches count, so that the loss is that of one process.

    Args:
        count: of images drawn from all of them in a step.
        seed: of the draws; None for the seed of the run (``seed_everything``).
    """

    def draw(self, backbone: OpenCLIPBackbone, images: Tensor, step: int) -> FurtherImages:
        """Return the further images of a step; a collective call.

        Args:
            backbone: has the stored features.
            images: (B, 2) rows of training images; the images of their sets, and others of their list, are returned.
            step: of the optimizer.

        Raises:
            InputError: if batches hold pixels, or the training annotations tell no image sets.
        """
        stored, number = self._stored(backbone, images)
        positions, ids = stored.distinct(number)  # (U,)
        further = torch.isin(ids, stored.alike(number, gather_ids(images.cpu(), backbone._device)[:, 1]))  # (U,)
        further[self._draw(len(positions), step)] = True
        return _further(backbone, number, positions[further], ids[further])


def _further(backbone: OpenCLIPBackbone, number: int, positions: Tensor, ids: Tensor) -> FurtherImages:
    """Return images at positions (M,) of a list by their stored embeddings, and their ids (M,)."""
    embedding = cast(RowFeatures, backbone.stored).embeddings(backbone, number, positions)
    return FurtherImages(embedding, to_device(ids, embedding.device))
