"""Batches of table rows instead of pixels, for `FrozenImageBackbone`: after the first run no image is decoded."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contextcir.embeddings import preprocess_digest
from contextcir.encoders.frozen import FrozenImageBackbone, ImageList
from contextcir.errors import InputError
from data_modules.base import CompositionDataModule
from data_modules.benchmarks import CIRR, Scenes
from data_modules.loading.gallery import Collate
from data_modules.loading.images import ImageStore
from data_modules.loading.triplets import GalleryDataset, Preprocess, QueryDataset, TripletDataset
from data_modules.mixture import Mixture


class ImageRow:
    """Stands for an image in a dataset: its row (2,) of the tables, and its size."""

    def __init__(self, row: tuple[int, int], size: tuple[int, int]) -> None:
        self.row = row
        self.size = size


class ImageRows(ImageStore):
    """The images of another store as rows. ``number``: of the list in the tables."""

    def __init__(self, images: ImageStore, number: int) -> None:
        super().__init__(images.root, images.paths, images.inside)
        self.images = images
        self.number = number
        self._sizes: dict[str, tuple[int, int]] = {}

    def index(self, name: str) -> int:
        """Return the index of the image in the other store: where a file has several names, they share it."""
        return self.images.index(name)

    def load(self, name: str, purpose: str = "") -> ImageRow:
        """Return the row; of the file, only the head is read, once."""
        if name not in self._sizes:
            self._sizes[name] = self.images.size(name, purpose)
        return ImageRow((self.number, self._index[name]), self._sizes[name])


def row_tensor(image: ImageRow) -> Tensor:
    """The ``preprocess`` of rows: (2,) int64."""
    return torch.tensor(image.row)


class FrozenImages(CompositionDataModule):
    """Any benchmark with rows in the place of images, for models whose backbone is a FrozenImageBackbone.

    Single queries and images, which callbacks use, stay pixels. Without a Trainer, so do batches.
    """

    def _loader(self, kind: type[DataLoader], dataset: Dataset, collate_fn: Collate, **options: Any) -> DataLoader:
        inner = dataset.queries if isinstance(dataset, TripletDataset) else dataset
        if self.trainer is not None and isinstance(inner, QueryDataset | GalleryDataset):
            inner.images, inner.preprocess = self._rows_of(inner.images, inner.preprocess), row_tensor
        return super()._loader(kind, dataset, collate_fn, **options)

    def _rows_of(self, images: ImageStore, preprocess: Preprocess) -> ImageRows:
        backbone = getattr(self.trainer.lightning_module, "backbone", None)
        if not isinstance(backbone, FrozenImageBackbone):
            raise InputError(
                f"{type(self).__name__} needs a model that keeps features of images: a FrozenImageBackbone",
                setting="model.backbone",
            )
        known = self.__dict__.setdefault("_rows", {})
        if (id(images), id(backbone)) not in known:
            listed = ImageList(
                files=list(images.paths.values()),
                states=images.states(images.names),
                read=lambda position: preprocess(images.load(images.names[position], "for the table of features")),
                preprocess=preprocess_digest(preprocess),
            )
            # The store is kept too, so that no other one can get its id.
            known[id(images), id(backbone)] = (images, ImageRows(images, backbone.add_images(listed)))
        return known[id(images), id(backbone)][1]


class FrozenScenes(FrozenImages, Scenes):
    """Scenes without decoding its images again and again."""


class FrozenCIRR(FrozenImages, CIRR):
    """CIRR without decoding its images again and again."""


class FrozenMixture(FrozenImages, Mixture):
    """Several sets without decoding their images again and again."""
