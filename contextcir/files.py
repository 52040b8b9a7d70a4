"""Files that are there whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def whole_array(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> Iterator[np.ndarray]:
    """Give an array on the disk to fill; it takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        array = np.lib.format.open_memmap(new, "w+", kind, shape)
        yield array
        array.flush()
        del array
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value."""
    with whole_file(path) as file:
        file.write(json.dumps(value, indent=1).encode())


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, None where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
