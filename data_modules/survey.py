"""Reading annotation files again and again, around records that are broken, until all of these are known."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

Read = TypeVar("Read")
Complain = Callable[[str, object], None]  # takes the kind of a problem and what it is

# How an annotation reader names a record that it can't use.
RECORD = re.compile(r"record (\d+)(?: \(\w+ -?\d+\))? of (.+?): field ")
MOST = 10_000  # broken records that are listed
PIECE = 1000  # records that are read once more for each broken one among them


class Survey:
    """What a check knows of the annotation files while it reads them; they are parsed once.

    ``aside``: positions of broken records by file, which readers do not get to see. ``sizes``: number of records by
    file. ``window``: a file and some of its positions; if there is one, readers see only the first good record of every
    file, which others are compared with, and these.
    """

    def __init__(self) -> None:
        self.aside: dict[str, set[int]] = {}
        self.sizes: dict[str, int] = {}
        self.window: tuple[str, range] | None = None
        self._parsed: dict[Path, Any] = {}

    def parse(self, path: Path, load: Callable[[], Any]) -> Any:
        """Return the content of a file, by ``load`` the first time."""
        if path not in self._parsed:
            self._parsed[path] = load()
        return self._parsed[path]

    def choose(self, path: Path, size: int) -> Sequence[int]:
        """Return the positions, of ``size`` in the file, that a reader gets to see."""
        file = str(path)
        aside = self.aside.get(file, set())
        self.sizes[file] = size
        if self.window is None:
            return [position for position in range(size) if position not in aside]
        first = next((position for position in range(size) if position not in aside), size)
        shown = self.window[1] if self.window[0] == file else range(0)
        return [*range(first, min(first + 1, size)), *(p for p in shown if p > first and p not in aside)]


_active: ContextVar[Survey | None] = ContextVar("survey", default=None)


def active_survey() -> Survey | None:
    """Return the survey that is going on, None outside of any."""
    return _active.get()


@contextmanager
def surveying() -> Iterator[Survey]:
    """Let all annotation files that are read inside be read through one survey."""
    survey = Survey()
    token = _active.set(survey)
    try:
        yield survey
    finally:
        _active.reset(token)


def read_around(read: Callable[[], Read], complain: Complain) -> Read | None:
    """Return what ``read`` makes of the good records of annotation files, None if it can't make anything of them.

    Args:
        read: reads the files by `AnnotationFile`.
        complain: is told every problem: of kind ``record``, of kind ``layout`` if a file is missing, or else ``file``.
    """
    swept: set[str] = set()
    with surveying() as survey:
        while True:
            try:
                return read()
            except FileNotFoundError as error:
                complain("layout", error)
                return None
            except ValueError as error:
                file = _set_aside(error, survey, complain)
                if file is None:
                    complain("file", error)
                    return None
            if file not in swept:  # where one record is broken, others are
                swept.add(file)
                _sweep(read, file, survey, complain)
            if _count(survey) >= MOST:
                complain("file", f"{MOST:,} records are broken: the others were not looked at")
                return None


def _sweep(read: Callable[[], object], file: str, survey: Survey, complain: Complain) -> None:
    """Find what is broken in a file piece by piece, so that each broken record costs reading a piece, not the file."""
    size = survey.sizes.get(file, 0)
    for start in range(0, size, PIECE):
        survey.window = (file, range(start, min(start + PIECE, size)))
        while _count(survey) < MOST:
            try:
                read()
                break
            except (ValueError, FileNotFoundError) as error:
                if _set_aside(error, survey, complain) is None:
                    break  # due to the piece; or it is met again when the whole file is read
    survey.window = None


def _set_aside(error: Exception, survey: Survey, complain: Complain) -> str | None:
    """Put aside the record that an error names, and return its file; None if it names none, or one put aside before."""
    record = RECORD.match(str(error))
    if record is None or int(record[1]) in survey.aside.setdefault(record[2], set()):
        return None
    complain("record", error)
    survey.aside[record[2]].add(int(record[1]))
    return record[2]


def _count(survey: Survey) -> int:
    return sum(map(len, survey.aside.values()))
