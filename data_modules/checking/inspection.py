"""Is a benchmark complete? Its annotations and images against the official numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.errors import InputError, MissingFileError, one_line
from data_modules.checking.images import Watch, find_damaged, find_duplicates, list_files, unwatched
from data_modules.loading.images import ImageStore, label
from data_modules.readers import READERS
from data_modules.reading.reader import BenchmarkReader
from data_modules.records import Evaluation, TrainingSet

LONGEST = 2000  # characters of a message: long enough for all folders that were looked into


class Problem(NamedTuple):
    """Something that is wrong. ``kind``: layout, file, record, count, missing, damaged or duplicate."""

    kind: str
    split: str
    message: str


@dataclass
class Report:
    """The result of a check. ``counts`` and ``expected``: number of queries, gallery images and so on, by split.

    ``images``: how many image files there are. ``decoded``: whether all of them were read to their end.
    ``name_setting``: how an error writes the argument to change.
    """

    benchmark: str
    root: str
    decoded: bool
    name_setting: Callable[[str], str] = str
    images: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    expected: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _broken: set[tuple[str, str | None, int | None]] = field(default_factory=set)  # split, file and position
    _record_messages: set[str] = field(default_factory=set)

    def add(self, kind: str, message: object, split: str = "") -> None:
        """Put a problem on the list."""
        self.problems.append(Problem(kind, split, one_line(str(message), LONGEST)))

    def add_error(self, error: InputError, kind: str, split: str = "") -> None:
        """Put an error of a reader on the list; a broken record of a file that several splits share only once."""
        moved = error
        for name in ("root", "split", "file", "allow_links"):
            moved = moved.relocate(f"data.{name}", name)
        message = moved.describe(self.name_setting)
        if kind == "record":
            self._broken.add((split, error.file, error.record))
            if message in self._record_messages:
                return
            self._record_messages.add(message)
        self.add(kind, message, split)

    def broken_records(self, split: str) -> int:
        """Return how many records of a split have a problem."""
        return sum(broken_split == split for broken_split, _, _ in self._broken)

    def of_kind(self, kind: str) -> list[Problem]:
        """Return the problems of one kind."""
        return [problem for problem in self.problems if problem.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "benchmark": self.benchmark,
            "root": self.root,
            "ok": not self.problems,
            "images": self.images,
            "decoded": self.decoded,
            "splits": {
                split: {"found": counts, "expected": self.expected.get(split, {})}
                for split, counts in self.counts.items()
            },
            "problems": [problem._asdict() for problem in self.problems],
        }


def inspect(
    benchmark: str,
    root: str | Path,
    splits: Sequence[str] = (),
    decode: bool = True,
    workers: int = 1,
    watch: Watch = unwatched,
    name_setting: Callable[[str], str] = str,
    allow_links: bool = False,
    **options: Any,
) -> Report:
    """Read a benchmark as training and evaluation would, and list everything that is wrong with it.

    Args:
        benchmark: one of `READERS`.
        root: its folder.
        splits: which ones; none for all.
        decode: load every image to its end; without it only their existence and sizes are looked at, and of files of
            equal size the bytes.
        workers: processes that read images.
        watch: shows the progress.
        name_setting: how an error writes the argument to change, e.g. ``root``.
        allow_links: links may lead out of the folder.
        options: further arguments of the reader.
    """
    report = Report(benchmark, str(root), decode, name_setting)
    try:
        reader = READERS[benchmark](root, **options)
        reader.allow_links = allow_links
        reader.check_root()
    except InputError as error:
        report.add_error(error, "layout")
        return report
    chosen = list(dict.fromkeys(splits)) or _list_splits(reader, report)
    expected = reader.expected_counts()
    stores: dict[str, ImageStore] = {}
    for split in chosen:
        read = _read_split(reader, split, report)
        if read is not None:
            report.counts[split] = counts(read)
            report.expected[split] = dict(expected.get(split, {}))
            _compare(report, split)
            try:
                store = reader.find_images(split, read.image_paths)
                store.states(store.names)
                stores[split] = store
            except InputError as error:  # none are found, a path or link leads out, a folder can't be read
                report.add_error(error, "layout", split)
    total = sum(numbers.get("triplets", 0) + numbers.get("queries", 0) for numbers in report.counts.values())
    if reader.total is not None and set(report.counts) == set(reader.expected) and total != reader.total:
        message = f"expected {reader.total:,} triplets and queries in {', '.join(chosen)}, found {total:,}"
        report.add("count", message)
    _inspect_images(report, stores, workers, watch)
    return report


def _list_splits(reader: BenchmarkReader, report: Report) -> list[str]:
    reader.report = lambda error: report.add_error(error, "record")
    try:
        return reader.list_splits()
    except (ValueError, OSError) as error:
        _add_failure(report, error, "")
        return []


def _read_split(reader: BenchmarkReader, split: str, report: Report) -> TrainingSet | Evaluation | None:
    """Return the valid records of a split, None if its files can't be used; all problems go to the report."""
    reader.report = lambda error: report.add_error(error, "record", split)
    try:
        if split in reader.training_splits:
            return reader.read_training(split)
        return reader.read_evaluation(split)
    except (ValueError, OSError) as error:
        _add_failure(report, error, split)
        return None


def _add_failure(report: Report, error: Exception, split: str) -> None:
    if isinstance(error, InputError):
        report.add_error(error, "layout" if isinstance(error, MissingFileError) else "file", split)
    else:
        report.add("file", error, split)


def counts(read: TrainingSet | Evaluation) -> dict[str, int]:
    """Return what can be counted before any image is looked at."""
    if isinstance(read, TrainingSet):
        return {"triplets": len(read.records), "images": len(read.image_paths)}
    return {"queries": len(read.protocol.query_ids), "gallery": len(read.protocol.gallery)}


def _compare(report: Report, split: str) -> None:
    """Put numbers that differ from the official ones on the list; broken records, which are on it, count as present."""
    broken = report.broken_records(split)
    for what, number in report.expected[split].items():
        count = report.counts[split][what]
        if count != number and not (what in ("triplets", "queries") and count + broken == number):
            report.add("count", f"expected {number:,} {what}, found {count:,}", split)


def _inspect_images(report: Report, stores: Mapping[str, ImageStore], workers: int, watch: Watch) -> None:
    present, missing = list_files(stores)
    sizes = {file.path: file.size for file in present}
    report.images = len(sizes)
    split_of = {file.path: file.store for file in reversed(present)}
    for file in missing:
        report.add("missing", f"image {label(file.name)}: {stores[file.store].complaint(file.name)}", file.store)
    for file in present:
        if file.size == 0:
            report.add("damaged", f"image {label(file.name)}: {file.path} is empty", file.store)
    if report.decoded:
        full = [file for file in present if file.size]
        for file, complaint in find_damaged(stores, full, workers, watch).items():
            report.add("damaged", complaint, file.store)
    paths = [path for path, size in sizes.items() if size]
    for group in find_duplicates(paths, sizes, workers, watch):
        report.add("duplicate", f"the same bytes: {' = '.join(map(str, group))}", split_of[group[0]])
