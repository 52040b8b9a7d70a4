"""i-CIR: composed retrieval of single objects, each in a database of its own (Psomas et al., NeurIPS 2025)."""

from pathlib import Path
from typing import ClassVar

from contextcir.errors import MissingFileError
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.query_groups import MeanOfGroups, WorstOfGroups
from contextcir.evaluation.whole_rankings import SubsetTrapezoidalPrecision
from data_modules.loading.folders import first_there
from data_modules.reading.annotations import AnnotationFile, ImagePath, PlainCaption, Problem, Record
from data_modules.reading.reader import BenchmarkReader, Counts, check_split, positions_of
from data_modules.reading.tables import read_csv
from data_modules.records import Evaluation, Origin, QueryRecord

FIELDS = ("image", "text", "instance")
SPLIT = "test"  # the only one
PRECISION = SubsetTrapezoidalPrecision()


class ICIRRow(Record):
    """A query, or an image of a database: with the text that it is a right answer to, and the object it belongs to."""

    image: ImagePath
    text: str
    instance: str


class ICIRReader(BenchmarkReader):
    """i-CIR, which has one split, here called test, and none to train on.

    Looks for ``query_files.csv`` and ``database_files.csv`` in ``root``, ``root/icir`` and the folders ``annotations``
    of both (the Hub's layout). Rows without a header are image path, text and instance: the class ``icir_dataset`` of
    ``utils_features.py`` in the authors' repository billpsomas/icir (commit 463cc1d) reads them so. Paths may begin
    with ``icir/``.

    Scored as by ``run_retrieval.py`` and ``utils.py`` there. A query is ranked in the database of its own instance; a
    row of it is a right answer if its text is that of the query, too. ``subset_average_precision`` is their mAP, by the
    trapezoidal rule over the whole ranking; ``..._by_group`` their mmAP (the mean of the means of the instances), and
    ``..._worst`` their minmAP. A file that several rows of a database name is an image of each of them, as there.
    """

    benchmark = "icir"
    expected: ClassVar[Counts] = {SPLIT: {"queries": 1_883}}
    captions = PlainCaption

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to."""
        return [self.root, self.root / "icir"]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries."""
        check_split(split)
        if split != SPLIT:
            raise MissingFileError(f"i-CIR has the split {SPLIT} only, got {split!r}", setting="data.split")
        database, queries = self._open("database_files.csv"), self._open("query_files.csv")
        paths: dict[str, str] = {}
        own: dict[str, list[int]] = {}  # the images of each instance
        right: dict[tuple[str, str], list[int]] = {}
        for number, (position, row) in enumerate(database.items()):
            path = row.image.removeprefix("icir/")
            name = path if path not in paths else f"{path}#{position}"
            paths[name] = path
            own.setdefault(row.instance, []).append(number)
            right.setdefault((row.instance, row.text), []).append(number)
        names = tuple(paths)

        def query(row: ICIRRow, origin: Origin) -> QueryRecord:
            found = right.get((row.instance, row.text))
            if not found:
                raise Problem("has no right answer in the database of its instance")
            reference = row.image.removeprefix("icir/")
            return QueryRecord(reference, row.text, target=names[found[0]], id=origin.position, origin=origin)

        built = queries.build(query)
        rows = [queries[position] for position in built]
        index = positions_of(paths)
        instances = positions_of(dict.fromkeys(row.instance for row in rows))
        subsets = {instance: tuple(images) for instance, images in own.items()}
        records = tuple(built.values())
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=names,
            query_ids=tuple(record.id for record in records),
            targets=tuple(tuple(right[row.instance, row.text]) for row in rows),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=False,
            subsets=tuple(subsets[row.instance] for row in rows),
            query_groups=tuple(instances[row.instance] for row in rows),
            metrics=(PRECISION, MeanOfGroups(PRECISION), WorstOfGroups(PRECISION)),
            headline="subset_average_precision",
            version=self.protocol_version,
        )
        paths |= {record.reference: record.reference for record in records}
        return Evaluation(protocol, records, paths)

    def _open(self, name: str) -> AnnotationFile[ICIRRow]:
        places = [self.root / base / folder / name for base in ("", "icir") for folder in ("", "annotations")]
        path = first_there(places)
        if path is None:
            tried = " or ".join(map(str, places[:3]))
            raise MissingFileError(f"no file {tried}: expected the folder of i-CIR", setting="data.root")
        return AnnotationFile(path, ICIRRow, report=self.report, listed=read_csv(path, FIELDS))
