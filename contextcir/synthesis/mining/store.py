"""The embeddings of a folder of images, made in chunks: a process that is killed loses the chunk it is at."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from contextcir.files import read_json, whole_array, whole_file, write_json
from contextcir.synthesis.mining.encoder import ImageEncoder, Vectors, normalised
from contextcir.synthesis.mining.images import (
    DIGEST,
    PRINT,
    ImageFiles,
    Listing,
    LoadedImage,
    list_images,
    load_imagehash,
)


@dataclass(frozen=True)
class Loading:
    """How images are read.

    Args:
        batch_size: Images that the model sees at a time.
        workers: Processes that read images; 0 for none beside this one.
        chunk: Images whose embeddings go to the disk together.
    """

    batch_size: int = 64
    workers: int = 4
    chunk: int = 2048

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or self.chunk < 1:
            raise ValueError("batch_size and chunk must be at least 1, workers at least 0: change --pairs.loading")


class EmbeddingStore:
    """What is known of the images of a folder, in a folder of its own.

    ``files.json`` lists the images, ``chunks/`` holds what is embedded so far. When all is, ``vectors.npy`` (n, D),
    ``digests.npy``, ``prints.npy`` and ``places.npy`` (n,) hold it for the images that can be read, and
    ``unreadable.json`` names the others with the reasons.

    Args:
        work: the folder.
        images: that image paths are below.
        encoder: the model.
        loading: how images are read.
    """

    def __init__(self, work: Path, images: Path, encoder: ImageEncoder, loading: Loading) -> None:
        self.work = work
        self.images = images
        self.encoder = encoder
        self.loading = loading

    def listing(self) -> Listing:
        """Return the images, as they were when this was first asked.

        Raises:
            FileNotFoundError, ValueError: if there are none, or what is there is of another folder or model.
        """
        about = {"folder": str(self.images.resolve()), "encoder": self.encoder.name, "chunk": self.loading.chunk}
        kept = read_json(self.work / "about.json")
        if kept is None:
            if not (self.work / "files.json").is_file():
                write_json(self.work / "files.json", list_images(self.images).to_json())
            write_json(self.work / "about.json", about)
        elif kept != about:
            changed = ", ".join(
                f"{name} {kept[name]!r} instead of {about[name]!r}" for name in about if kept[name] != about[name]
            )
            raise ValueError(f"{self.work} holds embeddings with {changed}: give another --out, or remove that folder")
        return Listing.from_json(read_json(self.work / "files.json"))

    def embed(self, index: int = 0, count: int = 1) -> int:
        """Embed what is not yet, of every ``count``-th chunk from ``index`` on; return how many images are left in all.

        Raises:
            ValueError, FileNotFoundError: as `listing`, or if the model can't be loaded.
        """
        listing = self.listing()
        if (self.work / "vectors.npy").is_file():
            return 0
        chunks = range(-(-len(listing.images) // self.loading.chunk))
        wanted = [chunk for chunk in chunks if chunk % count == index and not self._path(chunk).is_file()]
        if wanted:
            self._embed(listing, wanted)
        left = [chunk for chunk in chunks if not self._path(chunk).is_file()]
        return sum(len(self._members(listing, chunk)) for chunk in left)

    def assemble(self) -> None:
        """Make arrays of the chunks, which are removed then; all must be there.

        Raises:
            ValueError: if no image can be read.
        """
        for left in self.work.glob("*.npy.*.new"):  # by a process that was killed; there is no other one
            left.unlink()
        if not (self.work / "vectors.npy").is_file():
            self._assemble(self.listing())
        shutil.rmtree(self.work / "chunks", ignore_errors=True)

    def _assemble(self, listing: Listing) -> None:
        paths = [self._path(chunk) for chunk in range(-(-len(listing.images) // self.loading.chunk))]
        unreadable, sizes = list(listing.refused), []
        dim = 0
        for path in paths:
            with np.load(path) as chunk:
                sizes.append(len(chunk["places"]))
                dim = max(dim, chunk["vectors"].shape[1])
                names = [listing.images[place] for place in chunk["refused"]]
                unreadable += zip(names, chunk["reasons"].tolist(), strict=True)
        write_json(self.work / "unreadable.json", [{"image": name, "reason": reason} for name, reason in unreadable])
        total = sum(sizes)
        if not total:
            raise ValueError(f"none of the {len(unreadable):,} images can be read: see {self.work}/unreadable.json")
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "digests": ((total, DIGEST), np.uint8),
            "prints": ((total, PRINT), np.uint8),
            "places": ((total,), np.int64),
            "vectors": ((total, dim), np.float16),  # last, for it stands for all
        }
        for name, (shape, kind) in shapes.items():
            with whole_array(self.work / f"{name}.npy", shape, kind) as array:
                start = 0
                for path, size in zip(paths, sizes, strict=True):
                    with np.load(path) as chunk:
                        if size:
                            array[start : start + size] = chunk[name]
                    start += size

    @property
    def vectors(self) -> Vectors:
        """All vectors, once they are assembled."""
        return Vectors(self.work / "vectors.npy")

    def array(self, name: str) -> np.ndarray:
        """Return ``digests`` (n, 16), ``prints`` (n, 8), or ``places`` (n,) of the images in the listing."""
        return np.load(self.work / f"{name}.npy")

    def unreadable(self) -> int:
        """Return how many images can't be read."""
        return len(read_json(self.work / "unreadable.json"))

    def _path(self, chunk: int) -> Path:
        return self.work / "chunks" / f"{chunk:06d}.npz"

    def _members(self, listing: Listing, chunk: int) -> range:
        start = chunk * self.loading.chunk
        return range(start, min(start + self.loading.chunk, len(listing.images)))

    def _embed(self, listing: Listing, chunks: list[int]) -> None:
        from torch.utils.data import DataLoader

        load_imagehash()  # where it is missing, every single image would be refused
        model = self.encoder.open()
        batches = _Batches([self._members(listing, chunk) for chunk in chunks], self.loading.batch_size)
        files = ImageFiles(self.images, listing.images, model.transform, model.side)
        loader = DataLoader(files, batch_sampler=batches, num_workers=self.loading.workers, collate_fn=list)
        total = sum(len(self._members(listing, chunk)) for chunk in chunks)
        seconds = 0.5 if sys.stderr.isatty() else 30
        tqdm.monitor_interval = 0  # no thread beside this one
        arriving = iter(loader)
        with tqdm(desc="embed", total=total, unit=" images", mininterval=seconds, maxinterval=seconds) as bar:
            for chunk in chunks:
                members, found = self._members(listing, chunk), _Chunk()
                while found.images < len(members):
                    batch = next(arriving)
                    found.add(batch, model, self.encoder.name)
                    bar.update(len(batch))
                found.write(self._path(chunk))


class _Batches:
    """Batches of numbers that do not go over the border of a chunk."""

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
    def __init__(self) -> None:
        self.images = 0
        self.readable: list[LoadedImage] = []
        self.refused: list[LoadedImage] = []
        self.vectors: list[np.ndarray] = []

    def add(self, batch: list[LoadedImage], model: Any, name: str) -> None:
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
