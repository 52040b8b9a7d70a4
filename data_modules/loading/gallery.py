"""The gallery of an evaluation: every image goes to one rank, and images with stored embeddings are not loaded."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from contextcir.batch import GalleryBatch, StoredEmbeddings
from contextcir.embeddings import GalleryFeatures, GalleryStore
from data_modules.loading.ahead import AheadLoader
from data_modules.loading.distinct import Collate
from data_modules.loading.rows import GalleryRows
from data_modules.loading.triplets import GalleryDataset, GalleryItem, collate_gallery

Gallery = GalleryDataset | GalleryRows


class GallerySampler(DistributedSampler):
    """Distributes the images over the ranks in turn, each one once; a rank may get none.

    It is a `DistributedSampler` because Lightning replaces any other sampler by its own, which repeats images so that
    all ranks have equally many.
    """

    def __init__(self, size: int, replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(size), num_replicas=replicas, rank=rank, shuffle=False)
        self.num_samples = len(range(rank, size, replicas))
        self.total_size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))


class StoredItem(NamedTuple):
    """A gallery image by its embedding (E,)."""

    index: int
    embedding: Tensor


class StoredGallery(Dataset[GalleryItem | StoredItem]):
    """A gallery whose items are embeddings where a store has them, else images.

    Args:
        gallery: the images.
        store: for the embeddings.
        split: name of the gallery in the store.
    """

    def __init__(self, gallery: Gallery, store: GalleryStore, split: str) -> None:
        self.gallery = gallery
        self.store = store
        self.split = split
        self.features: GalleryFeatures | None = None

    def __len__(self) -> int:
        return len(self.gallery)

    def refresh(self) -> None:
        """Open the stored embeddings that match the current weights and files."""
        images, names = self.gallery.images, self.gallery.names
        paths = {name: images.paths[name] for name in names}
        self.features = self.store.open(self.split, paths, images.states(names), self.gallery.preprocess)

    def __getitem__(self, index: int) -> GalleryItem | StoredItem:
        if self.features is not None and self.features.has(index):
            return StoredItem(index, self.features.read(index))
        return self.gallery[index]

    def collate(self, items: Sequence[GalleryItem | StoredItem]) -> GalleryBatch:
        """Put items of both kinds into a batch, in their order."""
        images = [item for item in items if isinstance(item, GalleryItem)]
        if self.features is None:
            return collate_gallery(images)
        embedding = torch.zeros(len(items), self.features.width, dtype=getattr(torch, self.features.precision))
        missing = []
        for row, item in enumerate(items):
            if isinstance(item, StoredItem):
                embedding[row] = item.embedding
            else:
                missing.append(row)
        return GalleryBatch(
            index=torch.tensor([item.index for item in items]),  # (B,)
            image=torch.stack([item.image for item in images]) if images else torch.empty(0, 3, 0, 0),  # (M, 3, S, S)
            stored=StoredEmbeddings(embedding, torch.tensor(missing, dtype=torch.int64)),  # (B, E), (M,)
        )


class StoredGalleryLoader(AheadLoader):
    """Loader of a `StoredGallery` that opens the store when its first batch is taken, and not before.

    Trainers make iterators early: before callbacks put averaged weights into the model, or even before training.
    Workers start after the store was opened, and so inherit it.
    """

    dataset: StoredGallery

    def __iter__(self) -> Iterator[GalleryBatch]:
        self.dataset.refresh()
        yield from super().__iter__()


def gallery_source(
    gallery: Gallery, store: GalleryStore | None, split: str
) -> tuple[type[AheadLoader], Dataset, Collate]:
    """Return loader, dataset and collate function of a gallery, with a store or without."""
    if store is None:
        return AheadLoader, gallery, collate_gallery
    stored = StoredGallery(gallery, store, split)
    return StoredGalleryLoader, stored, stored.collate
