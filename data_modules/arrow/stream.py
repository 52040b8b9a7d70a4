"""Where the records of a table come from: a reader that gives them a block at a time, and can go on after a kill."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from data_modules.records import QueryRecord, TrainingSet

BLOCK = 4096  # records that are read and checked at once


class RecordStream(ABC):
    """The records of a training set, in order.

    Attributes: ``file``: where they come from, as in a `TrainingSet`. ``paths``: listed path of every image by name;
    None where a name is the path.
    """

    file: str
    paths: Mapping[str, str] | None = None

    @abstractmethod
    def read(self, state: Any = None) -> Iterator[tuple[list[QueryRecord], Any]]:
        """Yield blocks of records, each with the state, in JSON, from which reading goes on behind it.

        Args:
            state: of the last block that is known; None to begin.

        Raises:
            InputError: if a record is wrong, or there are none.
        """


class WholeStream(RecordStream):
    """The records of a training set that is in memory."""

    def __init__(self, training: TrainingSet) -> None:
        self.file, self.paths = training.file, training.image_paths
        self.records = training.records

    def read(self, state: Any = None) -> Iterator[tuple[list[QueryRecord], Any]]:
        start = state or 0
        records = islice(self.records, start, None)
        while block := list(islice(records, BLOCK)):
            start += len(block)
            yield block, start
