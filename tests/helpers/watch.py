"""A model with random weights that matter, and a callback that watches what is done with the gallery."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from contextcir.batch import GalleryBatch
from contextcir.encoders.features import ImageFeatures
from contextcir.training.module import ContextCIR
from tests.helpers import tiny


class Interruption(Exception):
    """Of an evaluation."""


class Watch(Callback):
    """Counts images that go through the image tower with the gallery, and keeps the embeddings of each gallery."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.encoded: list[int] = []
        self.embeddings: dict[tuple[int, int], Tensor] = {}
        self.stop_after = stop_after

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageFeatures,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(batch, GalleryBatch):
            self.embeddings |= {
                (dataloader_idx, index): row
                for index, row in zip(batch.index.tolist(), outputs.embedding.clone(), strict=True)
            }
            self.encoded.append(len(batch.image))
            if len(self.encoded) == self.stop_after:
                raise Interruption("time is up")

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end


def new_model() -> ContextCIR:
    torch.manual_seed(0)
    model = ContextCIR(tiny.backbone())
    with torch.no_grad():  # at its zero initialisation, the fusion ignores the text
        for parameter in model.fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
