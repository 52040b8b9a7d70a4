"""Records on disk: append-only shards in which each line has its checksum, so that a kill at any moment is harmless.

`Shard` is one file, `read_stage` reads all files of a stage, `Lookup` finds records by key without holding them or
their keys in memory, and `GroupWriter` appends in the background.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file, parse_json
from contextcir.shards.keys import KeySorter, KeyTable, Place
from contextcir.synthesis.records import check_record

CHECKSUM = 16  # hexadecimal digits, and a space, before each line's JSON
BLOCK = 1 << 20  # bytes read at a time when the end of the last whole line is looked for


class Shard:
    """One file of records that one process appends to, and any process may read.

    Args:
        path: of the file; file and folder are made with the first record. A last line that was cut off by a kill is
            removed before the next record is appended.
        name: of its records, which are checked when they are read; None for that of its folder.

    Raises:
        InputError: on reading, if a line other than the last does not match its checksum, or is no record of the stage;
            on writing, if that fails, as on a full disk. What was written before is then whole.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = path.parent.name if name is None else name
        self._file: FileIO | None = None

    def append(self, records: Sequence[dict[str, Any] | list[dict[str, Any]]]) -> None:
        """Append records and sync the file: once this returns, they survive a kill.

        Records in a list of their own share a line, so that a kill leaves all of them or none.
        """
        if not records:
            return
        content = b"".join(map(encode, records))
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._cut_broken_tail()
                self._file = FileIO(self.path, "ab")  # unbuffered, so that closing writes nothing after an error
            end = self._file.seek(0, os.SEEK_END)
            try:
                write_all(self._file, content)
                os.fsync(self._file.fileno())
            except BaseException:
                self._file.truncate(end)  # a full disk takes a part; shortening a file needs no space
                raise
        except OSError as error:
            problem = f"can't be written: {error.strerror}; what is in it is kept, and the same command goes on"
            raise InputError(problem, file=self.path, setting="out") from None

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield all records in order, without a last line that is not whole."""
        for _, records in self.lines():
            yield from records

    def lines(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield the byte at which each line begins, and its records: one, or those that were appended as a list."""
        if not os.path.lexists(self.path):
            return
        with ordinary_file(self.path).open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # the last line, of a process that was killed or is writing
                yield start, self._decode(line, f"line {number}")
                start += len(line)

    def at(self, start: int) -> list[dict[str, Any]]:
        """Return the records of the line that begins at a byte given by `lines`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return self._decode(file.readline(), f"the line at byte {start}")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Shard":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _decode(self, line: bytes, place: str) -> list[dict[str, Any]]:
        checksum, _, text = line[:-1].partition(b" ")
        if _checksum(text) != checksum:
            raise InputError(
                f"{place} does not have its checksum: the file is damaged or was edited. Remove it: its stage is done "
                "again",
                file=self.path,
            )
        try:
            value = parse_json(text.decode())
            records = value if isinstance(value, list) else [value]
            for record in records:
                check_record(self.name, record)
        except InputError as error:
            raise InputError(f"{place}: {error.problem}", file=self.path) from None
        except UnicodeDecodeError:
            raise InputError(f"{place}: expected text in UTF-8", file=self.path) from None
        return records

    def _cut_broken_tail(self) -> None:
        if not os.path.lexists(self.path):
            return
        with ordinary_file(self.path).open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end:  # backwards, because the file may be larger than memory
                start = max(0, end - BLOCK)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    file.truncate(start + newline + 1)
                    return
                end = start
            file.truncate(0)


def write_all(file: FileIO, content: bytes) -> None:
    """Write all bytes to an unbuffered file, which may take fewer at a time."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def encode(record: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    """Return the line of a record, or of several records that share it."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return blake2b(text, digest_size=CHECKSUM // 2).hexdigest().encode()


def shard_path(folder: Path, name: str, index: int, count: int) -> Path:
    """Return the file of shard ``index`` of ``count`` (from 0) of the records ``name``."""
    return folder / name / f"{index:05d}-of-{count:05d}.jsonl"


def _shards(folder: Path, name: str) -> list[Shard]:
    return [Shard(path) for path in sorted((folder / name).glob("*-of-*.jsonl"))]


def read_stage(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of all shards of a stage, shard by shard."""
    for shard in _shards(folder, name):
        yield from shard.read()


class Records:
    """The records of a stage in order, each with its place, and any of them by its place.

    Args:
        folder: of the synthesis.
        name: of the records.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._shards = _shards(folder, name)

    def placed(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Yield all records with their places; raises InputError if a shard is damaged."""
        for number, shard in enumerate(self._shards):
            for start, records in shard.lines():
                for position, record in enumerate(records):
                    yield Place(number, start, position), record

    def at(self, place: Place) -> dict[str, Any]:
        """Return the record at a place."""
        return self._shards[place.file].at(place.start)[place.extra]

    def path(self, place: Place) -> Path:
        """Return the file that a place is in."""
        return self._shards[place.file].path


class Lookup(Records):
    """The records of a stage by key, as they are when this is built; the keys of many are on the disk (`KeyTable`).

    Of a key that stands in several lines (a failure that came again), the last one counts.

    Args:
        folder: of the synthesis.
        name: of the records.

    Raises:
        InputError: if a shard is damaged, or a key that is no failure's stands twice with different records.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, name)
        sorter = KeySorter()
        for place, record in self.placed():
            sorter.add(record["key"], *place)
        self._table = sorter.table()
        self._repeated = 0
        for first, other in self._table.repeated():
            self._repeated += 1
            if not name.endswith("-failures"):
                self._compare(first, other)

    def _compare(self, first: Place, other: Place) -> None:
        if (record := self.at(other)) != self.at(first):
            raise InputError(
                f"the key {shown(record['key'])} of the stage {self.name} stands twice, also in "
                f"{self.path(first).name}: were two divisions into shards at work at once? Remove one of the files: "
                "its part is done again",
                file=self.path(other),
            )

    def __len__(self) -> int:
        return len(self._table) - self._repeated

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def require(self, key: str, stage: str) -> None:
        """Raise InputError if a key that records of another stage name is not here, as when a shard was removed."""
        if key not in self._table:
            raise InputError(
                f"the stage {stage} has the key {shown(key)}, which the stage {self.name} has not: a shard is missing",
                file=self.folder,
                setting="out",
            )

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the record of a key, or None."""
        places = self._table.places(key)
        return self.at(places[-1]) if places else None

    def is_last(self, place: Place, key: str) -> bool:
        """Tell whether the record at a place is the one that counts for its key."""
        return self._table.places(key)[-1] == place

    def __getitem__(self, key: str) -> dict[str, Any]:
        if (record := self.get(key)) is None:
            raise KeyError(key)
        return record


def keys_of(folder: Path, name: str, field: str = "key") -> KeyTable:
    """Return the keys of a stage's records, or those in another field of them."""
    sorter = KeySorter()
    for record in read_stage(folder, name):
        sorter.add(record[field], 0, 0, 0)
    return sorter.table()


class GroupWriter:
    """Appends entries in a thread, all that have come meanwhile together; leaving the context writes the rest.

    Few entries are written one by one, many in large groups when the disk is slow.

    Args:
        append: writes a list of entries, and blocks until they are on disk.
        most: entries that may wait; beyond them `put` waits.

    Raises (from `put` and on leaving):
        Exception: the first one that ``append`` raised; nothing is written after it.
    """

    def __init__(self, append: Callable[[list[Any]], None], most: int) -> None:
        self._append = append
        self._queue: asyncio.Queue[Any] = asyncio.Queue(most)
        self._error: Exception | None = None

    async def __aenter__(self) -> "GroupWriter":
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._queue.put(_END)
        await self._task
        if error is None:
            self._check()

    async def put(self, entry: Any) -> None:
        """Queue an entry."""
        self._check()
        await self._queue.put(entry)
        await asyncio.sleep(0)  # a model that never waits would not let the task begin

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _write(self) -> None:
        ended = False
        while not ended:
            entries = [await self._queue.get()]
            while not self._queue.empty():
                entries.append(self._queue.get_nowait())
            ended = entries[-1] is _END
            entries = [entry for entry in entries if entry is not _END]
            if entries and self._error is None:  # after an error the queue is only drained, so that `put` never blocks
                try:
                    await asyncio.to_thread(self._append, entries)
                except Exception as error:
                    self._error = error


_END = object()
