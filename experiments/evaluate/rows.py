"""The embeddings of a protocol, by its positions: from a model, through the store, or from a file of features."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from contextcir.embedders.base import Embedder, Unfinished
from contextcir.embedders.features_file import FeaturesFile, query_id
from contextcir.embedders.store import EmbeddingStore, stamps_of
from contextcir.embeddings import GalleryFeatures
from contextcir.errors import InputError
from data_modules.base import CompositionDataModule

COMPOSED, GALLERY = "composed", "gallery"


class Rows(ABC):
    """The embeddings of one protocol. ``parts``: of ``image`` and ``text`` those that are known as queries alone."""

    parts: tuple[str, ...] = ()

    @abstractmethod
    def gallery(self, index: Sequence[int]) -> Tensor:
        """Return the embeddings (B, E) of images at positions in the gallery."""

    @abstractmethod
    def queries(self, index: Sequence[int]) -> Tensor:
        """Return the embeddings (B, E) of composed queries; views are counted as in `Protocol.query_views`."""

    @abstractmethod
    def part(self, name: str, index: Sequence[int]) -> Tensor:
        """Return the embeddings (B, E) of the ``image`` or the ``text`` of these queries alone."""


class _Kind(NamedTuple):
    """A list of items of one kind: their rows in the store, and how some of them are embedded."""

    stored: GalleryFeatures
    embed: Callable[[Sequence[int]], Tensor]


class EmbedderRows(Rows):
    """Embeds what the store lacks, and stores it at once.

    Args:
        embedder: the model.
        store: of embeddings.
        data: the benchmark.
        stage: val, test or predict.
        position: of the protocol among those of the stage.
        workers: threads that decode images.
        parts: of ``image`` and ``text`` those to embed alone, too.
        done: called whenever embeddings were stored.
    """

    def __init__(
        self,
        embedder: Embedder,
        store: EmbeddingStore,
        data: CompositionDataModule,
        stage: str,
        position: int,
        workers: int,
        parts: Sequence[str],
        done: Callable[[], None],
    ) -> None:
        self.embedder, self.data, self.stage, self.position = embedder, data, stage, position
        self.parts = tuple(part for part in parts if part in embedder.parts)
        self._threads, self._done = ThreadPoolExecutor(workers), done
        protocol = data.protocols(stage)[position]
        self._names = protocol.gallery
        self._records = data.query_records(stage, position)
        references = list(dict.fromkeys(record.reference for record in self._records))
        texts = list(dict.fromkeys(record.caption for record in self._records))
        self._reference = {name: row for row, name in enumerate(references)}
        self._text = {text: row for row, text in enumerate(texts)}
        stamps = self._image_stamps([*self._names, *references])
        described = embedder.describe()

        def kind(name: str, items: Sequence[str], contents: Sequence[str], embed: Callable[..., Tensor]) -> _Kind:
            return _Kind(store.open(described, name, items, stamps_of(contents)), embed)

        queries = [f"{record.reference}\n{record.caption}" for record in self._records]
        behind = [f"{stamps[record.reference]}\n{record.caption}" for record in self._records]
        self._kinds = {
            GALLERY: kind(GALLERY, self._names, [stamps[name] for name in self._names], self._embed_gallery),
            COMPOSED: kind(COMPOSED, queries, behind, self._embed_queries),
        }
        if "image" in self.parts:
            of_images = [stamps[name] for name in references]
            self._kinds["image"] = kind("image", references, of_images, partial(self._embed_references, references))
        if "text" in self.parts:
            self._kinds["text"] = kind("text", texts, texts, partial(self._embed_texts, texts))

    def gallery(self, index: Sequence[int]) -> Tensor:
        return self._rows(GALLERY, index)

    def queries(self, index: Sequence[int]) -> Tensor:
        return self._rows(COMPOSED, index)

    def part(self, name: str, index: Sequence[int]) -> Tensor:
        if name == "image":
            return self._rows(name, [self._reference[self._records[query].reference] for query in index])
        return self._rows(name, [self._text[self._records[query].caption] for query in index])

    def _rows(self, name: str, index: Sequence[int]) -> Tensor:
        stored, embed = self._kinds[name]
        missing = [row for row in dict.fromkeys(index) if not stored.has(row)]
        for start in range(0, len(missing), self.embedder.batch):
            chosen = missing[start : start + self.embedder.batch]
            try:
                stored.write(torch.tensor(chosen), embed(chosen))
            except Unfinished as stopped:
                rows = [chosen[place] for place in stopped.rows]
                if rows:
                    stored.write(torch.tensor(rows), stopped.embeddings)
                raise stopped.cause from None
            finally:
                self._done()
        return torch.stack([stored.read(row) for row in index]).float()

    def _embed_gallery(self, rows: Sequence[int]) -> Tensor:
        images = self._threads.map(partial(self.data.gallery_image, self.stage, self.position), rows)
        return self._named(lambda: self.embedder.embed_image(list(images)), "images", [self._names[r] for r in rows])

    def _embed_queries(self, rows: Sequence[int]) -> Tensor:
        texts = [self._records[row].caption for row in rows]
        return self._embed(self._images_of(rows), texts, [str(self._records[row].origin) for row in rows])

    def _embed_references(self, references: Sequence[str], rows: Sequence[int]) -> Tensor:
        first = {self._records[row].reference: row for row in reversed(range(len(self._records)))}
        images = self._images_of([first[references[row]] for row in rows])
        return self._embed(images, [None] * len(rows), [references[row] for row in rows])

    def _embed_texts(self, texts: Sequence[str], rows: Sequence[int]) -> Tensor:
        return self._embed([None] * len(rows), [texts[row] for row in rows], [texts[row] for row in rows])

    def _embed(self, images: Sequence[Image.Image | None], texts: Sequence[str | None], names: Sequence[str]) -> Tensor:
        return self._named(lambda: self.embedder.embed_query(images, texts), "queries", names)

    def _images_of(self, rows: Sequence[int]) -> list[Image.Image | None]:
        return list(self._threads.map(partial(self.data.reference_image, self.stage, self.position), rows))

    @staticmethod
    def _named(embed: Callable[[], Tensor], what: str, names: Sequence[str]) -> Tensor:
        """Embed; an error says of which batch it is."""
        try:
            return embed()
        except InputError as error:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            error.problem = f"{error.problem} ({what} {names[0]}{more})"
            raise

    def _image_stamps(self, names: Sequence[str]) -> dict[str, str]:
        """Return what changes with the file of each image."""
        places = self.data.image_places(self.stage, self.position, dict.fromkeys(names))
        stamps = {}
        for name, place in places.items():
            state = place.file.stat()
            stamps[name] = f"{place.file}\n{state.st_size}\n{state.st_mtime_ns}\n{place.box}"
        return stamps


class FileRows(Rows):
    """Reads a file of features.

    Args:
        file: the features.
        data, stage, position: as of `EmbedderRows`.

    Raises:
        InputError: if it lacks an image or a query.
    """

    def __init__(self, file: FeaturesFile, data: CompositionDataModule, stage: str, position: int) -> None:
        self.file, self._protocol = file, data.protocols(stage)[position]
        self.parts = file.parts
        protocol = self._protocol
        views = range(protocol.query_views)
        self._ids = [query_id(protocol, query, view) for view in views for query in protocol.query_ids]
        file.require("gallery", protocol.gallery)
        for kind in ("query", *self.parts):
            file.require(kind, self._ids)

    def gallery(self, index: Sequence[int]) -> Tensor:
        return self.file.rows("gallery", [self._protocol.gallery[place] for place in index])

    def queries(self, index: Sequence[int]) -> Tensor:
        return self.part("query", index)

    def part(self, name: str, index: Sequence[int]) -> Tensor:
        return self.file.rows(name, [self._ids[place] for place in index])
