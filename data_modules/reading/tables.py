"""Annotation files that are tables: comma-separated values without a header, and Parquet, some rows at a time."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, MissingFileError
from contextcir.files import ordinary_file, read_text

ROWS = 4096  # of Parquet that are converted at a time


def read_csv(path: Path, fields: Sequence[str], separator: str = ",", setting: str = "data.root") -> dict[int, Any]:
    """Return the rows of a table by their line, from 0, each as a record with these fields; blank lines do not count.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it can't be read, holds no rows, or one has another number of fields.
    """
    rows: dict[int, Any] = {}
    try:
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path, setting)), delimiter=separator)):
            if not "".join(row).strip():
                continue
            if len(row) != len(fields):
                problem = f"expected {len(fields)} fields ({', '.join(fields)}), got {len(row)}"
                raise InputError(problem, file=path, record=number, setting=setting)
            rows[number] = dict(zip(fields, row, strict=True))
    except csv.Error as error:
        raise InputError(f"is no table of comma-separated values ({error})", file=path, setting=setting) from None
    if not rows:
        raise InputError("holds no rows", file=path, setting=setting)
    return rows


def read_lines(path: Path, setting: str = "data.root") -> list[str]:
    """Return the lines of a text without blanks around them; blank lines do not count."""
    lines = [line.strip() for line in read_text(path, setting).split("\n")]
    return [line for line in lines if line]


def read_parquet(path: Path, fields: Sequence[str], setting: str = "data.root") -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with these fields where it has them. Needs the extra ``parquet``.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it can't be read.
        ModuleNotFoundError: without pyarrow.
    """
    import pyarrow
    import pyarrow.parquet

    ordinary_file(path, setting)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            known = [name for name in fields if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=ROWS, columns=known):
                yield from batch.to_pylist()
    except FileNotFoundError:
        raise MissingFileError(f"no file {path}", setting=setting) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problem = f"is no Parquet file that can be read ({' '.join(str(error).split())})"
        raise InputError(problem[:200], file=path, setting=setting) from None
