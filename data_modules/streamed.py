"""Training sets of many millions of triplets, turned into manifests line by line: MegaPairs."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from contextcir.checks import one_of, whole
from contextcir.errors import InputError, MissingFileError
from contextcir.files import ordinary_file, parse_json, whole_file
from data_modules.converters import Texts
from data_modules.reading.annotations import ImagePath, Record, RecordError, field_problems
from data_modules.reading.reader import user_path
from data_modules.reading.tables import read_parquet

ENDINGS = (".jsonl", ".parquet")
WORDINGS = ("first", "separate")


class MegaPairsRecord(Record):
    """A triplet of MegaPairs: several texts, any one of which is right, and hard negatives."""

    q_img: ImagePath
    q_text: Texts
    t_img: ImagePath
    hns: list[ImagePath] | None = None


class MegaPairsConverter:
    """MegaPairs (26 million triplets): rows with ``q_img``, ``q_text``, ``t_img`` and ``hns``, to JSON lines.

    The fields are those of the README of VectorSpaceLab/MegaPairs (commit ad99aca); the files are those of the data set
    JUNJIE99/MegaPairs, in JSON lines or Parquet (extra ``parquet``). ``hns`` become the manifest's ``negatives``; the
    query image, which the README puts first among them, is left out, as a reference is a negative in any case. Nothing
    but the row at hand is in memory.

    Args:
        root: a file, or a folder whose files of this kind are read in the order of their names.
        texts: the first of a pair's texts, or one triplet for each, separate.
        most: triplets to write, at most; null for all.
        negatives: hard negatives of a triplet to keep, at most, the first of the list; the authors train with four.
    """

    def __init__(
        self,
        root: str | Path,
        texts: Literal["first", "separate"] = "first",
        most: int | None = None,
        negatives: int = 16,
    ) -> None:
        self.root = user_path(root, "data.root")
        self.texts = one_of(texts, WORDINGS, "texts")
        self.most = None if most is None else whole(most, 1, "most")
        self.negatives = whole(negatives, 0, "negatives", most=1000)
        self.broken: Counter[str] = Counter()

    def find_files(self) -> list[Path]:
        """Return the files to read.

        Raises:
            MissingFileError: if there are none.
        """
        found = [self.root] if self.root.is_file() else []
        if self.root.is_dir():
            found = sorted(path for path in self.root.iterdir() if path.suffix in ENDINGS)
        if not found:
            problem = f"no file {self.root}, and none ending in {' or '.join(ENDINGS)} in such a folder"
            raise MissingFileError(problem, setting="data.root")
        return found

    def triplets(self, skip_broken: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the records of the manifest; those that are left out are counted in ``broken``, by reason.

        Raises:
            InputError: if a file can't be read, or a record is broken and not skipped.
        """
        written = 0
        for path in self.find_files():
            for position, row in enumerate(self._rows(path)):
                try:
                    record = MegaPairsRecord.model_validate(row)
                    if record.q_img == record.t_img:
                        raise RecordError("is the query image itself", field="t_img")
                except (ValidationError, RecordError) as error:
                    self._reject(error, path, position, skip_broken)
                    continue
                for text in record.q_text[: 1 if self.texts == "first" else None]:
                    if written == self.most:
                        return
                    yield self._triplet(record, text)
                    written += 1
        if not written:
            example = f": {next(iter(self.broken))}" if self.broken else ""
            raise InputError(f"none of its records can be converted{example}", file=self.root, setting="data.root")

    def _triplet(self, record: MegaPairsRecord, text: str) -> dict[str, Any]:
        hard = [name for name in dict.fromkeys(record.hns or ()) if name not in (record.q_img, record.t_img)]
        triplet: dict[str, Any] = {"reference": record.q_img, "target": record.t_img, "caption": text}
        return triplet | ({"negatives": hard[: self.negatives]} if hard[: self.negatives] else {})

    def _rows(self, path: Path) -> Iterator[Any]:
        if path.suffix == ".parquet":
            yield from read_parquet(path, list(MegaPairsRecord.model_fields))
            return
        ordinary_file(path, "data.root")
        with open(path, encoding="utf-8") as file:
            try:
                for line in file:
                    if line.strip():
                        yield parse_json(line, path)
            except UnicodeDecodeError as error:
                raise InputError(f"expected text in UTF-8 ({error.reason})", file=path, setting="data.root") from None

    def _reject(self, error: ValidationError | RecordError, path: Path, position: int, skip: bool) -> None:
        if isinstance(error, RecordError):
            field, problem = error.field or "", error.problem
        else:
            field, found = next(iter(field_problems(error)))
            problem = str(found) if not skip else found.rule
        name = field if not skip else field.partition(".")[0]
        if not skip:
            raise InputError(
                f"{problem}: correct it, or leave such records out",
                file=path, record=position, field=name or None, setting="skip_broken",
            )  # fmt: skip
        self.broken[f"field {name} {problem}"] += 1

    def write(self, out: Path, skip_broken: bool = False) -> int:
        """Write the manifest, complete or not at all, and return its number of triplets.

        Raises:
            InputError: as of `triplets`, or if the name does not end in ``.jsonl``.
        """
        if out.suffix != ".jsonl":
            raise InputError("the name of this file must end in .jsonl", file=out, setting="out")
        if out.exists() and any(os.path.samefile(out, path) for path in self.find_files()):
            raise InputError("is another file of this command: expected a new name", file=out, setting="out")
        count = 0
        with whole_file(out) as file:
            for triplet in self.triplets(skip_broken):
                file.write(json.dumps(triplet, ensure_ascii=False).encode() + b"\n")
                count += 1
        return count
