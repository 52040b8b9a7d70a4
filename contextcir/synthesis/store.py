"""Append-only files of records, each line with its checksum: a process may be killed at any moment.

Writing what comes in, all that has come together: one entry at a time when few come, many when the disk is slow.


Records of a stage by their keys, in any order, without holding them in memory.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

CHECKSUM = 16  # hexadecimal digits, and a space, before each line's JSON
BLOCK = 1 << 20  # bytes that are looked at, at a time, for the end of the last whole line


class Shard:
    """One file of records that one process appends to, and anybody may read.

    Args:
        path: the file; it and its folder are made when the first record comes. Opened to append, a last line that was
            cut off by a kill is taken away.

    Raises:
        ValueError: on reading, where a line in the middle does not have its checksum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = None

    def append(self, records: Sequence[dict[str, Any] | list[dict[str, Any]]]) -> None:
        """Append records and bring them to the disk: after this returns, they survive a kill.

        Records that stand in a list of their own share a line: a kill leaves all of them or none.
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
        """Yield the records that are there, in order; what a kill left of a last line is passed over."""
        for _, records in self.lines():
            yield from records

    def lines(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield where each line begins, in bytes, and its records: one, or those that were appended as a list."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # the last one, of a process that was killed or is writing
                yield start, self._decode(line, f"line {number}")
                start += len(line)

    def at(self, start: int) -> list[dict[str, Any]]:
        """Return the records of the line that begins at a byte which `lines` gave."""
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

    def _decode(self, line: bytes, name: str) -> list[dict[str, Any]]:
        checksum, _, text = line[:-1].partition(b" ")
        if digest(text) != checksum:
            raise ValueError(
                f"{self.path}: {name} does not have its checksum: the file is damaged or was edited. Remove it: "
                f"its stage is done again"
            )
        value = json.loads(text)
        return value if isinstance(value, list) else [value]

    def _cut_broken_tail(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end:  # from the back, for the file may be larger than memory
                start = max(0, end - BLOCK)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    file.truncate(start + found + 1)
                    return
                end = start
            file.truncate(0)


def encode(record: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    """Return the line of a record, or of several."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    return digest(text) + b" " + text + b"\n"


def digest(text: bytes) -> bytes:
    """Return the checksum of a line's JSON."""
    return blake2b(text, digest_size=CHECKSUM // 2).hexdigest().encode()


def shard_path(folder: Path, stage: str, index: int, count: int) -> Path:
    """Return the file of shard ``index`` of ``count`` (from 0) of a stage."""
    return folder / stage / f"{index:05d}-of-{count:05d}.jsonl"


def read_stage(folder: Path, stage: str) -> Iterator[dict[str, Any]]:
    """Yield the records of all shards of a stage, by number of the shard."""
    for path in sorted((folder / stage).glob("*-of-*.jsonl")):
        yield from Shard(path).read()


def mine(key: str, index: int, count: int) -> bool:
    """Whether what has this key belongs to shard ``index`` of ``count``: the same on every machine."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % count == index


class GroupWriter:
    """Hands entries to ``append`` in a thread, so that others go on meanwhile; leaving the context writes the rest.

    Args:
        append: writes a list of entries, and blocks until they are on the disk.
        most: entries that may wait; `put` waits beyond them.

    Raises (from `put` and on leaving):
        Exception: the first one that ``append`` raised; nothing is written after it.
    """

    def __init__(self, append: Callable[[list[Any]], None], most: int) -> None:
        self._append = append
        self._queue: asyncio.Queue[Any] = asyncio.Queue(most)
        self._error: Exception | None = None

    async def __aenter__(self) -> "GroupWriter":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._queue.put(_END)
        await self._task
        if error is None:
            self._check()

    async def put(self, entry: Any) -> None:
        """Take an entry."""
        self._check()
        await self._queue.put(entry)
        await asyncio.sleep(0)  # a model that never waits would not let the task begin

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        ended = False
        while not ended:
            entries = [await self._queue.get()]
            while not self._queue.empty():
                entries.append(self._queue.get_nowait())
            ended = entries[-1] is _END
            entries = [entry for entry in entries if entry is not _END]
            if entries and self._error is None:  # after an error entries are thrown away, so that nobody waits
                try:
                    await asyncio.to_thread(self._append, entries)
                except Exception as error:
                    self._error = error


_END = object()


class Lookup:
    """What the shards of a stage hold when this is built; in memory are the keys, and where their records lie.

    A key that stands in several lines (a failure that came again) gives the last one.

    Args:
        folder: of the synthesis.
        stage: which records.

    Raises:
        ValueError: if a shard is damaged.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._shards = [Shard(path) for path in sorted((folder / stage).glob("*-of-*.jsonl"))]
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, shard in enumerate(self._shards):
            for start, records in shard.lines():
                for place, record in enumerate(records):
                    self._places[record["key"]] = (number, start, place)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        number, start, place = self._places[key]
        return self._shards[number].at(start)[place]
