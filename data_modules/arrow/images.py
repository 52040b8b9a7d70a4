"""The images of a table: names and paths by number, found by name through a sorted list of hashes."""

import os
import zlib
from bisect import bisect_left
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from itertools import groupby, islice, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, overload

import numpy as np

from contextcir.errors import InputError
from contextcir.files import stable_hash, whole_array
from data_modules.arrow.files import ArrowFile, write_table
from data_modules.arrow.layout import ROWS, SETTING, Texts, arrow

NAMES = "images.arrow"
INDEXES = {"hashes": np.uint64, "places": np.uint32, "folders": np.uint32, "numbers": np.uint32}


class ImageNames(Sequence[str]):
    """The names of the images of a table."""

    def __init__(self, table: "ImageTable") -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._of(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._of(place)

    def _of(self, place: int) -> str:
        return self.table.name(place)


class ImageTable(Mapping[str, str]):
    """The listed path of every image by name, memory-mapped, in the order of a `TrainingSet`.

    Args:
        folder: of the table.
        about: what `write_images` returned.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self.file = ArrowFile(folder / NAMES, about)
        self._arrays: dict[str, np.ndarray] = {}
        self._batches: dict[int, tuple[Texts, Texts]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageTable, (self.folder, self.about)

    def __len__(self) -> int:
        return int(self.about["rows"])

    def __iter__(self) -> Iterator[str]:
        for batch in self.file.batches():
            yield from batch.column(0).to_pylist()

    def __getitem__(self, name: str) -> str:
        return self.path(self.place(name))

    def items(self) -> "TableItems":
        """Return names and paths, without looking for each name."""
        return TableItems(self)

    def values(self) -> "TableValues":
        """Return the paths, likewise."""
        return TableValues(self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._found(name) is not None

    def name(self, place: int) -> str:
        """Return the name of an image by its place."""
        batch, row = divmod(place, ROWS)
        return self._texts(batch)[0].item(row) or ""

    def path(self, place: int) -> str:
        """Return the listed path of an image by its place."""
        batch, row = divmod(place, ROWS)
        path = self._texts(batch)[1].item(row)
        return self.name(place) if path is None else path

    def _texts(self, number: int) -> tuple[Texts, Texts]:
        if number not in self._batches:
            names, paths = self.file.batch(number).columns
            self._batches[number] = Texts(names), Texts(paths)
        return self._batches[number]

    def place(self, name: str) -> int:
        """Return the place of an image among all of them; raises KeyError if there is no such name."""
        found = self._found(name)
        if found is None:
            raise KeyError(name)
        return found

    def numbered(self, number: int) -> str:
        """Return the name of an image by the number that records have."""
        return self.name(self.array("numbers").item(number))

    def by_folder(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder of listed paths with the names of the files in it, one folder at a time."""
        places = (os.path.split(self.path(int(place))) for place in self.array("folders"))
        for folder, files in groupby(places, key=itemgetter(0)):
            yield folder, [file for _, file in files]

    def files_in(self, folder: str) -> list[str]:
        """Return the names of the files that are listed in a folder."""
        order = self.array("folders")
        first = bisect_left(order, folder, key=self._folder_of)
        places = (os.path.split(self.path(int(place))) for place in islice(order, first, None))
        return [file for _, file in takewhile(lambda place: place[0] == folder, places)]

    def _folder_of(self, place: int) -> str:
        return os.path.split(self.path(int(place)))[0]

    def array(self, name: str) -> np.ndarray:
        """Return one of the arrays of `INDEXES`."""
        if name not in self._arrays:
            path = self.folder / f"{name}.npy"
            try:
                array = np.load(path, mmap_mode="r")
                sound = zlib.crc32(array) == self.about[name]
            except (OSError, ValueError):
                sound = False
            if not sound:
                problem = "is missing or damaged; delete its folder, and it is made again"
                raise InputError(problem, file=path, setting=SETTING)
            self._arrays[name] = array
        return self._arrays[name]

    def _found(self, name: str) -> int | None:
        wanted, hashes = np.uint64(stable_hash(name)), self.array("hashes")
        for row in range(int(np.searchsorted(hashes, wanted)), len(hashes)):
            if hashes[row] != wanted:
                break
            place = int(self.array("places")[row])
            if self.name(place) == name:
                return place
        return None


class TableItems(ItemsView[str, str]):
    """The names and paths of a table, in its order."""

    _mapping: ImageTable

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for batch in self._mapping.file.batches():
            names, paths = (column.to_pylist() for column in batch.columns)
            yield from ((name, name if path is None else path) for name, path in zip(names, paths, strict=True))


class TableValues(ValuesView[str]):
    """The paths of a table, in its order."""

    _mapping: ImageTable

    def __iter__(self) -> Iterator[str]:
        return (path for _, path in self._mapping.items())


def write_images(
    folder: Path, names: Sequence[str], paths: Mapping[str, str] | None, order: np.ndarray
) -> dict[str, Any]:
    """Write the images of a table, and return what `ImageTable` needs to know of them.

    Args:
        folder: of the table.
        names: of the images by the number that records have.
        paths: of the images by name; None where a name is the path.
        order: (N,) the numbers in the order of the training set.
    """
    pa = arrow()
    ordered = [names[number] for number in order.tolist()]
    listed = ordered if paths is None else [paths[name] for name in ordered]
    hashes = np.fromiter(map(stable_hash, ordered), np.uint64, len(ordered))
    sorting = np.argsort(hashes, kind="stable")
    numbers = np.empty(len(order), np.uint32)
    numbers[order] = np.arange(len(order), dtype=np.uint32)
    folders = np.array(sorted(range(len(listed)), key=lambda place: os.path.split(listed[place])[0]), np.uint32)
    found = {"hashes": hashes[sorting], "places": sorting.astype(np.uint32), "folders": folders, "numbers": numbers}
    for name, kind in INDEXES.items():
        with whole_array(folder / f"{name}.npy", (len(order),), kind) as array:
            array[:] = found[name]
    sums = {name: zlib.crc32(np.ascontiguousarray(found[name], kind)) for name, kind in INDEXES.items()}
    different = [path if path != name else None for name, path in zip(ordered, listed, strict=True)]
    columns = [pa.array(ordered, pa.large_string()), pa.array(different, pa.large_string())]
    return sums | write_table(folder / NAMES, pa.table(columns, names=["name", "path"]))
