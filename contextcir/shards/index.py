"""The list of what is in many shards, made once and kept on the disk, with a table to find each image by its name."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from contextcir.errors import InputError
from contextcir.files import parse_json, read_json, whole_file, write_json
from contextcir.shards.keys import KeySorter, KeyTable
from contextcir.shards.places import StoredFile, file_name

THREADS = 8  # shards that are listed at once: most of the time a store is waited for
ABOUT = "about.json"
TABLE = "table.rows"


class Member(NamedTuple):
    """An image in a shard: its ``name`` there, where it begins and how large it is, or the ``reason`` of a refusal.

    ``start``, ``size``: bytes; of Parquet, the row group and the row in it.
    """

    name: str
    start: int
    size: int
    reason: str = ""


class Format(ABC):
    """A kind of shard."""

    suffix: str  # of its files, which names of images do without
    identity: str  # of what is listed: with another one, lists are made again

    @abstractmethod
    def members(self, file: StoredFile) -> Iterator[Member]:
        """Yield what is in a shard; raises InputError if it is no shard of this kind."""

    @abstractmethod
    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        """Return the bytes of a member; raises InputError if they are not there any more."""


class ShardIndex:
    """Images in shards by name: the name of the shard without its suffix, "/", and the name in it.

    Each shard's list is a file of ``folder``, so that a process that is killed goes on with the next shard; the lists
    of shards that changed are made again.

    Args:
        folder: on the disk, for the lists and the table.
        shards: in the order of their names.
        form: what they are.

    Raises (from `prepare`):
        InputError: if two shards have one name, one is damaged, or a name stands twice.
        StoreError: if a store does not answer.
    """

    def __init__(self, folder: Path, shards: Sequence[StoredFile], form: Format) -> None:
        self.folder = folder
        self.shards = list(shards)
        self.form = form
        self._states: dict[str, str] = {}

    def prepare(self) -> None:
        """List the shards that are new or changed, and make the table; nothing is done where all is there."""
        self._check_names()
        with ThreadPoolExecutor(THREADS) as pool:
            states = [[*state, self.form.identity] for state in pool.map(StoredFile.state, self.shards)]
            about = {self._id(shard): state for shard, state in zip(self.shards, states, strict=True)}
            self._states = {name: str(state) for name, state in about.items()}
            kept = read_json(self.folder / ABOUT)
            if kept == about and (self.folder / TABLE).is_file():
                return
            new = [
                (shard, state)
                for shard, state in zip(self.shards, states, strict=True)
                if read_json(self._path(shard).with_suffix(".json")) != state or not self._path(shard).is_file()
            ]
            for _ in pool.map(lambda each: self._list(*each), new):
                pass
        (self.folder / ABOUT).unlink(missing_ok=True)
        self._make_table()
        write_json(self.folder / ABOUT, about)

    def find(self, name: str) -> tuple[StoredFile, int, int] | None:
        """Return the shard of an image and its place there; None where there is none of that name."""
        places = self._table.places(name)
        return (self.shards[places[0].file], places[0].start, places[0].extra) if places else None

    def state(self, shard: StoredFile) -> str:
        """Return what changes with the content of a shard, as it was when it was listed."""
        return self._states[self._id(shard)]

    def __len__(self) -> int:
        return len(self._table)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_table"}

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield all names, each with the reason of a refusal, or ''."""
        for shard in self.shards:
            for member in self._members(shard):
                yield f"{self._stem(shard)}/{member.name}", member.reason

    @cached_property
    def _table(self) -> KeyTable:
        return KeyTable.read(self.folder / TABLE)

    def _make_table(self) -> None:
        sorter = KeySorter(self.folder)
        for number, shard in enumerate(self.shards):
            stem = self._stem(shard)
            for member in self._members(shard):
                if not member.reason:
                    sorter.add(f"{stem}/{member.name}", number, member.start, member.size)
        table = sorter.table()
        for first, _ in table.repeated():
            shard = self.shards[first.file]
            twice = next(each.name for each in self._members(shard) if each[1:3] == first[1:])
            raise InputError(f"{twice!r} stands twice in it", file=shard.address, setting=shard.setting)
        table.write(self.folder / TABLE)
        table.close()
        self.__dict__.pop("_table", None)

    def _list(self, shard: StoredFile, state: list[object]) -> None:
        with whole_file(self._path(shard)) as file:
            for member in self.form.members(shard):
                file.write(json.dumps(member).encode() + b"\n")
        write_json(self._path(shard).with_suffix(".json"), state)  # last: its presence says that the list is whole

    def _members(self, shard: StoredFile) -> Iterator[Member]:
        with self._path(shard).open(encoding="utf-8") as file:
            for line in file:
                yield Member(*parse_json(line, self._path(shard)))

    def _check_names(self) -> None:
        stems: dict[str, str] = {}
        for shard in self.shards:
            other = stems.setdefault(self._stem(shard), shard.address)
            if other != shard.address:
                problem = f"two shards have the name {self._stem(shard)!r}, also {other}: images are told apart by it"
                raise InputError(problem, file=shard.address, setting=shard.setting)

    def _stem(self, shard: StoredFile) -> str:
        return file_name(shard.address).removesuffix(self.form.suffix)

    def _id(self, shard: StoredFile) -> str:
        return blake2b(shard.address.encode(), digest_size=8).hexdigest()

    def _path(self, shard: StoredFile) -> Path:
        return self.folder / "lists" / f"{self._id(shard)}.jsonl"
