"""A manifest in JSON lines, read and checked some lines at a time: nothing but these is in memory."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file, parse_json
from data_modules.arrow.stream import BLOCK, RecordStream
from data_modules.reading.annotations import AnnotationFile, Problem, Report
from data_modules.reading.manifest_records import ManifestEntry, ManifestRecord, query_of
from data_modules.records import QueryRecord

BOM = b"\xef\xbb\xbf"


def entries_of(path: Path, listed: dict[int, Any], numbered: bool, report: Report) -> AnnotationFile[ManifestEntry]:
    """Return what says where records belong; either all have an ``id`` of their own, or none has one.

    Args:
        path: of the manifest.
        listed: some of its records, by their position.
        numbered: whether the first record of the manifest has an id.
        report: receives every error.
    """
    entries = AnnotationFile(path, ManifestEntry, "id", report=report, listed=listed)
    if numbered:
        entries.require("id", lambda entry: entry.id, "")
    for position, entry in () if numbered else entries.items():
        if entry.id is not None:
            why = "is given, but other records have none: number all of them, or none"
            entries.reject(position, "id", Problem(why))
    return entries


def is_numbered(entry: Any) -> bool:
    """Tell whether the first entry of a manifest has an id, so that all must have one."""
    return isinstance(entry, dict) and entry.get("id") is not None


class ManifestLines(RecordStream):
    """The training triplets of a split of a manifest in JSON lines, with the checks and errors of `ManifestReader`.

    The first error in the order of the file is raised. Ids that are there twice are found when a table is complete.

    Args:
        path: of the manifest.
        split: which triplets, if records name splits.
        report: receives every error.
        setting: by which the file was found.
    """

    def __init__(self, path: Path, split: str, report: Report, setting: str) -> None:
        self.path, self.split, self.report, self.setting = path, split, report, setting
        self.file = str(path)

    @staticmethod
    def fits(path: Path) -> bool:
        """Tell whether a file is one of JSON lines, by its name and its first character."""
        if path.suffix != ".jsonl":
            return False
        with ordinary_file(path).open("rb") as file:
            return file.read(4096).removeprefix(BOM).lstrip()[:1] != b"["

    def read(self, state: Any = None) -> Iterator[tuple[list[QueryRecord], Any]]:
        state = dict(state) if state else {"byte": 0, "line": 0, "record": 0, "chosen": 0}
        with ordinary_file(self.path, self.setting).open("rb") as file:
            file.seek(state["byte"])
            while listed := self._listed(file, state):
                records = self._chosen(listed, state)
                state["chosen"] += len(records)
                state["byte"] = file.tell()
                if records:
                    yield records, dict(state)
        if not state["record"]:
            raise InputError("holds no records", file=self.path)
        if not state["chosen"]:
            raise InputError(f"no record has split {shown(self.split)}", file=self.path, setting="data.split")

    def _listed(self, file: BinaryIO, state: dict[str, Any]) -> dict[int, Any]:
        """Return the next records by their position."""
        listed: dict[int, Any] = {}
        while len(listed) < BLOCK and (lines := list(islice(iter(file.readline, b""), BLOCK - len(listed)))):
            for line in lines:
                state["line"] += 1
                text = self._text(line.removeprefix(BOM) if state["line"] == 1 else line)
                if text.strip():
                    listed[state["record"]] = self._parsed(text, state["line"])
                    state["record"] += 1
        return listed

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            problem = f"expected text in UTF-8, found byte 0x{line[error.start]:02x} in a line"
            raise InputError(problem, file=self.path, setting=self.setting) from None

    def _parsed(self, text: str, line: int) -> Any:
        try:
            return parse_json(text)
        except InputError as error:
            problem = "not valid JSON" if error.problem.startswith("not valid JSON") else error.problem
            raise InputError(f"{problem} in line {line}", file=self.path) from None

    def _chosen(self, listed: dict[int, Any], state: dict[str, Any]) -> list[QueryRecord]:
        """Return the triplets of the split among some records."""
        first = next(iter(listed))
        numbered = state.setdefault("numbered", is_numbered(listed[first]))
        entries = entries_of(self.path, listed, numbered, self.report)
        for position, entry in entries.items():
            kind = "named" if entry.split else "unnamed"
            state.setdefault(kind, position)
        if "named" in state and "unnamed" in state:
            entries.reject(state["unnamed"], "split", Problem("is missing, but other records have it"))
        wanted = [position for position, entry in entries.items() if entry.split in (None, "", self.split)]
        if not wanted:
            return []
        of_split = {position: listed[position] for position in wanted}
        chosen = AnnotationFile(self.path, ManifestRecord, "id", report=self.report, listed=of_split)
        chosen.require("target", lambda record: record.target, ": there is nothing to train on")
        return list(chosen.build(query_of).values())
