"""Batches that hold each of their images once: triplets repeat references, targets and members of image sets."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from contextcir.batch import DistinctImages, QueryBatch, TripletBatch
from data_modules.loading.images import ImageStore
from data_modules.loading.triplets import QueryItem, TripletItem

Collate = Callable[[Sequence[Any]], Any]


class NamedImage(NamedTuple):
    """An image that is read with its batch; ``purpose``: what it is needed for, for an error."""

    name: str
    purpose: str


class KeptImages(Protocol):
    """Where pixels are read from, such as `data_modules.loading.cache.CachedPixels`."""

    images: ImageStore
    side: int

    def tensor(self, name: str, purpose: str, into: Tensor) -> Tensor:
        """Put the pixels (3, S, S) of an image into a tensor."""


class ImagesOnce:
    """Makes batches of queries or triplets that hold `NamedImage`s: each distinct image is read once.

    Args:
        kept: where pixels are read from.
        collate: makes a batch of items that hold a number (,) int64 for each image.
    """

    def __init__(self, kept: KeptImages, collate: Collate) -> None:
        self.kept, self.collate = kept, collate

    def __call__(self, items: Sequence[QueryItem | TripletItem]) -> QueryBatch | TripletBatch:
        """Return the batch, with all of its images in one tensor, in the order of their ids.

        Raises:
            MissingFileError: if a file does not exist.
            InputError: if an image can't be read.
        """
        index = self.kept.images.index
        named: dict[int, NamedImage] = {}
        for item in items:
            for image in _images_of(item):
                named.setdefault(index(image.name), image)
        ids = sorted(named)
        pixels = _empty(len(ids), 3, self.kept.side, self.kept.side)  # (U, 3, S, S)
        for row, number in enumerate(ids):
            self.kept.tensor(*named[number], into=pixels[row])
        rows = torch.arange(len(ids)).unbind()
        place = dict(zip(ids, rows, strict=True))
        batch = self.collate([_numbered(item, lambda image: place[index(image.name)]) for item in items])
        images = DistinctImages(pixels, torch.tensor(ids, dtype=torch.int64))
        if isinstance(batch, TripletBatch):
            return batch._replace(query=batch.query._replace(images=images))
        return batch._replace(images=images)


def _images_of(item: QueryItem | TripletItem) -> Iterator[NamedImage]:
    if isinstance(item, QueryItem):
        yield item.reference
    else:
        yield item.query.reference
        yield item.target
        yield from item.negatives or ()


def _numbered(item: QueryItem | TripletItem, number: Callable[[NamedImage], Tensor]) -> QueryItem | TripletItem:
    """Return an item with the number of each image in its place."""
    if isinstance(item, QueryItem):
        return item._replace(reference=number(item.reference))
    negatives = None if item.negatives is None else tuple(map(number, item.negatives))
    query = item.query._replace(reference=number(item.query.reference))
    return item._replace(query=query, target=number(item.target), negatives=negatives)


def _empty(*shape: int) -> Tensor:
    """Return a tensor to fill; of a loader process, in the memory that it shares with the one that trains."""
    pixels = torch.empty(shape, dtype=torch.uint8)
    return pixels if get_worker_info() is None else pixels.share_memory_()
