"""Records on disk: append-only shards in which each line has its checksum, so that a kill at any moment is harmless.

`Shard` is one file, `read_stage` reads all files of a stage, `Lookup` finds records by key without holding them in
memory, and `GroupWriter` appends in the background.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from contextcir.errors import InputError

CHECKSUM = 16  # hexadecimal digits, and a space, before each line's JSON
BLOCK = 1 << 20  # bytes read at a time when the end of the last whole line is looked for


class Shard:
    """One file of records that one process appends to, and any process may read.

    Args:
        path: of the file; file and folder are made with the first record. A last line that was cut off by a kill is
            removed before the next record is appended.

    Raises:
        InputError: on reading, if a line other than the last does not match its checksum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, records: Sequence[dict[str, Any] | list[dict[str, Any]]]) -> None:
        """Append records and sync the file: once this returns, they survive a kill.

        Records in a list of their own share a line, so that a kill leaves all of them or none.
        """
        if not records:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._cut_broken_tail()
            self._file = self.path.open("ab")
        self._file.write(b"".join(map(encode, records)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield all records in order, without a last line that is not whole."""
        for _, records in self.lines():
            yield from records

    def lines(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield the byte at which each line begins, and its records: one, or those that were appended as a list."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
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
        value = json.loads(text)
        return value if isinstance(value, list) else [value]

    def _cut_broken_tail(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
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


class Lookup:
    """The records of a stage by key, as they are when this is built; memory holds the keys and the places of lines.

    Of a key that stands in several lines (a failure that came again), the last one counts.

    Args:
        folder: of the synthesis.
        name: of the records.

    Raises:
        InputError: if a shard is damaged.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._shards = _shards(folder, name)
        self._places: dict[str, tuple[int, int, int]] = {}  # shard, byte of the line, position in it
        for number, shard in enumerate(self._shards):
            for start, records in shard.lines():
                for position, record in enumerate(records):
                    self._places[record["key"]] = (number, start, position)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        number, start, position = self._places[key]
        return self._shards[number].at(start)[position]


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
