"""The records of a training set in Arrow files, memory-mapped, in the place of a tuple of them."""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.errors import InputError
from contextcir.files import read_json
from data_modules.arrow.files import ArrowFile
from data_modules.arrow.images import ImageNames, ImageTable
from data_modules.arrow.layout import FORMAT, ROWS, SETTING, Row
from data_modules.columns import NONE, GroupColumn, LazyRecords
from data_modules.records import QueryRecord, TrainingSet

ABOUT = "about.json"  # written last: a folder without it is not complete


def part_name(number: int) -> str:
    """Return the name of the file of a part."""
    return f"records-{number:05}.arrow"


class RecordTable(LazyRecords):
    """The records of a folder that `TableWriter` filled; each is made when it is taken.

    All processes share the system's one copy of the files. A pickled table is no more than its path and what is known
    of the files. A batch of 8,192 records is compared with its checksum when a process takes its first record of it.

    Args:
        folder: of the table.
        about: the content of its `ABOUT`; None to read that.

    Raises:
        MissingFileError: if the folder or a file of it is not there.
        InputError: if it is not complete, of another format, or a file has another size.
    """

    def __init__(self, folder: Path, about: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.about = self._read_about() if about is None else about
        parts = self.about["parts"]
        self._files = [ArrowFile(folder / part_name(number), part) for number, part in enumerate(parts)]
        self.images = ImageTable(folder, self.about["images"])
        for file in (*self._files, self.images.file) if about is None else ():
            file.check()
        self._ends = list(accumulate(int(part["rows"]) for part in parts))
        self._rows: dict[int, Row] = {}
        self._columns: dict[str, GroupColumn] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordTable, (self.folder, self.about)

    def __len__(self) -> int:
        return int(self.about["records"])

    @property
    def digest(self) -> str:
        """A checksum of what the records say, and of their order."""
        return str(self.about["digest"])

    def training_set(self) -> TrainingSet:
        """Return the records as what a reader gives."""
        return TrainingSet(self, self.images, str(self.about["file"]))

    def record(self, index: int) -> QueryRecord:
        """Return a record.

        Raises:
            InputError: if its file is damaged.
        """
        part = bisect_right(self._ends, index)
        batch, row = divmod(index - (self._ends[part - 1] if part else 0), ROWS)
        key = part << 32 | batch
        if key not in self._rows:
            self._rows[key] = Row(self._files[part].batch(batch), str(self.about["file"]))
        return self._rows[key].record(row, self.images.numbered)

    def column(self, field: str) -> GroupColumn:
        """Return the numbers of images of ``reference`` or ``target``, or of the groups of ``image_set``."""
        if field not in self._columns:
            columns = [batch.column(field).cast("int64") for file in self._files for batch in file.batches()]
            values = np.concatenate([column.fill_null(0).to_numpy() for column in columns])
            valid = np.concatenate([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])
            numbers = np.full(len(values), NONE, np.int32)
            numbers[valid] = np.unique(values[valid], return_inverse=True)[1]
            self._columns[field] = GroupColumn(numbers)
        return self._columns[field]

    def needed_images(self) -> ImageNames:
        """Return the names of all images."""
        return ImageNames(self.images)

    def filled(self, field: str) -> int:
        """Return how many records have something in a field."""
        return int(self.about["filled"][field])

    def _read_about(self) -> dict[str, Any]:
        about = read_json(self.folder / ABOUT)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            problem = f"is no complete table of records of format {FORMAT}; delete it, and it is made again"
            raise InputError(problem, file=self.folder, setting=SETTING)
        return about
