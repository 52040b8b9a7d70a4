"""How records stand in Arrow files: columns, checksums, and one record of a batch.

Arrow, and no format of this project: pandas, DuckDB, Polars and `datasets` open the files as they are, pyarrow checks
their structure, and strings and lists of any length need no code here. It is an optional extra (``parquet``, 50 MB to
download, 0.2 s to import), as sets that fit into memory are read without.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from contextcir.errors import InputError
from contextcir.phrases.parser import Span
from data_modules.records import Origin, PhraseRecord, QueryRecord

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
ROWS = 8192  # of a batch: what is compared with its checksum at once, when the first of its records is taken
SETTING = "data.records"
NAN = float("nan")


def arrow() -> Any:
    """Return pyarrow, with its module of files.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ModuleNotFoundError:
        problem = "records in Arrow need the extra parquet: `pip install contextcir[parquet]`, or take null"
        raise InputError(problem, setting=SETTING) from None
    return pyarrow


def record_schema() -> "pyarrow.Schema":
    """Return the columns of records; images are numbers, see `data_modules.arrow.images`."""
    pa = arrow()
    numbers = pa.list_(pa.int32())
    return pa.schema(
        [
            ("reference", pa.uint32()),
            ("target", pa.uint32()),
            ("caption", pa.string()),
            ("id", pa.int64()),
            ("image_set", pa.int64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("position", pa.int64()),
            ("identity", pa.string()),
            ("phrases", numbers),  # start and end of each
            ("boxes", pa.list_(pa.float64())),  # x0, y0, x1, y1 of each phrase, NaN for none; [] if no phrase has one
            ("clauses", numbers),  # start and end of each
            ("negatives", pa.list_(pa.uint32())),
        ]
    )


def row_of(record: QueryRecord, code: Callable[[str], int]) -> tuple[Any, ...]:
    """Return the values of a record by the columns of `record_schema`; ``code``: returns the number of an image.

    Raises:
        InputError: if a number has more than 64 bits.
    """
    for field in ("id", "image_set"):
        if not -(2**63) <= (getattr(record, field) or 0) < 2**63:
            raise record.origin.error("has more than 64 bits, which no record in Arrow holds", field, SETTING)
    width, height = record.image_size or (None, None)
    boxed = any(phrase.box is not None for phrase in record.phrases)
    return (
        code(record.reference),
        None if record.target is None else code(record.target),
        record.caption,
        record.id,
        record.image_set,
        width,
        height,
        record.origin.position,
        record.origin.identity,
        [place for phrase in record.phrases for place in (phrase.start, phrase.end)],
        [value for phrase in record.phrases for value in phrase.box or (NAN,) * 4] if boxed else [],
        [place for clause in record.clauses for place in clause],
        [code(name) for name in record.negatives],
    )


class Texts:
    """A column of texts, each decoded when it is taken.

    Args:
        column: of strings, the first of its buffers' rows.
    """

    def __init__(self, column: "pyarrow.Array") -> None:
        kind = np.int64 if str(column.type).startswith("large") else np.int32
        self._valid = column if column.null_count else None
        self._none = column.null_count == len(column)
        _, ends, data = column.buffers()
        self._ends = np.frombuffer(ends, kind)
        self._data = memoryview(data or b"")

    def item(self, row: int) -> str | None:
        """Return a text, None where there is none."""
        if self._none or (self._valid is not None and not self._valid[row].is_valid):
            return None
        return str(self._data[self._ends.item(row) : self._ends.item(row + 1)], "utf-8")


class Numbers:
    """A column of numbers."""

    def __init__(self, column: "pyarrow.Array") -> None:
        self._valid = column if column.null_count else None
        self._none = column.null_count == len(column)
        self._values = np.frombuffer(column.buffers()[1], column.type.to_pandas_dtype())

    def item(self, row: int) -> int | None:
        """Return a number, None where there is none."""
        if self._none or (self._valid is not None and not self._valid[row].is_valid):
            return None
        return self._values.item(row)


class Lists:
    """A column of lists of numbers, none of which is missing."""

    def __init__(self, column: "pyarrow.ListArray") -> None:
        self._ends = np.frombuffer(column.buffers()[1], np.int32)
        self._values = column.values.to_numpy()

    def item(self, row: int) -> list:
        """Return a list."""
        if not len(self._values):
            return []
        return self._values[self._ends.item(row) : self._ends.item(row + 1)].tolist()


class Nothing:
    """A column in which no record of a part has anything."""

    def item(self, row: int) -> None:
        """Return None."""


class Row:
    """Makes records of the rows of one batch.

    Buffers are read directly: Arrow's own values cost a record five times as much.

    Args:
        batch: with the columns of `record_schema`.
        file: what the origin of each record names.
    """

    def __init__(self, batch: "pyarrow.RecordBatch", file: str) -> None:
        self.batch, self.file = batch, file
        self._columns = [_column(column) for column in batch.columns]

    def record(self, row: int, name: Callable[[int], str]) -> QueryRecord:
        """Return a record; ``name``: returns the name of an image by its number."""
        reference, target, caption, key, group, width, height, position, identity, spans, boxes, clauses, hard = (
            column.item(row) for column in self._columns
        )
        return QueryRecord(
            reference=name(reference),
            caption=caption,
            phrases=_phrases(spans, boxes) if spans else (),
            target=None if target is None else name(target),
            id=key,
            image_set=group,
            image_size=None if width is None else (width, height),
            origin=Origin(self.file, position, identity),
            clauses=tuple(map(Span, clauses[::2], clauses[1::2])) if clauses else (),
            negatives=tuple(map(name, hard)) if hard else (),
        )


def _column(column: Any) -> Any:
    kind = str(column.type)
    if kind == "null":
        return Nothing()
    return Lists(column) if kind.startswith("list") else Texts(column) if "string" in kind else Numbers(column)


def _phrases(spans: Sequence[int], boxes: Sequence[float] | None) -> tuple[PhraseRecord, ...]:
    found = []
    for number, (start, end) in enumerate(zip(spans[::2], spans[1::2], strict=True)):
        box = tuple(boxes[4 * number : 4 * number + 4]) if boxes else (NAN,)
        found.append(PhraseRecord(start, end, None if box[0] != box[0] else box))  # type: ignore[arg-type]
    return tuple(found)


def checksum(batch: "pyarrow.RecordBatch") -> int:
    """Return the CRC-32 of all that a batch holds."""
    value = zlib.crc32(str(batch.num_rows).encode())
    for column in batch.columns:
        for buffer in column.buffers():
            value = zlib.crc32(b"-" if buffer is None else buffer, value)
    return value
