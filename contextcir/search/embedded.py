"""An index in a folder of this machine, which needs no server: exact search, for up to a few million images."""

import json
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contextcir.checks import whole
from contextcir.embeddings import ABOUT, FEATURES, make_folder, write_about
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import one_writer, read_json
from contextcir.search.database import Change, Database, Entry, Snapshot, as_key
from contextcir.search.index import Hit, Index, Photo, Stored, Where
from contextcir.search.rows import Best, HalfRows
from contextcir.search.vectors import moved_away, parts, unit

DATABASE = "photos.sqlite"
FETCHED = 500  # photos at a time
MASKS = 16  # answers to conditions that are remembered


class EmbeddedIndex(Index):
    """Embeddings in half precision in one file, all else in a SQLite database beside it, and ``about.json``.

    A search compares the queries with every image. It may be used from several threads and processes at once; one of
    them may write. What was written is there after a crash, and a batch that was not written to its end is not: its
    embeddings are on disk before the database names their rows, and rows in use are never overwritten. The folder must
    be on a disk of this machine, not one that machines share: SQLite's write-ahead log needs it.

    A damaged embedding is noticed when its image is found or fetched; `damaged` looks at all of them.

    Args:
        folder: of the index.
        about: what makes the embeddings, of types that JSON has. The index is made if there is none. None to open one
            that is there.

    Raises:
        InputError: if there is no index and none is to be made, or it is damaged, of another version of this project,
            or about something else.
    """

    def __init__(self, folder: Path | str, about: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        stored = read_json(self.folder / ABOUT)
        if stored is None:
            if about is None:
                problem = f"no index of images in {self.folder}: index a folder of images first"
                raise MissingFileError(problem)
            make_folder(self.folder)
            with self._one_writer():
                Database.make(self.folder / DATABASE)
                stored = read_json(self.folder / ABOUT)  # another process may have made it meanwhile
                if stored is None:
                    write_about(self.folder, about)  # last: from now on it is an index
                    stored = _as_json(about)
        if not isinstance(stored, dict):
            raise InputError("expected an object; is this the folder of an index?", file=self.folder / ABOUT)
        if about is not None and stored != _as_json(about):
            different = sorted(key for key in {*stored, *about} if stored.get(key) != _as_json(about).get(key))
            problem = f"an index made by something else (see {shown(', '.join(different))}): choose another folder"
            raise InputError(problem, file=self.folder / ABOUT)
        self.about = stored
        self._database = Database(self.folder / DATABASE)
        self._features: HalfRows | None = None
        self._masks: tuple[int, dict[Where | None, np.ndarray]] = (-1, {})  # by the version that they belong to
        self._lock, self._writing = threading.Lock(), threading.Lock()

    def upsert(self, photos: Sequence[Photo], embeddings: Tensor) -> None:
        """Store photos as one change: after a crash, all are there or none; see `Index.upsert`.

        Raises:
            InputError: as there; if another process writes; or if there is no room on disk.
        """
        if len(photos) != len(embeddings):
            raise InputError(f"expected an embedding for each of {len(photos)} photos, got {len(embeddings)}")
        places = list({photo.path: place for place, photo in enumerate(photos)}.values())
        if not places:
            return
        with self._change() as change:
            vectors = unit(embeddings, change.state("width") or None, "embeddings")[places].half().numpy()
            chosen = [photos[place] for place in places]
            width = vectors.shape[1]
            features = self._rows(width)
            features.require(change.state("rows"))
            rows = change.free_rows(len(chosen))
            features.write(rows, vectors)
            change.remove(change.rows_of([photo.path for photo in chosen]))
            change.add(rows, chosen, [zlib.crc32(vector) for vector in vectors], width)

    def delete(self, paths: Collection[str]) -> int:
        """Remove images as one change; see `Index.delete`.

        Raises:
            InputError: if another process writes.
        """
        if not paths:
            return 0
        with self._change() as change:
            rows = change.rows_of(set(paths))
            change.remove(rows)
        return len(rows)

    def search(
        self,
        queries: Tensor,
        count: int,
        where: Where | None = None,
        without: Collection[str] = (),
        away: Tensor | None = None,
    ) -> list[list[Hit]]:
        """Return the best images, by all stored embeddings; see `Index.search`.

        Raises:
            InputError: if embeddings have another width than those of the index, or one that is found is damaged.
        """
        whole(count, 1, "count")
        with self._database.reading() as snapshot:
            width = snapshot.state("width")
            queries = unit(queries, width or None, "queries")
            if away is not None and len(away):
                queries = moved_away(queries, unit(away, queries.shape[1], "embeddings to move away from"))
            wanted = self._wanted(snapshot, where)
            if without:
                wanted = wanted.copy()
                wanted[snapshot.rows_of(set(without))] = False
            if not wanted.any():
                return [[] for _ in queries]
            features = self._rows(width)
            features.require(len(wanted))
            found = features.best(queries, wanted, count)
            return self._hits(snapshot, [self._first(snapshot, best, count) for best in found])

    def fetch(
        self, paths: Collection[str] | None = None, embeddings: bool = False, thumbnails: bool = True
    ) -> Iterator[Stored]:
        """Yield what is stored; see `Index.fetch`.

        Raises:
            InputError: if an embedding that is asked for is damaged.
        """
        for entries, features in self._pages(paths, thumbnails):
            if not embeddings or features is None:
                yield from (Stored(entry.photo, None) for entry in entries)
                continue
            vectors = features.read(np.array([entry.row for entry in entries], np.int64))
            for entry, vector in zip(entries, vectors, strict=True):
                self._compare(entry, zlib.crc32(vector))
                yield Stored(entry.photo, torch.from_numpy(vector).float())

    def damaged(self) -> Iterator[str]:
        """Yield the paths of the images whose embeddings are not those that were stored, to store them again.

        Raises:
            InputError: if the file of embeddings was cut off.
        """
        for entries, features in self._pages(None, False):
            if features is not None:
                vectors = features.read(np.array([entry.row for entry in entries], np.int64))
                yield from (e.photo.path for e, v in zip(entries, vectors, strict=True) if zlib.crc32(v) != e.crc)

    def count(self, where: Where | None = None) -> int:
        """Return the number of images."""
        with self._database.reading() as snapshot:
            return int(self._wanted(snapshot, where).sum())

    def close(self) -> None:
        """Close the files; see `Index.close`."""
        self._database.close()
        if self._features is not None:
            self._features.close()

    @contextmanager
    def _change(self) -> Iterator[Change]:
        with self._writing, self._one_writer(), self._database.writing() as change:
            yield change

    def _one_writer(self) -> Any:
        return one_writer(self.folder, "changes the index")

    def _rows(self, width: int) -> HalfRows:
        with self._lock:
            if self._features is None or self._features.width != width:  # a first batch can fail
                self._features = HalfRows(self.folder / FEATURES, width)
            return self._features

    def _wanted(self, snapshot: Snapshot, where: Where | None) -> np.ndarray:
        """Return the rows (N,) of the photos that the conditions hold for, which must not be changed."""
        version = snapshot.state("version")
        with self._lock:
            masks = dict(self._masks[1]) if self._masks[0] == version else {}
        if None not in masks:
            masks[None] = snapshot.used()
        if where not in masks:
            wanted = masks[None]
            for rows in snapshot.rows_where(where or Where()):
                held = np.zeros(len(wanted), bool)
                held[rows] = True
                wanted = wanted & held
            if len(masks) > MASKS:
                masks = {None: masks[None]}
            masks[where] = wanted
        with self._lock:
            if version >= self._masks[0]:
                self._masks = version, masks
        return masks[where]

    def _first(self, snapshot: Snapshot, found: list[Best], count: int) -> list[Best]:
        """Return the ``count`` best of rows that are in the order of their scores, equal scores by path."""
        if len({best.score for best in found}) < len(found):
            keys = snapshot.keys(np.array([best.row for best in found], np.int64))
            found = sorted(found, key=lambda best: (-best.score, keys[best.row]))
        return found[:count]

    def _hits(self, snapshot: Snapshot, found: list[list[Best]]) -> list[list[Hit]]:
        rows = np.unique(np.array([best.row for of_query in found for best in of_query], np.int64))
        entries = {entry.row: entry for entry in snapshot.entries(rows)}
        for best in (best for of_query in found for best in of_query):
            self._compare(entries[best.row], best.crc)
        return [[Hit(entries[best.row].photo, best.score) for best in of_query] for of_query in found]

    def _compare(self, entry: Entry, crc: int) -> None:
        if crc != entry.crc:
            problem = (
                f"the embedding of {shown(entry.photo.path)} is damaged: delete the folder, and index the images again"
            )
            raise InputError(problem, file=self.folder)

    def _pages(self, paths: Collection[str] | None, thumbnails: bool) -> Iterator[tuple[list[Entry], HalfRows | None]]:
        """Yield the photos of these paths, of all if None, by path and some at a time, with the embeddings."""
        pieces = None if paths is None else parts(sorted(set(paths), key=as_key), FETCHED)
        after = b""
        while True:
            piece = () if pieces is None else next(pieces, None)
            if piece is None:
                return
            with self._database.reading() as snapshot:
                if pieces is None:
                    entries = snapshot.entries_after(after, FETCHED, thumbnails)
                else:
                    entries = snapshot.entries(snapshot.rows_of(piece), thumbnails)
                width = snapshot.state("width")
            if not entries and pieces is None:
                return
            if entries:
                after = as_key(entries[-1].photo.path)
                yield entries, self._rows(width) if width else None


def _as_json(about: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(about)))
