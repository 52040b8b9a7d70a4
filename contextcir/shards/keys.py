"""Where the record of a key is, for more keys than memory holds: sorted digests with places, searched on the disk.

A key counts by its 16-byte BLAKE2b digest: among a billion keys, two have the same one with a probability of 1e-21.
"""

import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contextcir.files import ordinary_file, whole_file
from contextcir.shards.rows import MOST, Rows, RowSorter, SortedRows

DIGEST = 16  # bytes
PLACE = struct.Struct(">IQI")  # big-endian, so that places sort by their bytes
WIDTH = DIGEST + PLACE.size
FILTER = 1 << 24  # bytes of the bits in which new keys are noticed: 13 bits a key at ten million
PARTS = 8  # on the disk, beyond which they are merged


class Place(NamedTuple):
    """Where a record is: the number of its ``file``, the byte or row where it begins, and another number.

    ``extra``: bytes of an image, or the position of a record in its line.
    """

    file: int
    start: int
    extra: int


class KeySorter:
    """Takes keys with their places, and makes a table of them.

    Args:
        scratch: folder on the disk for what does not fit into memory; None for the system's.
        most: keys in memory; beyond these the disk is used.
    """

    def __init__(self, scratch: Path | None = None, most: int = MOST) -> None:
        self._rows = RowSorter(WIDTH, scratch, most)
        self._scratch = scratch

    def add(self, key: str, file: int, start: int, extra: int) -> None:
        """Take a key and its place; a key may come several times."""
        self._rows.add(digest(key) + PLACE.pack(file, start, extra))

    def table(self) -> "KeyTable":
        """Return the table; the sorter is of no use afterwards. Raises InputError if the disk is full."""
        return KeyTable(self._rows.sorted(), self._scratch)


class KeyTable:
    """Places by key; those of one key come in the order of their places.

    Args:
        rows: digests and places.
        scratch: folder on the disk for what is made of it.
    """

    def __init__(self, rows: SortedRows, scratch: Path | None = None) -> None:
        self._rows = rows
        self._scratch = scratch

    def __len__(self) -> int:
        """The number of places; a key that came twice counts twice."""
        return len(self._rows)

    def places(self, key: str) -> list[Place]:
        """Return all places of a key."""
        wanted = digest(key)
        found: list[Place] = []
        start = self._rows.first(wanted)
        while True:
            row = self._rows.part(start, start + 1).tobytes()
            if row[:DIGEST] != wanted:
                return found
            found.append(Place(*PLACE.unpack(row[DIGEST:])))
            start += 1

    def first(self, key: str) -> Place:
        """Return the first place of a key; raises KeyError if there is none."""
        wanted = digest(key)
        start = self._rows.first(wanted)
        row = self._rows.part(start, start + 1).tobytes()
        if row[:DIGEST] != wanted:
            raise KeyError(key)
        return Place(*PLACE.unpack(row[DIGEST:]))

    def __contains__(self, key: str) -> bool:
        wanted = digest(key)
        start = self._rows.first(wanted)
        return self._rows.part(start, start + 1).tobytes()[:DIGEST] == wanted

    def repeated(self) -> Iterator[tuple[Place, Place]]:
        """Yield, of keys that came several times, each place after the first one, with the one before."""
        before: np.ndarray = np.zeros(0, f"S{WIDTH}")
        for _, block in self._rows.blocks():
            rows = np.concatenate([before, block])
            digests = _digests(rows)
            for number in np.flatnonzero(digests[1:] == digests[:-1]).tolist():
                yield tuple(_places(rows[number : number + 2]))  # type: ignore[misc]  # two of them
            before = rows[-1:]

    def distinct(self, *known: "KeyTable") -> tuple[int, int, SortedRows]:
        """Return how many different keys there are, how many of them are in other tables, and the places of the rest.

        Of a key that came several times, the first place counts. The places are sorted: records are read in the order
        in which they lie in their files. `places_of` reads them.
        """
        total = before = 0
        left = RowSorter(PLACE.size, self._scratch)
        last = b""
        for _, block in self._rows.blocks():
            digests = _digests(block)
            new = np.r_[digests[:1] != np.bytes_(last), digests[1:] != digests[:-1]]
            last = block[-1:].tobytes()[:DIGEST]
            block, digests = block[new], digests[new]
            if not len(block):
                continue
            held = np.zeros(len(block), bool)
            for table in known:
                held |= table._holds(digests)
            total, before = total + len(block), before + int(held.sum())
            left.add(_raw(block[~held])[:, DIGEST:].tobytes())
        return total, before, left.sorted()

    def _holds(self, digests: Rows) -> np.ndarray:
        """Tell which of some sorted digests (n,) are here, (n,)."""
        held = np.zeros(len(digests), bool)
        start = self._rows.first(bytes(digests[0]))
        while len(block := _digests(self._rows.part(start, start + (1 << 15)))):
            places = np.searchsorted(block, digests)
            inside = places < len(block)
            held[inside] |= block[places[inside]] == digests[inside]
            if block[-1] > digests[-1]:
                break
            start += len(block)
        return held

    def write(self, path: Path) -> None:
        """Write the table to a file, whole or not at all."""
        with whole_file(path) as file:
            for _, block in self._rows.blocks():
                file.write(block.tobytes())

    @classmethod
    def read(cls, path: Path) -> "KeyTable":
        """Return the table of a file."""
        return cls(SortedRows(None, ordinary_file(path).open("rb"), WIDTH))

    def close(self) -> None:
        """Give the disk's space back."""
        self._rows.close()


def digest(key: str) -> bytes:
    """Return the bytes by which a key is sorted."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()


def places_of(rows: SortedRows) -> Iterator[Place]:
    """Yield the places that `KeyTable.distinct` returned."""
    for _, block in rows.blocks():
        yield from map(Place._make, PLACE.iter_unpack(block.tobytes()))


class SeenKeys:
    """A set of keys that only grows: the last ones in memory, all others on the disk.

    A filter of bits (Bloom, 1970) says of most new keys at once that they are new; it holds `FILTER` bytes.

    Args:
        most: keys in memory.
    """

    def __init__(self, most: int = MOST // 4) -> None:
        self._most = most
        self._recent: set[bytes] = set()
        self._older: list[SortedRows] = []
        self._bits = bytearray()

    def add(self, key: str) -> bool:
        """Take a key, and tell whether it is new."""
        name = digest(key)
        if name in self._recent or self._is_older(name):
            return False
        self._recent.add(name)
        if len(self._recent) >= self._most:
            self._move()
        return True

    def _is_older(self, name: bytes) -> bool:
        if not self._older:
            return False
        for bit in struct.unpack("<4I", name):
            if not self._bits[(bit >> 3) % FILTER] >> (bit & 7) & 1:
                return False
        return any(rows.part(place := rows.first(name), place + 1).tobytes() == name for rows in self._older)

    def _move(self) -> None:
        """Move the recent keys to the disk, and merge what is there when it is in many parts."""
        self._bits = self._bits or bytearray(FILTER)
        for name in self._recent:
            for bit in struct.unpack("<4I", name):
                self._bits[(bit >> 3) % FILTER] |= 1 << (bit & 7)
        parts = self._older if len(self._older) >= PARTS else []
        sorter = RowSorter(DIGEST, most=self._most)
        sorter.add(b"".join(self._recent))
        for part in parts:
            for _, block in part.blocks():
                sorter.add(block.tobytes())
            part.close()
        self._older = [*([] if parts else self._older), sorter.sorted()]
        self._recent = set()


def _raw(rows: Rows) -> np.ndarray:
    """Return rows (n,) as bytes (n, width)."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


def _digests(rows: Rows) -> Rows:
    """Return the digests (n,) of rows (n,)."""
    return np.ascontiguousarray(_raw(rows)[:, :DIGEST]).view(f"S{DIGEST}").ravel()


def _places(rows: Rows) -> list[Place]:
    return [Place(*PLACE.unpack(bytes(row))) for row in np.ascontiguousarray(_raw(rows)[:, DIGEST:])]
