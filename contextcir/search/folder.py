"""A folder of photos in an index: only what is new or has changed is encoded, and a killed indexing goes on.

The index is compared with the folder each time. Photos are committed in batches, new ones before old ones are deleted,
so that at every moment an index holds photos as they are or as they were, and the next run does the rest.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contextcir import checks
from contextcir.errors import InputError
from contextcir.files import in_shard
from contextcir.processors import available_processors, leave_interrupts_to_parent
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.index import Index, Photo
from contextcir.search.listing import LeftOut, Listing, list_photos
from contextcir.search.photos import PhotoReader, ReadPhoto, Transform, load_imagehash

MOST_WORKERS = 8  # more than a disk feeds
FEW = 64  # photos that are read faster than processes start
COPIED = 1000  # photos at a time that go from index to index


class ImageEncoder(ABC):
    """Turns images into the embeddings of an index: ``transform`` makes the input (3, S, S) of one, ``side`` is S."""

    transform: Transform
    side: int

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the embeddings (B, E) of images (B, 3, S, S), L2-normalised, in float32 on the CPU."""


@dataclass(frozen=True)
class Loading:
    """How photos are loaded and committed.

    Args:
        workers: processes that decode photos; None for one for each processor but one, none at all for a few photos.
        batch: photos that are encoded at once.
        commit: photos from one commit to the next: a kill loses at most the work on as many.
    """

    workers: int | None = None
    batch: int = 64
    commit: int = 256

    def __post_init__(self) -> None:
        if self.workers is not None:
            checks.whole(self.workers, 0, "workers", 256)
        checks.whole(self.batch, 1, "batch", 4096)
        checks.whole(self.commit, 1, "commit", 100_000)

    def processes(self, photos: int) -> int:
        """Return how many processes decode so many photos."""
        if self.workers is not None:
            return self.workers
        return 0 if photos <= FEW else min(available_processors() - 1, MOST_WORKERS)


class Progress:
    """Is told how far an indexing is; this one keeps it to itself."""

    def compared(self, photos: int, to_read: int) -> None:
        """Tell how many photos there are, and how many of them have to be read."""

    def advanced(self, done: int, total: int, rate: float, left: float) -> None:
        """Tell how many photos are read, of how many, at how many a second, and the seconds that are left."""


@dataclass
class Report:
    """What an indexing did.

    ``new``, ``changed``, ``moved`` (found elsewhere, with their embeddings), ``deleted`` and ``unchanged``: numbers of
    photos. ``skipped``: files that are not read. ``damaged``: files that can't be. ``encoded``: photos that went
    through the model. ``seconds``: of all of it. ``rate``: photos encoded a second, while photos were read.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    unchanged: int = 0
    skipped: list[LeftOut] = field(default_factory=list)
    damaged: list[LeftOut] = field(default_factory=list)
    encoded: int = 0
    seconds: float = 0.0
    rate: float = 0.0


class _Known(NamedTuple):
    """What the index holds of a photo."""

    size: int
    modified: int
    sha256: str


def index_folder(
    folder: Path,
    index: Index,
    encoder: ImageEncoder,
    loading: Loading = Loading(),
    progress: Progress | None = None,
    only: tuple[int, int] | None = None,
    leave_out: Path | None = None,
) -> Report:
    """Bring an index up to date with the photos below a folder, see `list_photos`.

    Args:
        folder: the folder.
        index: the index, made by this encoder.
        encoder: of images that are new.
        loading: how they are loaded.
        progress: is told how far it is.
        only: shard I of N of the paths: photos of other shards are neither added nor deleted.
        leave_out: the folder of the index, where it lies among the photos.

    Raises:
        MissingFileError: if there is no such folder.
        InputError: if it can't be read, or holds nothing while the index holds photos.
    """
    start, progress = time.monotonic(), progress or Progress()
    load_imagehash()  # if it were missing, every photo would count as damaged
    listing = list_photos(folder, leave_out)
    if isinstance(index, EmbeddedIndex):
        index.delete(list(index.damaged()))  # to be encoded again
    known = {
        stored.photo.path: _Known(stored.photo.size, stored.photo.modified, stored.photo.sha256)
        for stored in index.fetch(thumbnails=False)
    }
    if known and not listing.photos:
        problem = f"holds no photo, and the index has {len(known):,}: is the disk there? To empty an index, delete it"
        raise InputError(problem, file=folder, setting="folder")

    def mine(path: str) -> bool:
        return only is None or in_shard(path, *only)

    there = {path: state for path, state in listing.photos.items() if mine(path)}
    to_read = sorted(
        path for path, state in there.items() if path not in known or (known[path].size, known[path].modified) != state
    )
    report = Report(unchanged=len(there) - len(to_read), skipped=[left for left in listing.skipped if mine(left.path)])
    progress.compared(len(there), len(to_read))
    update = _Update(folder, index, encoder, known, listing, report)
    begun = time.monotonic()
    for read in _read_all(PhotoReader(folder, encoder.transform, encoder.side, update.digests), to_read, loading):
        update.add(read, loading)
        done, passed = update.seen, time.monotonic() - begun
        progress.advanced(done, len(to_read), done / passed, passed / done * (len(to_read) - done))
    update.commit()
    report.rate = report.encoded / max(time.monotonic() - begun, 1e-9)
    gone = [path for path in known if path not in listing.photos and mine(path) and not listing.may_hold(path)]
    index.delete([*gone, *update.lost])
    report.deleted += len(set(gone) - update.left)
    report.seconds = time.monotonic() - start
    return report


class _Update:
    """The changes of an index, as photos are read."""

    def __init__(
        self,
        folder: Path,
        index: Index,
        encoder: ImageEncoder,
        known: dict[str, _Known],
        listing: Listing,
        report: Report,
    ) -> None:
        self.reader = PhotoReader(folder, encoder.transform, encoder.side)
        self.index = index
        self.encoder = encoder
        self.known = known
        self.listing = listing
        self.report = report
        self.seen = 0
        self.lost: list[str] = []  # paths of the index whose files can't be read any more
        self._by_digest: dict[str, list[str]] = {}
        for path, state in known.items():
            self._by_digest.setdefault(state.sha256, []).append(path)
        self.left: set[str] = set()  # paths of the index that were left by photos which have moved
        self._to_encode: list[ReadPhoto] = []
        self._stored: list[ReadPhoto] = []  # of these, the index has the content already
        self._ready: list[tuple[list[Photo], Tensor]] = []

    @property
    def digests(self) -> frozenset[str]:
        """Return the SHA-256 of all contents that are in the index."""
        return frozenset(self._by_digest)

    def add(self, read: ReadPhoto, loading: Loading) -> None:
        """Take a file that was read."""
        self.seen += 1
        if read.reason:
            self._refuse(read)
        elif read.photo is None:
            self._stored.append(read)
        else:
            self._to_encode.append(read)
            if len(self._to_encode) == loading.batch:
                self._encode()
        if len(self._stored) + sum(len(photos) for photos, _ in self._ready) >= loading.commit:
            self.commit()

    def _refuse(self, read: ReadPhoto) -> None:
        if read.path in self.known:
            self.lost.append(read.path)
            self.report.deleted += 1
        if not read.missing:
            self.report.damaged.append(LeftOut(read.path, read.reason))

    def commit(self) -> None:
        """Store all photos that were taken."""
        self._reuse()
        self._encode()
        if self._ready:
            photos = [photo for some, _ in self._ready for photo in some]
            self.index.upsert(photos, torch.cat([embeddings for _, embeddings in self._ready]))
        self._ready = []

    def _encode(self) -> None:
        if not self._to_encode:
            return
        photos = [read.photo for read in self._to_encode if read.photo is not None]
        embeddings = self.encoder.encode(torch.stack([read.pixels for read in self._to_encode]))  # (B, E)
        self._ready.append((photos, embeddings))
        self._to_encode = []
        self.report.encoded += len(photos)
        for photo in photos:
            if photo.path in self.known:
                self.report.changed += 1
            else:
                self.report.new += 1

    def _reuse(self) -> None:
        """Give files whose content is in the index the embedding that it has there."""
        found = [(read, self._source(read)) for read in self._stored]
        stored = {entry.photo.path: entry for entry in self.index.fetch({path for _, path in found}, embeddings=True)}
        photos, embeddings = [], []
        for read, source in found:
            entry = stored.get(source)
            if entry is None or entry.photo.sha256 != read.sha256:  # another file has taken its place since
                self._take_again(read)
                continue
            self._count(read, source)
            photos.append(replace(entry.photo, path=read.path, size=read.size, modified=read.modified))
            embeddings.append(cast(Tensor, entry.embedding))
        if photos:
            self._ready.append((photos, torch.stack(embeddings)))
        self._stored = []

    def _take_again(self, read: ReadPhoto) -> None:
        again = self.reader.read(read.path)
        if again.photo is None:
            self._refuse(again)
        else:
            self._to_encode.append(again)

    def _source(self, read: ReadPhoto) -> str:
        """Return the path in the index that has a file's content: its own, one that is gone, or any."""
        paths = self._by_digest[read.sha256]
        if read.path in paths:
            return read.path
        return next((path for path in paths if self._is_gone(path)), paths[0])

    def _is_gone(self, path: str) -> bool:
        return path not in self.listing.photos and path not in self.left and not self.listing.may_hold(path)

    def _count(self, read: ReadPhoto, source: str) -> None:
        if read.path == source:  # only its time has changed
            self.report.unchanged += 1
        elif read.path in self.known:
            self.report.changed += 1
        elif self._is_gone(source):
            self.left.add(source)
            self.report.moved += 1
        else:
            self.report.new += 1


class _Files:
    """Photos by position, for a DataLoader."""

    def __init__(self, reader: PhotoReader, paths: Sequence[str]) -> None:
        self.reader = reader
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> ReadPhoto:
        return self.reader.read(self.paths[place])


def _read_all(reader: PhotoReader, paths: Sequence[str], loading: Loading) -> Iterator[ReadPhoto]:
    """Yield what files hold, in their order, read by several processes."""
    if not paths:
        return
    files = cast("Dataset[ReadPhoto]", _Files(reader, paths))
    workers = loading.processes(len(paths))
    batch = min(loading.batch, 16)  # read at once by a process; small, so that the model is never without work for long
    for some in DataLoader(files, batch, num_workers=workers, collate_fn=list, worker_init_fn=_begin_worker):
        yield from some


def _begin_worker(number: int) -> None:
    leave_interrupts_to_parent()


def merge(target: Index, shards: Iterable[Index], check: Callable[[Index], Any] = lambda shard: None) -> int:
    """Store the photos of several indexes in one, those of a path once; return how many were copied.

    ``check``: is called with each before anything is copied; raises for one that does not fit.
    """
    shards = list(shards)
    for shard in shards:
        check(shard)
    copied = 0
    for shard in shards:
        block: list[tuple[Photo, Tensor]] = []
        for photo, embedding in shard.fetch(embeddings=True):
            block.append((photo, cast(Tensor, embedding)))
            if len(block) == COPIED:
                copied += _store(target, block)
        copied += _store(target, block)
    return copied


def _store(target: Index, block: list[tuple[Photo, Tensor]]) -> int:
    count = len(block)
    if block:
        target.upsert([photo for photo, _ in block], torch.stack([embedding for _, embedding in block]))
        block.clear()
    return count
