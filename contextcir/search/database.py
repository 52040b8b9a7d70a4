"""The SQLite file of an index: what is known of each photo, and which rows of the embeddings are in use.

A search without conditions reads none of the photos but those that it finds: which rows are in use is kept as bits
beside them. Each condition reads one index of the database from which the rows come by themselves.
"""

import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contextcir.errors import InputError, MissingFileError
from contextcir.files import ordinary_file
from contextcir.search.index import Photo, Where
from contextcir.search.vectors import parts

APPLICATION, FORMAT = 0x43495253, 1  # "CIRS" in the header of the file; the version of the tables
PART = 65_536  # rows whose bits are kept together
REST = 600.0  # seconds before a row that was given up is used again: no search that began before is still running
MOST = 500  # values of a statement
WAIT = 60.0  # seconds for another process that writes

TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE photos (
    row INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    sha256 TEXT NOT NULL, look INTEGER NOT NULL, taken INTEGER, format TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE INDEX by_date ON photos (taken) WHERE taken IS NOT NULL;
CREATE INDEX by_format ON photos (format);
CREATE TABLE thumbnails (row INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE used (part INTEGER PRIMARY KEY, bits BLOB NOT NULL);
CREATE TABLE given_up (row INTEGER PRIMARY KEY, since REAL NOT NULL);
INSERT INTO state VALUES ('version', 0), ('rows', 0), ('width', 0);
"""  # noqa: S608  (two numbers from here); row is that of the embeddings, crc the CRC-32 of its bytes


class Entry(NamedTuple):
    """A photo, the row of its embedding, and the CRC-32 of that row."""

    row: int
    crc: int
    photo: Photo


def as_key(path: str) -> bytes:
    """Return a path as it is stored: in order of its characters, with the bytes of names that are not in UTF-8."""
    return path.encode("utf-8", "surrogatepass")


def of_key(key: bytes) -> str:
    """Return the path that `as_key` made this of."""
    return key.decode("utf-8", "surrogatepass")


class Database:
    """Connections to the file, one for each thread that needs one at a time.

    Args:
        path: of the file.

    Raises:
        InputError: if it is no index, one of another version of this project, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            ordinary_file(path)
        except MissingFileError:
            problem = "holds no index of images, or a part of one: index the images to another folder"
            raise InputError(problem, file=path.parent) from None
        with self.reading() as snapshot:
            application, version = (snapshot.number(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if application != APPLICATION:
            raise InputError("is no index of images: choose another folder", file=path)
        if version != FORMAT:
            problem = f"an index of format {version}, expected {FORMAT}: index the images to a new folder"
            raise InputError(problem, file=path)

    @staticmethod
    def make(path: Path) -> None:
        """Make the file with empty tables, if it is not there yet."""
        if path.exists() and path.stat().st_size:
            return
        with _told(path):
            connection = _connect(path)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(f"BEGIN;{TABLES}COMMIT;")
            finally:
                connection.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def reading(self) -> "Iterator[Snapshot]":
        """Give the index as it is now; changes that are made meanwhile are not seen."""
        with self._transaction("BEGIN") as connection:
            yield Snapshot(connection)

    @contextmanager
    def writing(self) -> "Iterator[Change]":
        """Give the index to change: everything is changed when the block ends, or nothing if it fails."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            change = Change(connection)
            yield change
            change.finish()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with _told(self.path):
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or _connect(self.path)
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()  # takes back what was begun
                raise
            with self._lock:
                self._idle.append(connection)


class Snapshot:
    """The index within a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection.execute

    def number(self, query: str, *values: Any) -> int:
        """Return the first value of the answer as a whole number, 0 if there is none."""
        found = self._sql(query, values).fetchone()
        return int(found[0]) if found else 0

    def state(self, name: str) -> int:
        """Return ``version`` (of the content), ``rows`` (of the file of embeddings) or ``width`` (0 if empty)."""
        return self.number("SELECT value FROM state WHERE name = ?", name)

    def count(self) -> int:
        """Return the number of photos."""
        return int(self.used().sum())

    def used(self) -> np.ndarray:
        """Return which rows (N,) of the embeddings are those of photos."""
        used = np.zeros(self.state("rows"), bool)
        for part, bits in self._sql("SELECT part, bits FROM used"):
            rows = used[part * PART : (part + 1) * PART]
            rows[:] = np.unpackbits(np.frombuffer(bits, np.uint8))[: len(rows)]
        return used

    def rows_where(self, where: Where) -> Iterator[np.ndarray]:
        """Yield for each condition the rows (R,) of the photos that it holds for."""
        if where.folder:
            low, high = as_key(f"{where.folder}/"), as_key(f"{where.folder}0")  # "0" is what follows "/"
            yield self._rows("path >= ? AND path < ?", low, high)
        if where.since is not None:
            yield self._rows("taken >= ?", where.since)
        if where.until is not None:
            yield self._rows("taken < ?", where.until)
        if where.formats:
            yield self._rows(f"format IN ({_marks(where.formats)})", *where.formats)

    def rows_of(self, paths: Collection[str]) -> np.ndarray:
        """Return the rows of the photos of these paths; unknown ones are left out."""
        keys = [as_key(path) for path in paths]
        found = [self._rows(f"path IN ({_marks(part)})", *part) for part in parts(keys, MOST)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def keys(self, rows: np.ndarray) -> dict[int, bytes]:
        """Return the stored paths of these rows."""
        return dict(self._of_rows("SELECT row, path FROM photos WHERE row IN", rows))

    def entries(self, rows: np.ndarray, thumbnails: bool = True) -> list[Entry]:
        """Return the photos of these rows, by path."""
        found = self._of_rows(f"SELECT {_columns(thumbnails)} WHERE row IN", rows)
        return [_entry(*record) for record in sorted(found, key=lambda record: record[2])]

    def entries_after(self, key: bytes, count: int, thumbnails: bool = True) -> list[Entry]:
        """Return the first photos whose paths follow this one, by path."""
        query = f"SELECT {_columns(thumbnails)} WHERE path > ? ORDER BY path LIMIT ?"
        return [_entry(*record) for record in self._sql(query, (key, count))]

    def _rows(self, condition: str, *values: Any) -> np.ndarray:
        found = self._sql(f"SELECT row FROM photos WHERE {condition}", values)  # noqa: S608  (a condition from here)
        return np.fromiter((row for (row,) in found), np.int64)

    def _of_rows(self, query: str, rows: np.ndarray) -> Iterator[Any]:
        for part in parts(rows.tolist(), MOST):
            yield from self._sql(f"{query} ({_marks(part)})", part)


class Change(Snapshot):
    """A transaction that changes the index."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._many = connection.executemany

    def free_rows(self, count: int) -> np.ndarray:
        """Return rows (N,) for new embeddings: those given up long ago, then new ones at the end of the file."""
        query = "SELECT row FROM given_up WHERE since <= ? ORDER BY row LIMIT ?"
        old = [row for (row,) in self._sql(query, (time.time() - REST, count))]
        self._many("DELETE FROM given_up WHERE row = ?", [(row,) for row in old])
        begin = self.state("rows")
        end = begin + count - len(old)
        self._set("rows", end)
        return np.array([*old, *range(begin, end)], np.int64)

    def add(self, rows: np.ndarray, photos: Sequence[Photo], crcs: Sequence[int], width: int) -> None:
        """Add photos whose paths are not there, with the rows of their embeddings and their checksums."""
        self._set("width", width)
        records = [_record(row, photo, crc) for row, photo, crc in zip(rows.tolist(), photos, crcs, strict=True)]
        self._many("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", records)
        jpegs = [(row, photo.thumbnail) for row, photo in zip(rows.tolist(), photos, strict=True)]
        self._many("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", jpegs)
        self._mark(rows, True)

    def remove(self, rows: np.ndarray) -> None:
        """Remove the photos of these rows, and give the rows up."""
        for table in ("photos", "thumbnails"):
            self._many(f"DELETE FROM {table} WHERE row = ?", [(row,) for row in rows.tolist()])  # noqa: S608  (no data)
        now = time.time()
        self._many("INSERT OR REPLACE INTO given_up VALUES (?, ?)", [(row, now) for row in rows.tolist()])
        self._mark(rows, False)

    def finish(self) -> None:
        """Count the change, so that readers notice it."""
        self._set("version", self.state("version") + 1)

    def _set(self, name: str, value: int) -> None:
        self._sql("UPDATE state SET value = ? WHERE name = ?", (value, name))

    def _mark(self, rows: np.ndarray, used: bool) -> None:
        for part in np.unique(rows // PART).tolist():
            found = self._sql("SELECT bits FROM used WHERE part = ?", (part,)).fetchone()
            flags = np.unpackbits(np.frombuffer(found[0], np.uint8)) if found else np.zeros(PART, np.uint8)
            flags[rows[rows // PART == part] % PART] = used
            self._sql("INSERT OR REPLACE INTO used VALUES (?, ?)", (part, np.packbits(flags).tobytes()))


def _connect(path: Path) -> sqlite3.Connection:
    # Connections go from thread to thread, but two never use one at once.
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")  # or after a power cut, a row could be another photo's
    return connection


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        problem = f"can't be used: {error}; if it is damaged, delete the folder, and index the images again"
        raise InputError(problem, file=path) from None


def _marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _columns(thumbnails: bool) -> str:
    jpeg, table = ("jpeg", "photos JOIN thumbnails USING (row)") if thumbnails else ("x''", "photos")
    return f"row, crc, path, size, modified, sha256, look, taken, format, width, height, {jpeg} FROM {table}"


def _entry(row: int, crc: int, key: bytes, size: int, modified: int, sha256: str, look: int, *rest: Any) -> Entry:
    return Entry(row, crc, Photo(of_key(key), size, modified, sha256, look % 2**64, *rest))


def _record(row: int, photo: Photo, crc: int) -> tuple[Any, ...]:
    look = photo.look - 2**64 if photo.look >= 2**63 else photo.look  # SQLite's integers are signed
    first = (row, as_key(photo.path), photo.size, photo.modified, photo.sha256, look)
    return (*first, photo.taken, photo.format, photo.width, photo.height, crc)
