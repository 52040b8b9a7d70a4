"""A benchmark's data module with loaders of positions in the place of loaders of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader

from contextcir.batch import GalleryBatch, QueryBatch, phrases_of
from data_modules.base import CompositionDataModule


class Positions(LightningDataModule):
    """Stands for a data module before callbacks and the trainer; batches name queries and images by position.

    Args:
        data: of a benchmark; its annotations and images are read as in any evaluation.
        batch: positions in a batch.
    """

    def __init__(self, data: CompositionDataModule, batch: int) -> None:
        super().__init__()
        self.data = data
        self.batch = batch

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # while it is being built
            raise AttributeError(name)
        return getattr(self.data, name)

    def setup(self, stage: str) -> None:
        """Read the annotations, and make sure of labels and images."""
        self.data.trainer = self.trainer
        self.data.setup(stage)
        self.data.preprocess = as_it_is

    def val_dataloader(self) -> list[DataLoader]:
        """Return loaders of the gallery and the queries of each protocol, in turn."""
        return self._loaders("val")

    def test_dataloader(self) -> list[DataLoader]:
        """Return the same for the protocols of ``test``."""
        return self._loaders("test")

    def predict_dataloader(self) -> list[DataLoader]:
        """Return the same for the protocols of ``predict``."""
        return self._loaders("predict")

    def _loaders(self, stage: str) -> list[DataLoader]:
        loaders: list[DataLoader] = []
        for position, protocol in enumerate(self.data.protocols(stage)):
            captions = [record.caption for record in self.data.query_records(stage, position)]
            gallery, numbered = range(len(protocol.gallery)), list(enumerate(captions))
            # by keyword: for predictions Lightning builds them once more
            loaders.append(DataLoader(dataset=gallery, batch_size=self.batch, collate_fn=gallery_batch))  # type: ignore[arg-type]
            loaders.append(DataLoader(dataset=numbered, batch_size=self.batch, collate_fn=query_batch))  # type: ignore[arg-type]
        return loaders


def as_it_is(image: Image.Image) -> Image.Image:
    """Return an image: an embedder has a preprocessing of its own."""
    return image


def gallery_batch(index: Sequence[int]) -> GalleryBatch:
    """Return a batch of positions in the gallery, without images."""
    return GalleryBatch(torch.tensor(index), torch.empty(0, 3, 0, 0))


def query_batch(numbered: Sequence[tuple[int, str]]) -> QueryBatch:
    """Return a batch of positions of queries with their texts, without images and phrases."""
    index = torch.tensor([place for place, _ in numbered])
    captions = [caption for _, caption in numbered]
    return QueryBatch(index, torch.empty(0, 3, 0, 0), captions, phrases_of([() for _ in captions]))
