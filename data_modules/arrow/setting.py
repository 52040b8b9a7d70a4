"""Whether a run holds its training records in memory, or maps them from Arrow files, and where these are."""

import hashlib
import json
from pathlib import Path
from typing import Protocol

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file
from data_modules.arrow.layout import FORMAT, SETTING, arrow
from data_modules.arrow.stream import RecordStream
from data_modules.arrow.table import ABOUT, RecordTable
from data_modules.arrow.writer import PART, TableWriter
from data_modules.records import TrainingSet

AUTO = "auto"
FOLDER = ".contextcir-records"  # below the root of a benchmark, for `auto`
SMALL = 64_000_000  # bytes of annotations (some 400,000 triplets, 0.4 GB as Python's objects) that `auto` leaves as are


class Convertible(Protocol):
    """What is needed of a `BenchmarkReader`."""

    root: Path

    def read_training(self, split: str) -> TrainingSet: ...
    def training_files(self, split: str) -> list[Path]: ...
    def training_stream(self, split: str) -> RecordStream: ...


class RecordsSetting:
    """What a user says about training records in Arrow.

    Args:
        given: None to hold them in memory, ``auto`` for a folder beside the annotations if these are large, or a folder
            in which sets of any size are converted.
        small: bytes of annotations below which ``auto`` converts nothing.

    Raises:
        InputError: for anything else.
    """

    def __init__(self, given: str | None, small: int = SMALL) -> None:
        if given is not None and not (isinstance(given, str | Path) and str(given).strip()):
            raise InputError(f"expected null, auto or a folder, got {shown(given)}", setting=SETTING)
        self.given = None if given is None else str(given)
        self.small = small

    def training(self, reader: Convertible, split: str) -> TrainingSet:
        """Return the training set of a split, converted if it was not yet.

        Raises:
            InputError: as of `BenchmarkReader.read_training`, or if nothing can be written, or pyarrow is not there.
        """
        files = reader.training_files(split)
        size = sum(ordinary_file(file).stat().st_size for file in files)
        if self.given is None and size >= self.small:
            told = f"{SETTING} is null: each rank holds the records of {size / 1e6:,.0f} MB of annotations in memory"
            rank_zero_info(f"{told}, ten times that; auto keeps them in files that all processes share")
        if self.given is None or not files or (self.given == AUTO and size < self.small):
            return reader.read_training(split)
        arrow()  # before anything is written
        folder = reader.root / FOLDER if self.given == AUTO else Path(str(self.given))
        place = folder / table_key(files, split)
        if not (place / ABOUT).is_file():
            rank_zero_info(f"{SETTING}: converting {', '.join(map(str, files))} into {place}, once")
            TableWriter(place).write(reader.training_stream(split))
        return RecordTable(place).training_set()


def table_key(files: list[Path], split: str) -> str:
    """Return the name of the folder for a split of files as they are now."""
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([FORMAT, PART, split, states]).encode()).hexdigest()[:32]
