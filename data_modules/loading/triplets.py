"""Queries, triplets and galleries of any benchmark: datasets, and how their items become batches."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from contextcir.batch import GalleryBatch, HardNegatives, Phrases, QueryBatch, TripletBatch, clauses_of
from data_modules.loading.images import ImageStore
from data_modules.records import Box, QueryRecord

Preprocess = Callable[[Image.Image], Tensor]

NOWHERE: Box = (float("nan"),) * 4


class QueryItem(NamedTuple):
    """One query; ``boxes`` are fractions of the preprocessed image."""

    index: int
    reference: Tensor
    caption: str
    spans: tuple[tuple[int, int], ...]
    boxes: tuple[Box, ...]
    clauses: tuple[tuple[int, int], ...] = ()


class TripletItem(NamedTuple):
    """One query and its target; the ids name images. ``negatives``: None where the set has no hard negatives."""

    query: QueryItem
    target: Tensor
    reference_id: int
    target_id: int
    negatives: tuple[Tensor, ...] | None = None
    negative_ids: tuple[int, ...] = ()


class GalleryItem(NamedTuple):
    """One gallery image."""

    index: int
    image: Tensor


def box_in_crop(box: Box | None, image_size: tuple[int, int]) -> Box:
    """Return where a box is after the shortest side is resized to the crop and the centre square is cut out.

    That is CLIP's preprocessing. The square image that it keeps whole needs no crop, so there the result also holds for
    preprocessing that squashes or pads.

    Args:
        box: pixels of the original image, or None.
        image_size: its width and height in pixels.

    Returns:
        Fractions of the crop, cut off at its borders; NaN for no box, or one that lies outside.
    """
    if box is None:
        return NOWHERE
    width, height = image_size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    x0, x1 = (min(max((x - left) / side, 0.0), 1.0) for x in (box[0], box[2]))
    y0, y1 = (min(max((y - top) / side, 0.0), 1.0) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else NOWHERE


class QueryDataset(Dataset[QueryItem]):
    """The queries of a benchmark.

    Args:
        records: the queries, in the order of their `Protocol`.
        images: holds their images.
        preprocess: PIL image to tensor (3, S, S).
    """

    def __init__(self, records: Sequence[QueryRecord], images: ImageStore, preprocess: Preprocess) -> None:
        self.records = records
        self.images = images
        self.preprocess = preprocess
        self._last: tuple[str, Tensor, tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def reference(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """Return the preprocessed reference image (3, S, S) of a record, and the width and height of the file's image.

        The last one is cached: orders that group triplets by reference need it several times in a row.
        """
        name = self.records[index].reference
        if self._last is None or self._last[0] != name:
            image = self.image(index, "reference")
            self._last = (name, self.preprocess(image), self.images.size_of(name, image))
        return self._last[1:]

    def clear_cache(self) -> None:
        """Drop the cached reference."""
        self._last = None

    def image(self, index: int, field: str) -> Image.Image | None:
        """Return the ``reference`` or ``target`` image of a record as it is on disk, None if it has no such image."""
        record = self.records[index]
        name = getattr(record, field)
        return None if name is None else self.images.load(name, f"{field} of {record.origin}")

    def __getitem__(self, index: int) -> QueryItem:
        record = self.records[index]
        reference, file_size = self.reference(index)
        size = record.image_size or file_size
        spans = tuple((phrase.start, phrase.end) for phrase in record.phrases)
        boxes = tuple(box_in_crop(phrase.box, size) for phrase in record.phrases)
        return QueryItem(index, reference, record.caption, spans, boxes, record.clauses)


class TripletDataset(Dataset[TripletItem]):
    """Training triplets: `QueryDataset` with the target of every query. All records must have one.

    ``negatives``: how many hard negatives of a triplet to load with it, at most; 0 for a set without any.
    """

    def __init__(
        self, records: Sequence[QueryRecord], images: ImageStore, preprocess: Preprocess, negatives: int = 0
    ) -> None:
        self.queries = QueryDataset(records, images, preprocess)
        self.negatives = negatives

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> TripletItem:
        return self.item(index, 0)

    def item(self, index: int, seed: int) -> TripletItem:
        """Return a triplet; ``seed``: of the choice of its hard negatives."""
        record, images = self.queries.records[index], self.queries.images
        target = self.queries.preprocess(self.queries.image(index, "target"))
        item = TripletItem(self.queries[index], target, images.index(record.reference), images.index(record.target))
        if not self.negatives:
            return item
        names = chosen_negatives(record, self.negatives, seed)
        loaded = (images.load(name, f"negative of {record.origin}") for name in names)
        return item._replace(
            negatives=tuple(map(self.queries.preprocess, loaded)), negative_ids=tuple(map(images.index, names))
        )


def chosen_negatives(record: QueryRecord, count: int, seed: int) -> Sequence[str]:
    """Return the hard negatives of a record, or ``count`` of them that depend on the seed alone."""
    if len(record.negatives) <= count:
        return record.negatives
    return random.Random(seed).sample(record.negatives, count)  # noqa: S311  (of no secret)


class GalleryDataset(Dataset[GalleryItem]):
    """The gallery of a benchmark.

    Args:
        names: image names, in the order of their `Protocol`.
        images: holds them.
        preprocess: PIL image to tensor (3, S, S).
    """

    def __init__(self, names: Sequence[str], images: ImageStore, preprocess: Preprocess) -> None:
        self.names = names
        self.images = images
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> GalleryItem:
        return GalleryItem(index, self.preprocess(self.images.load(self.names[index], f"image {index} of the gallery")))


def collate_queries(items: Sequence[QueryItem]) -> QueryBatch:
    """Put queries into a batch; the phrases and clauses of all captions are flattened."""
    phrases = [
        (row, span, box) for row, item in enumerate(items) for span, box in zip(item.spans, item.boxes, strict=True)
    ]
    return QueryBatch(
        index=torch.tensor([item.index for item in items]),  # (B,)
        reference=torch.stack([item.reference for item in items]),  # (B, 3, S, S)
        captions=[item.caption for item in items],
        phrases=Phrases(
            owner=torch.tensor([row for row, _, _ in phrases], dtype=torch.int64),  # (P,)
            # without any phrase torch can't know the second dimension
            spans=torch.tensor([span for _, span, _ in phrases], dtype=torch.int64).reshape(-1, 2),  # (P, 2)
            boxes=torch.tensor([box for _, _, box in phrases], dtype=torch.float32).reshape(-1, 4),  # (P, 4)
        ),
        clauses=clauses_of([item.clauses for item in items]) if any(item.clauses for item in items) else None,
    )


def collate_triplets(items: Sequence[TripletItem]) -> TripletBatch:
    """Put triplets into a batch."""
    return TripletBatch(
        query=collate_queries([item.query for item in items]),
        target=torch.stack([item.target for item in items]),  # (B, 3, S, S)
        reference_id=torch.tensor([item.reference_id for item in items]),  # (B,)
        target_id=torch.tensor([item.target_id for item in items]),  # (B,)
        negatives=None if items[0].negatives is None else collate_negatives(items),
    )


def collate_negatives(items: Sequence[TripletItem]) -> HardNegatives:
    """Put the hard negatives of triplets into a batch; there may be none."""
    images = [image for item in items for image in item.negatives or ()]
    ids = [number for item in items for number in item.negative_ids]
    target = items[0].target
    return HardNegatives(
        image=torch.stack(images) if images else target.new_empty(0, *target.shape),  # (M, 3, S, S)
        image_id=torch.tensor(ids, dtype=torch.int64),  # (M,)
    )


def collate_gallery(items: Sequence[GalleryItem]) -> GalleryBatch:
    """Put gallery images into a batch."""
    return GalleryBatch(
        index=torch.tensor([item.index for item in items]),  # (B,)
        image=torch.stack([item.image for item in items]),  # (B, 3, S, S)
    )
