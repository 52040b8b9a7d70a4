"""Turns the records of a stream into a table, part by part: what a kill finds complete is not made again.

A part is an Arrow file and a JSON file beside it, written after it; ``about.json``, written last, makes the folder a
table. Files take their names when they are on disk, so whatever has a name is whole.
"""

import hashlib
import json
from array import array
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from contextcir.checks import whole
from contextcir.errors import InputError
from contextcir.files import one_writer, read_json, write_json, writing
from data_modules.arrow.files import ArrowFile, write_table
from data_modules.arrow.images import write_images
from data_modules.arrow.layout import FORMAT, SETTING, arrow, record_schema, row_of
from data_modules.arrow.stream import RecordStream
from data_modules.arrow.table import ABOUT, RecordTable, part_name
from data_modules.columns import FIELDS
from data_modules.records import QueryRecord

PART = 262_144  # records of a part, at least: some 3 s of work that a kill may cost
PATIENCE = 6 * 3600.0  # seconds for which the other ranks wait for the one that converts


class TableWriter:
    """Writes a table of records into a folder, or what is left of it.

    Args:
        folder: of the table.
        part: records of a part, at least.
    """

    def __init__(self, folder: Path, part: int = PART) -> None:
        self.folder = folder
        self.part = whole(part, 1, SETTING)
        self._codes: dict[str, int] = {}
        self._listed = 0  # images that complete parts name
        self._pairs = array("I")  # reference and target of every record
        self._parts: list[dict[str, Any]] = []

    def write(self, stream: RecordStream) -> RecordTable:
        """Return the table of a stream's records, of which other processes may write the same: the first one does.

        Raises:
            InputError: if a record is wrong, an id is there twice, or nothing can be written.
        """
        with writing(self.folder, SETTING), one_writer(self.folder, "converts records", patience=PATIENCE):
            if not (self.folder / ABOUT).exists():
                for left in self.folder.glob("*.new"):  # of a process that was killed while it wrote
                    left.unlink()
                self._restore()
                self._add(stream)
                self._finish(stream)
        return RecordTable(self.folder)

    def _restore(self) -> None:
        """Go on from the parts that are complete."""
        while (about := read_json(self._beside(len(self._parts)))) is not None:
            number = len(self._parts)
            for name in about["images"]:
                self._codes[name] = len(self._codes)
            batches = ArrowFile(self.folder / part_name(number), about["file"]).batches()
            for batch in batches:
                both = [batch.column(field).to_numpy(zero_copy_only=False) for field in ("reference", "target")]
                self._pairs.frombytes(np.stack(both, 1).astype(np.uint32).tobytes())
            self._parts.append(about)
        self._listed = len(self._codes)

    def _add(self, stream: RecordStream) -> None:
        rows: list[tuple[Any, ...]] = []
        state = self._parts[-1]["state"] if self._parts else None
        for block, reached in stream.read(state):
            rows += [self._row(record) for record in block]
            state = reached
            if len(rows) >= self.part:
                self._write_part(rows, state)
                rows = []
        if rows:
            self._write_part(rows, state)

    def _row(self, record: QueryRecord) -> tuple[Any, ...]:
        row = row_of(record, self._code)
        if row[1] is None:
            raise record.origin.error("has no target to train on", "target")
        self._pairs.extend(row[:2])
        return row

    def _code(self, name: str) -> int:
        return self._codes.setdefault(name, len(self._codes))

    def _write_part(self, rows: list[tuple[Any, ...]], state: Any) -> None:
        pa, schema, number = arrow(), record_schema(), len(self._parts)
        columns = [list(column) for column in zip(*rows, strict=True)]
        images = list(islice(self._codes, self._listed, None))
        told = json.dumps([columns, images]).encode()
        kinds = [
            field.type if any(v not in (None, []) for v in c) else pa.null()
            for c, field in zip(columns, schema, strict=True)
        ]
        # columns of nothing but nothing take no room, a third of a table of plain triplets
        arrays = [
            pa.nulls(len(column)) if kind == pa.null() else pa.array(column, kind)
            for column, kind in zip(columns, kinds, strict=True)
        ]
        about = {
            "file": write_table(self.folder / part_name(number), pa.table(arrays, names=schema.names)),
            "state": state,
            "images": images,
            "digest": hashlib.sha256(told).hexdigest(),
            "filled": {name: sum(map(bool, columns[schema.names.index(name)])) for name in FIELDS},
        }
        write_json(self._beside(number), about, indent=None)
        self._parts.append(about)
        self._listed = len(self._codes)

    def _finish(self, stream: RecordStream) -> None:
        files = [ArrowFile(self.folder / part_name(n), part["file"]) for n, part in enumerate(self._parts)]
        self._check_ids(files, stream.file)
        used, first = np.unique(np.frombuffer(self._pairs, np.uint32), return_index=True)
        others = np.setdiff1d(np.arange(len(self._codes), dtype=np.uint32), used)  # named as hard negatives alone
        order = np.concatenate([used[np.argsort(first)], others])
        filled: Counter[str] = Counter()
        for part in self._parts:
            filled.update(part["filled"])
        about = {
            "format": FORMAT,
            "file": stream.file,
            "records": len(self._pairs) // 2,
            "digest": hashlib.sha256("".join(part["digest"] for part in self._parts).encode()).hexdigest(),
            "filled": dict(filled),
            "parts": [part["file"] for part in self._parts],
            "images": write_images(self.folder, list(self._codes), stream.paths, order),
        }
        write_json(self.folder / ABOUT, about, indent=None)
        for number in range(len(self._parts)):
            self._beside(number).unlink()

    def _check_ids(self, files: list[ArrowFile], name: str) -> None:
        ids = np.concatenate([batch.column("id").to_numpy() for file in files for batch in file.batches()])
        order = np.argsort(ids, kind="stable")
        (twice,) = np.nonzero(np.diff(ids[order]) == 0)
        if len(twice):
            places = np.concatenate([batch.column("position").to_numpy() for f in files for batch in f.batches()])
            first, second = places[order[twice[0]]], places[order[twice[0] + 1]]
            number = ids[order[twice[0]]]
            problem = f"is {number}, as in record {first}: every record needs its own"
            raise InputError(problem, file=name, record=int(second), identity=f"id {number}", field="id")

    def _beside(self, number: int) -> Path:
        return self.folder / f"{part_name(number)}.json"
