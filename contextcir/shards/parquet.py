"""Parquet files as shards of images: a column with their bytes, as Hugging Face's datasets and image crawls have it."""

from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import Any

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.shards.index import Format, Member
from contextcir.shards.places import StoredFile


class Parquet(Format):
    """Files with a column of image bytes, or of structures with ``bytes`` and ``path``.

    A row can only be read with its row group: those that were read last are kept, and what asks in the order of the
    files is read once.

    Args:
        column: of the images.
        names: column of their names; None for the number of the row, from 0, and the suffix .image.
        groups: row groups that are kept in memory.
    """

    suffix = ".parquet"

    def __init__(self, column: str = "image", names: str | None = None, groups: int = 4) -> None:
        self.identity = f"parquet {names}"
        self.column = column
        self.names = names
        self.groups = whole(groups, 1, "images.groups")
        self._read: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = Lock()

    def members(self, file: StoredFile) -> Iterator[Member]:
        """Yield the rows of a file; the names alone are read."""
        with file.open() as opened:
            table = _opened(opened, file)
            self._check(table.schema_arrow.names, file)
            row = 0
            for group in range(table.num_row_groups):
                for place, name in enumerate(self._names(table, group)):
                    yield Member(f"{row:09d}.image" if name is None else str(name), group, place)
                    row += 1

    def read(self, file: StoredFile, start: int, size: int) -> bytes:
        """Return the image in row ``size`` of the row group ``start``."""
        key = (file.address, start)
        with self._lock:  # one thread reads a group, the others wait for it
            if key not in self._read:
                with file.open() as opened:
                    self._read[key] = _opened(opened, file).read_row_group(start, [self.column]).column(0)
                while len(self._read) > self.groups:
                    self._read.popitem(last=False)
            self._read.move_to_end(key)
            value = self._read[key][size].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            problem = f"row {size} of row group {start} holds no bytes, but {shown(content)}"
            raise InputError(problem, file=file.address, setting=file.setting)
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {"column": self.column, "names": self.names, "groups": self.groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _names(self, table: Any, group: int) -> list[Any]:
        if self.names is None:
            return [None] * table.metadata.row_group(group).num_rows
        return table.read_row_group(group, [self.names]).column(0).to_pylist()

    def _check(self, columns: list[str], file: StoredFile) -> None:
        for name, setting in ((self.column, "images.column"), (self.names, "images.names")):
            if name is not None and name not in columns:
                listed = ", ".join(columns[:12])
                problem = f"has no column {shown(name)}, only {listed}"
                raise InputError(problem, file=file.address, setting=setting)


def _opened(opened: Any, file: StoredFile) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet  # of the extra `parquet`
    except ImportError:
        problem = "Parquet files need the extra `parquet`: pip install -e '.[parquet]'"
        raise InputError(problem, setting=file.setting) from None
    try:
        return pyarrow.parquet.ParquetFile(opened)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"no Parquet file: {reason}", file=file.address, setting=file.setting) from None
