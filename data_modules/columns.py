"""Records of training sets that are not held in memory: each is made when it is taken, and columns are numbers."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Sequence
from itertools import chain
from typing import overload

import numpy as np

from data_modules.records import QueryRecord

NONE = -1  # in a column: the record has nothing in this field
FIELDS = ("phrases", "clauses", "negatives")  # that a record may have nothing in
SET = "set"  # the column that says which set of a mixture a record is from


class GroupColumn(Sequence[Hashable | None]):
    """A field of all records, as a number each; equal numbers stand for equal values.

    Args:
        numbers: (N,) of them, `NONE` where a record has no value.
        names: the values by number; None where numbers are values enough.
    """

    def __init__(self, numbers: np.ndarray, names: Sequence[Hashable] | None = None) -> None:
        self.numbers = numbers
        self.names = names

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Hashable | None: ...
    @overload
    def __getitem__(self, index: slice) -> "GroupColumn": ...
    def __getitem__(self, index: int | slice) -> "Hashable | GroupColumn | None":
        if isinstance(index, slice):
            return self.take(index)
        number = int(self.numbers[index])
        if number == NONE:
            return None
        return number if self.names is None else self.names[number]

    def take(self, index: np.ndarray | slice) -> "GroupColumn":
        """Return the column of some records."""
        return GroupColumn(self.numbers[index], self.names)

    def in_order(self) -> np.ndarray:
        """Return the numbers (N,) of groups in the order of their first records; who has no value is a group alone."""
        keys = self.numbers.astype(np.int64)
        alone = keys == NONE
        keys[alone] = -1 - np.arange(alone.sum())
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.uint32)
        place[np.argsort(first)] = np.arange(len(first), dtype=np.uint32)
        return place[inverse]


class LazyRecords(Sequence[QueryRecord], ABC):
    """Records that are made when they are taken: a slice or a loop gives them one by one."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> QueryRecord:
        """Return the record at a place from 0 to the last."""

    @abstractmethod
    def column(self, field: str) -> GroupColumn:
        """Return the ``reference``, ``image_set`` or, in a mixture, the ``set`` of all records."""

    @abstractmethod
    def filled(self, field: str) -> int:
        """Return how many records have any ``phrases``, ``clauses`` or ``negatives``."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A checksum of what the records say, and of their order."""

    def needed_images(self) -> Sequence[str]:
        """Return the names of all images that the records name, each once."""
        return list(names_in(self))

    @overload
    def __getitem__(self, index: int) -> QueryRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[QueryRecord]: ...
    def __getitem__(self, index: int | slice) -> QueryRecord | Sequence[QueryRecord]:
        if isinstance(index, slice):
            return SelectedRecords(self, np.arange(len(self), dtype=np.uint32)[index])
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.record(place)

    def __iter__(self) -> Iterator[QueryRecord]:
        return map(self.record, range(len(self)))


class SelectedRecords(LazyRecords):
    """Some of the records of another sequence.

    Args:
        records: of which they are.
        index: (N,) which of them.
        missing: names of images that are left out of their hard negatives.
    """

    def __init__(self, records: LazyRecords, index: np.ndarray, missing: Collection[str] = ()) -> None:
        self.records, self.index, self.missing = records, index, frozenset(missing)

    def __len__(self) -> int:
        return len(self.index)

    def record(self, index: int) -> QueryRecord:
        """Return a record, without the hard negatives that are missing."""
        record = self.records.record(int(self.index[index]))
        if not self.missing or not record.negatives:
            return record
        return record._replace(negatives=tuple(name for name in record.negatives if name not in self.missing))

    def column(self, field: str) -> GroupColumn:
        """Return a column of these records."""
        return self.records.column(field).take(self.index)

    def filled(self, field: str) -> int:
        """Return how many of these have something in a field."""
        if not self.records.filled(field):
            return 0
        return sum(bool(getattr(record, field)) for record in self)

    @property
    def digest(self) -> str:
        """A checksum of what was selected of which records."""
        told = f"{self.records.digest} {sorted(self.missing)}".encode()
        return hashlib.sha256(told + np.ascontiguousarray(self.index, np.uint32).tobytes()).hexdigest()


class MixedRecords(LazyRecords):
    """The records of several sets, one set after the other; names of images begin with that of their set.

    Args:
        parts: the records of each set, by its name.
    """

    def __init__(self, parts: dict[str, Sequence[QueryRecord]]) -> None:
        self.parts = parts
        self._names = list(parts)
        self._ends = np.cumsum([len(records) for records in parts.values()])
        self._groups = list(self._numbered_groups())

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def record(self, index: int) -> QueryRecord:
        """Return a record; its image set has a number that no other set uses."""
        part = int(np.searchsorted(self._ends, index, "right"))
        name = self._names[part]
        row = index - (int(self._ends[part - 1]) if part else 0)
        record = self.parts[name][row]
        group = int(self._groups[part][row])
        return record._replace(
            reference=f"{name}:{record.reference}",
            target=f"{name}:{record.target}",
            negatives=tuple(f"{name}:{image}" for image in record.negatives),
            image_set=None if group == NONE else group,
        )

    def column(self, field: str) -> GroupColumn:
        """Return a column of all sets."""
        if field == SET:
            sizes = [len(records) for records in self.parts.values()]
            return GroupColumn(np.repeat(np.arange(len(sizes), dtype=np.int16), sizes), self._names)
        if field == "image_set":
            return GroupColumn(_joined(self._groups))
        numbers, base = [], 0
        for records in self.parts.values():
            numbers.append(_shifted(column_of(records, field).numbers, base))
            base = max(base, int(numbers[-1].max(initial=NONE)) + 1)
        return GroupColumn(_joined(numbers))

    def filled(self, field: str) -> int:
        """Return how many records of all sets have something in a field."""
        return sum(filled(records, field) for records in self.parts.values())

    @property
    def digest(self) -> str:
        """A checksum of all sets; "" where one of them is held in memory and has none."""
        digests = [digest_of(records) for records in self.parts.values()]
        told = " ".join(f"{name} {digest}" for name, digest in zip(self._names, digests, strict=True))
        return hashlib.sha256(told.encode()).hexdigest() if all(digests) else ""

    def needed_images(self) -> list[str]:
        """Return the names of all images that the records of all sets name."""
        return [f"{name}:{image}" for name, records in self.parts.items() for image in needed_images(records)]

    def _numbered_groups(self) -> Iterator[np.ndarray]:
        """Yield the image sets of each part, in numbers that go on from part to part."""
        base = 0
        for records in self.parts.values():
            found = column_of(records, "image_set").numbers
            has = found != NONE
            numbers = np.full(len(found), NONE, np.int32)
            numbers[has] = GroupColumn(found[has]).in_order().astype(np.int32) + base
            base = max(base, int(numbers.max(initial=NONE)) + 1)
            yield numbers


def _shifted(numbers: np.ndarray, base: int) -> np.ndarray:
    return np.where(numbers == NONE, NONE, numbers.astype(np.int64) + base)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def column_of(records: Sequence[QueryRecord], field: str) -> GroupColumn:
    """Return a column of any records: of those in memory, it is made."""
    if isinstance(records, LazyRecords):
        return records.column(field)
    numbers: dict[Hashable, int] = {}
    values = (getattr(record, field) for record in records)
    return GroupColumn(
        np.fromiter((NONE if v is None else numbers.setdefault(v, len(numbers)) for v in values), np.int32)
    )


def filled(records: Sequence[QueryRecord], field: str) -> int:
    """Return how many records have any ``phrases``, ``clauses`` or ``negatives``."""
    if isinstance(records, LazyRecords):
        return records.filled(field)
    return sum(bool(getattr(record, field)) for record in records)


def first_without(records: Sequence[QueryRecord], field: str) -> QueryRecord | None:
    """Return the first record that has nothing in a field, None if all have something."""
    return next((record for record in records if not getattr(record, field)), None)


def digest_of(records: Sequence[QueryRecord]) -> str:
    """Return the checksum of records that have one, "" for those in memory."""
    return records.digest if isinstance(records, LazyRecords) else ""


def blocks(records: Sequence[QueryRecord], size: int = 65_536) -> Iterator[Sequence[QueryRecord]]:
    """Yield records that are held in memory all at once, others ``size`` at a time."""
    if not isinstance(records, LazyRecords):
        yield records
        return
    for start in range(0, len(records), size):
        yield [records.record(index) for index in range(start, min(start + size, len(records)))]


def without_images(records: LazyRecords, missing: Collection[str]) -> LazyRecords:
    """Return the records whose reference and target are not missing, without hard negatives that are."""
    kept = [
        index
        for index, record in enumerate(records)
        if record.reference not in missing and record.target not in missing
    ]
    return SelectedRecords(records, np.array(kept, np.uint32), missing)


def needed_images(records: Sequence[QueryRecord]) -> Sequence[str]:
    """Return the names of all images that training records name, each once."""
    return records.needed_images() if isinstance(records, LazyRecords) else list(names_in(records))


def names_in(records: Sequence[QueryRecord]) -> dict[str, None]:
    """Return the images that training records need: references, then targets, then hard negatives."""
    names = dict.fromkeys(record.reference for record in records)
    names |= dict.fromkeys(record.target for record in records if record.target is not None)
    return names | dict.fromkeys(chain.from_iterable(record.negatives for record in records))
