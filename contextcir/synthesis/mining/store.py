"""The embeddings of a folder of images, written in chunks: a process that is killed loses one chunk."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file, read_json, whole_array, whole_file, write_json
from contextcir.synthesis.mining.encoder import ImageEncoder, OpenEncoder, Vectors, load_array, normalised
from contextcir.synthesis.mining.images import (
    DIGEST,
    PRINT,
    ImageFiles,
    LoadedImage,
    load_imagehash,
)
from contextcir.synthesis.photos import Listing, Photos, photos_of
from contextcir.synthesis.stages import progress_bar

ABOUT = "about.json"
UNREADABLE = "unreadable.json"
READING = "upright"  # how images are turned; embeddings of another reading are not taken

if TYPE_CHECKING:
    from torch.utils.data import Dataset


@dataclass(frozen=True)
class Loading:
    """How images are read.

    Args:
        batch_size: Images that the model sees at a time.
        workers: Processes that read images; 0 to read them in this one.
        chunk: Images whose embeddings are written together.
    """

    batch_size: int = 64
    workers: int = 4
    chunk: int = 2048

    def __post_init__(self) -> None:
        whole(self.batch_size, 1, "pairs.loading.batch_size")
        whole(self.workers, 0, "pairs.loading.workers")
        whole(self.chunk, 1, "pairs.loading.chunk")


class EmbeddingStore:
    """Embeddings and hashes of the images of a folder, in a folder of their own.

    ``files.json`` lists the images, ``chunks/`` holds the embeddings so far. When all are there, ``vectors.npy``
    (n, D), ``digests.npy``, ``prints.npy`` and ``places.npy`` (n,) hold those of the images that can be read, and
    ``unreadable.json`` names the others with the reasons.

    Args:
        work: the folder.
        images: the images, or the folder that their paths are below.
        encoder: the model.
        loading: how images are read.
        links: let links lead out of the folder of images.
    """

    def __init__(
        self, work: Path, images: Path | Photos, encoder: ImageEncoder, loading: Loading, links: bool = False
    ) -> None:
        self.links = links
        self.work = work
        self.images = photos_of(images, links)
        self.encoder = encoder
        self.loading = loading

    def listing(self) -> Listing:
        """Return the images, as they were at the first call.

        Raises:
            InputError: if there are none, or the stored embeddings are those of another folder or model.
        """
        about = {
            "folder": self.images.identity,
            "encoder": self.encoder.name,
            "chunk": self.loading.chunk,
            "reading": READING,
            "links": self.links,
        }
        kept = read_json(self.work / ABOUT)
        if kept is None:
            if not (self.work / "files.json").is_file():
                write_json(self.work / "files.json", self.images.listing().to_json())
            write_json(self.work / ABOUT, about)
        elif not isinstance(kept, dict):
            raise InputError("damaged: remove the folder that it is in, which is made again", file=self.work / ABOUT)
        elif kept != about:
            differing = [name for name in about if kept.get(name) != about[name]]
            changed = ", ".join(
                f"{name} {shown(kept.get(name), 40)} instead of {shown(about[name], 40)}" for name in differing[:1]
            )
            raise InputError(
                f"holds embeddings with {changed}: give another folder as out, or remove this one",
                file=self.work,
                setting="pairs",
            )
        path = self.work / "files.json"
        try:
            return Listing.from_json(read_json(path))
        except (TypeError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("damaged: remove the folder that it is in, which is made again", file=path) from None

    def embed(self, index: int = 0, count: int = 1) -> int:
        """Embed missing chunks, every ``count``-th one from ``index`` on; return how many images are left in all.

        Raises:
            InputError: as `listing`, or if the model can't be loaded.
        """
        listing = self.listing()
        if (self.work / "vectors.npy").is_file():
            return 0
        chunks = range(-(-len(listing.images) // self.loading.chunk))
        missing = [chunk for chunk in chunks if chunk % count == index and not self._path(chunk).is_file()]
        if missing:
            self._embed(listing, missing)
        left = [chunk for chunk in chunks if not self._path(chunk).is_file()]
        return sum(len(self._members(listing, chunk)) for chunk in left)

    def assemble(self) -> None:
        """Concatenate the chunks, which must all be there, and remove them.

        Raises:
            InputError: if no image can be read.
        """
        for left in self.work.glob("*.npy.*.new"):  # of a process that was killed: only one process assembles
            left.unlink()
        if not (self.work / "vectors.npy").is_file():
            self._assemble(self.listing())
        shutil.rmtree(self.work / "chunks", ignore_errors=True)

    def _assemble(self, listing: Listing) -> None:
        paths = [self._path(chunk) for chunk in range(-(-len(listing.images) // self.loading.chunk))]
        unreadable, sizes = list(listing.refused), []
        dim = 0
        for path in paths:
            with _open_chunk(path) as chunk:
                sizes.append(len(chunk["places"]))
                dim = max(dim, chunk["vectors"].shape[1])
                names = [listing.images[place] for place in chunk["refused"]]
                unreadable += zip(names, chunk["reasons"].tolist(), strict=True)
        write_json(self.work / UNREADABLE, [{"image": name, "reason": reason} for name, reason in unreadable])
        total = sum(sizes)
        if not total:
            raise InputError(
                f"none of the {len(unreadable):,} images can be read: see {self.work}/unreadable.json", setting="images"
            )
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "digests": ((total, DIGEST), np.uint8),
            "prints": ((total, PRINT), np.uint8),
            "places": ((total,), np.int64),
            "vectors": ((total, dim), np.float16),  # last: its presence says that all are there
        }
        for name, (shape, kind) in shapes.items():
            with whole_array(self.work / f"{name}.npy", shape, kind) as array:
                start = 0
                for path, size in zip(paths, sizes, strict=True):
                    with _open_chunk(path) as chunk:
                        if size:
                            array[start : start + size] = chunk[name]
                    start += size

    @property
    def vectors(self) -> Vectors:
        """All vectors, after `assemble`."""
        return Vectors(self.work / "vectors.npy")

    def array(self, name: str) -> np.ndarray:
        """Return ``digests`` (n, 16), ``prints`` (n, 8), or ``places`` (n,) of the images in the listing."""
        return load_array(self.work / f"{name}.npy")

    def unreadable(self) -> int:
        """Return the number of images that can't be read."""
        listed = read_json(self.work / UNREADABLE)
        if not isinstance(listed, list):
            raise InputError(
                "damaged: remove the folder that it is in, which is made again", file=self.work / UNREADABLE
            )
        return len(listed)

    def _path(self, chunk: int) -> Path:
        return self.work / "chunks" / f"{chunk:06d}.npz"

    def _members(self, listing: Listing, chunk: int) -> range:
        start = chunk * self.loading.chunk
        return range(start, min(start + self.loading.chunk, len(listing.images)))

    def _embed(self, listing: Listing, chunks: list[int]) -> None:
        from torch.utils.data import DataLoader  # imports torch, which takes seconds

        load_imagehash()  # if it were missing, every image would count as unreadable
        model = self.encoder.open()
        batches = _Batches([self._members(listing, chunk) for chunk in chunks], self.loading.batch_size)
        # a Dataset by its methods: a subclass would import torch
        files = cast("Dataset[LoadedImage]", ImageFiles(self.images, listing.images, model.transform, model.side))
        loader = DataLoader(files, batch_sampler=batches, num_workers=self.loading.workers, collate_fn=list)
        total = sum(len(self._members(listing, chunk)) for chunk in chunks)
        arriving = iter(loader)
        with progress_bar("embed", total, "images") as bar:
            for number in chunks:
                members, chunk = self._members(listing, number), _Chunk()
                while chunk.images < len(members):
                    batch = next(arriving)
                    chunk.add(batch, model, self.encoder.name)
                    bar.update(len(batch))
                chunk.write(self._path(number))


@contextmanager
def _open_chunk(path: Path) -> Iterator[Any]:
    """Open the embeddings of a chunk; raises InputError if the file is damaged."""
    try:
        with np.load(ordinary_file(path)) as chunk:
            yield chunk
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("damaged: remove it, and its images are embedded again", file=path) from None


class _Batches:
    """Batches of image positions, none of which crosses the border of a chunk."""

    def __init__(self, chunks: list[range], size: int) -> None:
        self.chunks = chunks
        self.size = size

    def __iter__(self) -> Iterator[list[int]]:
        for members in self.chunks:
            for start in range(0, len(members), self.size):
                yield list(members[start : start + self.size])

    def __len__(self) -> int:
        return sum(-(-len(members) // self.size) for members in self.chunks)


class _Chunk:
    """The images of a chunk as they come."""

    def __init__(self) -> None:
        self.images = 0
        self.readable: list[LoadedImage] = []
        self.refused: list[LoadedImage] = []
        self.vectors: list[np.ndarray] = []

    def add(self, batch: list[LoadedImage], model: OpenEncoder, name: str) -> None:
        import torch

        self.images += len(batch)
        readable = [image for image in batch if not image.reason]
        self.refused += [image for image in batch if image.reason]
        if readable:
            pixels = torch.stack([image.pixels for image in readable])  # (B, 3, S, S)
            self.vectors.append(normalised(model.encode(pixels), name))
            self.readable += [image._replace(pixels=None) for image in readable]

    def write(self, path: Path) -> None:
        def packed(values: list[bytes], width: int) -> np.ndarray:
            return np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)  # (n, width)

        with whole_file(path) as file:
            np.savez(
                file,
                vectors=np.concatenate(self.vectors) if self.vectors else np.zeros((0, 0), np.float16),
                digests=packed([image.digest for image in self.readable], DIGEST),
                prints=packed([image.print for image in self.readable], PRINT),
                places=np.array([image.place for image in self.readable], np.int64),
                refused=np.array([image.place for image in self.refused], np.int64),
                reasons=np.array([image.reason for image in self.refused], np.str_),
            )
