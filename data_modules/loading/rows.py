"""Batches of what is known of images already, so that they need not be decoded: rows of stored features, or pixels."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from contextcir.embeddings import preprocess_digest
from contextcir.encoders.frozen import SETTING, ImageList, StoredImages
from data_modules.loading.distinct import Collate, NamedImage
from data_modules.loading.images import ImageStore
from data_modules.loading.sampling import Draw
from data_modules.loading.triplets import GalleryItem, Preprocess, QueryDataset, TripletItem, chosen_negatives
from data_modules.records import QueryRecord


class NamedTensors(ABC):
    """The images of a store as tensors that need not be decoded each time.

    Args:
        images: the store.
        preprocess: PIL image to tensor (3, S, S).
    """

    decodes: bool  # whether images may still have to be decoded, which is work for processes of their own

    def __init__(self, images: ImageStore, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess
        self._sizes: dict[str, tuple[int, int]] = {}

    @abstractmethod
    def tensor(self, name: str, purpose: str) -> Tensor:
        """Return what stands for an image; ``purpose``: what it is needed for, for an error."""

    def held(self, name: str, purpose: str) -> Tensor | NamedImage:
        """Return what a query or triplet holds of an image until it is in a batch."""
        return self.tensor(name, purpose)

    def collate(self, collate: Collate) -> Collate:
        """Return how queries or triplets become a batch, given how they do if they hold tensors."""
        return collate

    def size(self, name: str, purpose: str) -> tuple[int, int]:
        """Return width and height of an image; of the file, the head is read once."""
        if name not in self._sizes:
            self._sizes[name] = self.images.size(name, purpose)
        return self._sizes[name]


class ImageRows(NamedTensors):
    """The images of a store as rows (2,) int64 of stored features.

    Args:
        images: the store.
        preprocess: PIL image to tensor (3, S, S).
        stored: where the features are; the images are added to it.
        image_sets: the names of the images of each set that looks alike; those that are not in the store do not count.

    Raises:
        InputError: if the preprocessing is random.
    """

    decodes = False

    def __init__(
        self,
        images: ImageStore,
        preprocess: Preprocess,
        stored: StoredImages,
        image_sets: Iterable[Sequence[str]] = (),
    ) -> None:
        super().__init__(images, preprocess)
        self.stored = stored
        ids = torch.tensor([images.index(name) for name in images.names], dtype=torch.int64)
        listed = ImageList(
            files=list(images.paths.values()),
            states=images.states(images.names),
            read=self._read,
            preprocess=preprocess_digest(preprocess, "take null, to encode pixels", SETTING),
            ids=ids,
            sets=_sets_of({name: position for position, name in enumerate(images.names)}, image_sets),
        )
        number = stored.add(listed)
        places = torch.stack([torch.full_like(ids, number), torch.arange(len(ids))], dim=1)  # (N, 2)
        self._rows = dict(zip(images.names, places.unbind(), strict=True))

    def tensor(self, name: str, purpose: str) -> Tensor:
        """Return the row (2,) of an image."""
        return self._rows[name]

    def _read(self, position: int) -> Tensor:
        name = self.images.names[position]
        return self.preprocess(self.images.load(name, "whose features are to be stored"))


def _sets_of(place: Mapping[str, int], image_sets: Iterable[Sequence[str]]) -> dict[int, list[list[int]]]:
    """Return, by position of an image, the positions of the images of each set that it belongs to."""
    sets: dict[int, list[list[int]]] = {}
    for names in image_sets:
        members = [place[name] for name in names if name in place]
        for member in members:
            sets.setdefault(member, []).append(members)
    return sets


class QueryRows(QueryDataset):
    """Queries with such tensors as references."""

    def __init__(self, records: Sequence[QueryRecord], rows: NamedTensors) -> None:
        super().__init__(records, rows.images, rows.preprocess)
        self.rows = rows

    def reference(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """Return what is held of a reference, and the size of its image where a box needs that, else (1, 1)."""
        record = self.records[index]
        purpose = f"reference of {record.origin}"
        sized = record.image_size is None and any(phrase.box is not None for phrase in record.phrases)
        size = self.rows.size(record.reference, purpose) if sized else (1, 1)
        return self.rows.held(record.reference, purpose), size


class TripletRows(Dataset[TripletItem]):
    """Training triplets of such tensors. Nothing in them is random but the choice among hard negatives.

    ``negatives``: as of `TripletDataset`.
    """

    def __init__(self, records: Sequence[QueryRecord], rows: NamedTensors, negatives: int = 0) -> None:
        self.queries = QueryRows(records, rows)
        self.negatives = negatives
        self.rows = rows

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, draw: Draw) -> TripletItem:
        queries, record = self.queries, self.queries.records[draw.index]
        reference, target = (queries.images.index(name) for name in (record.reference, record.target))
        image = queries.rows.held(record.target, f"target of {record.origin}")
        item = TripletItem(queries[draw.index], image, reference, target)
        if not self.negatives:
            return item
        names = chosen_negatives(record, self.negatives, draw.seed)
        ids = tuple(map(queries.images.index, names))
        images = tuple(queries.rows.held(name, f"negative of {record.origin}") for name in names)
        return item._replace(negatives=images, negative_ids=ids)


class GalleryRows(Dataset[GalleryItem]):
    """A gallery of such tensors. ``names``: of its images, in the order of their `Protocol`."""

    def __init__(self, names: Sequence[str], rows: NamedTensors) -> None:
        self.names, self.rows = names, rows
        self.images, self.preprocess = rows.images, rows.preprocess

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> GalleryItem:
        return GalleryItem(index, self.rows.tensor(self.names[index], f"image {index} of the gallery"))
