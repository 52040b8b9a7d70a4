"""Arrow files that are written whole and read a batch at a time, each batch compared with its checksum once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextcir.errors import InputError
from contextcir.files import ordinary_file, whole_file
from data_modules.arrow.layout import ROWS, SETTING, arrow, checksum

if TYPE_CHECKING:
    import pyarrow


def write_table(path: Path, table: "pyarrow.Table") -> dict[str, Any]:
    """Write a table, complete or not at all, and return what `ArrowFile` compares it with.

    Raises:
        InputError: if something else than a file lies there.
        OSError: if the disk is full.
    """
    pa = arrow()
    with whole_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=ROWS)
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        checksums = [checksum(reader.get_batch(number)) for number in range(reader.num_record_batches)]
        return {"rows": table.num_rows, "size": source.size(), "checksums": checksums}


class ArrowFile:
    """The batches of a file in memory that the system shares among processes, opened when the first one is taken.

    Args:
        path: of the file.
        about: what `write_table` returned.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self._reader: Any = None
        self._batches: dict[int, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrowFile, (self.path, self.about)  # maps can't be pickled

    def check(self) -> None:
        """Raise InputError unless the file is there and has its size: reading behind its end would end the process."""
        size = ordinary_file(self.path, SETTING).stat().st_size
        if size != self.about["size"]:
            raise self._damaged(f"expected {self.about['size']:,} bytes, found {size:,}")

    def batch(self, number: int) -> "pyarrow.RecordBatch":
        """Return a batch of at most `ROWS` rows.

        Raises:
            InputError: if it is damaged.
        """
        if number not in self._batches:
            pa = arrow()
            try:
                if self._reader is None:
                    self.check()
                    # one thread: a process that is forked has no others
                    options = pa.ipc.IpcReadOptions(use_threads=False)
                    self._reader = pa.ipc.open_file(pa.memory_map(str(self.path)), options=options)
                batch = self._reader.get_batch(number)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, InputError):
                    raise
                raise self._damaged(" ".join(str(error).split())[:120]) from None
            if checksum(batch) != self.about["checksums"][number]:
                raise self._damaged(f"the checksum of records {number * ROWS:,} and on differs")
            self._batches[number] = batch
        return self._batches[number]

    def batches(self) -> "list[pyarrow.RecordBatch]":
        """Return all batches."""
        return [self.batch(number) for number in range(len(self.about["checksums"]))]

    def _damaged(self, problem: str) -> InputError:
        told = f"damaged: {problem}; delete its folder, and it is made again"
        return InputError(told, file=self.path, setting=SETTING)
