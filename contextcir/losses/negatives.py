"""Further negatives of the contrastive loss: training images that are not in the batch, by their stored features."""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from contextcir.checks import whole
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.errors import InputError
from contextcir.files import stable_hash

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
        stored = backbone.stored
        if stored is None or images.is_floating_point():
            problem = "StoredNegatives needs stored features: set data.features to auto, or leave it out (null)"
            raise InputError(problem, setting=SETTING)
        number = int(images[0, 0])
        positions, ids = stored.distinct(number)  # (U,)
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        generator = torch.Generator().manual_seed(stable_hash(f"seed {seed}, step {step}, negatives"))
        drawn = torch.randperm(len(positions), generator=generator)[: self.count]  # (M,)
        embedding = stored.embeddings(backbone, number, positions[drawn])
        return FurtherImages(embedding, ids[drawn].to(embedding.device))
