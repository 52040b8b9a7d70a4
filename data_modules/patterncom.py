"""PatternCom: composed retrieval of remote sensing images (Psomas et al., IGARSS 2024), far from what CIR trains on."""

import re
from pathlib import Path
from typing import ClassVar

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.whole_rankings import AveragePrecision, PrecisionAt
from data_modules.loading.folders import first_there
from data_modules.reading.annotations import AnnotationFile, ImagePath, PlainCaption, Record
from data_modules.reading.reader import BenchmarkReader, Counts, positions_of
from data_modules.reading.tables import read_csv
from data_modules.records import Evaluation, QueryRecord

ATTRIBUTES = ("color", "context", "density", "existence", "quantity", "shape")
# Classes that are one for the right answers.
ONE_CLASS = {
    "denseresidential": "residential",
    "sparseresidential": "residential",
    "closedroad": "road",
    "intersection": "road",
    "bridge": "roadpass",
    "overpass": "roadpass",
    "ferryterminal": "pier",
    "harbor": "pier",
    "parkingspace": "parking",
    "parkinglot": "parking",
}
# Classes that are one for the texts, too: these only, by the attribute.
ONE_FOR_TEXTS = {
    "density": ("denseresidential", "sparseresidential"),
    "shape": ("closedroad", "intersection"),
    "context": ("bridge", "overpass"),
    "existence": ("ferryterminal", "harbor", "parkingspace", "parkinglot"),
}


class PatternComRow(Record):
    """An image with the value of an attribute."""

    image: str
    attribute: str
    value: str


class PatternNetRow(Record):
    """An image of PatternNet."""

    image: ImagePath
    number: str
    label: str


class PatternComReader(BenchmarkReader):
    """PatternCom: the attributes color, context, density, existence, quantity and shape are its splits.

    Reads ``patternnet.csv`` (path, number and class of every image, with blanks between) and
    ``PatternCom/ATTRIBUTE.csv`` (file name, attribute, value; no header), as ``extract_features.py``, ``evaluate.py``
    and ``utils.py`` of the authors' repository billpsomas/rscir (commit 1560858) do; images are where patternnet.csv
    says, below ``root``.

    Queries and right answers are those of ``evaluate.py``: each image of an attribute's file, with every other value
    that images of its class have in that file as text; right are the images of that value and of the same class, where
    some classes count as one. All of PatternNet is the gallery, the reference with it. ``average_precision`` over the
    whole ranking is their mAP (they round the one of each query to 0.01 %); the mean over the attributes is their Avg.
    """

    benchmark = "patterncom"
    expected: ClassVar[Counts] = {attribute: {"gallery": 30_400} for attribute in ATTRIBUTES}
    captions = PlainCaption

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to."""
        return [self.root, self.root / "PatternNet", self.root / "images"]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of an attribute."""
        if split not in ATTRIBUTES:
            raise InputError(f"PatternCom has {', '.join(ATTRIBUTES)}, got {shown(split)}", setting="data.split")
        paths = self._read_gallery()
        file = self._find(f"PatternCom/{split}.csv")
        rows = AnnotationFile(
            file, PatternComRow, report=self.report, listed=read_csv(file, tuple(PatternComRow.model_fields))
        )
        index = positions_of(paths)
        values: dict[str, set[str]] = {}  # by class, as texts have them
        right: dict[tuple[str, str], dict[str, None]] = {}
        last = {row.image: position for position, row in rows.items()}  # of an image that is there twice
        for position, row in rows.items():
            if row.image not in index:
                raise InputError(
                    f"names image {shown(row.image)}, which is not in patternnet.csv", file=file, record=position
                )
            values.setdefault(_texts_of(split, row), set()).add(row.value)
            if last[row.image] == position:
                right.setdefault((_class_of(row.image), row.value), {})[row.image] = None
        records: list[QueryRecord] = []
        targets: list[tuple[int, ...]] = []
        for position, row in rows.items():
            for value in sorted(values[_texts_of(split, row)] - {row.value}):
                found = [index[name] for name in right.get((_class_of(row.image), value), ()) if name != row.image]
                if found:
                    target = next(name for name in right[_class_of(row.image), value] if name != row.image)
                    origin = rows.origin(position)
                    records.append(QueryRecord(row.image, value, target=target, id=len(records), origin=origin))
                    targets.append(tuple(found))
        if not records:
            raise InputError("no class has two values, so there is nothing to ask for", file=file)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(paths),
            query_ids=tuple(record.id for record in records),
            targets=tuple(targets),
            references=tuple(index[record.reference] for record in records),
            exclude_reference=False,
            metrics=(AveragePrecision(), *PrecisionAt.at(5, 10, 15, 20)),
            averaged_as=self.benchmark,
            headline="average_precision",
            version=self.protocol_version,
        )
        return Evaluation(protocol, tuple(records), paths)

    def _read_gallery(self) -> dict[str, str]:
        """Return the path of every image by the name of its file."""
        path = self._find("patternnet.csv")
        listed = read_csv(path, tuple(PatternNetRow.model_fields), separator=" ")
        paths: dict[str, str] = {}
        for position, row in AnnotationFile(path, PatternNetRow, listed=listed).items():
            name = row.image.rsplit("/", 1)[-1]
            if name in paths:
                raise InputError(f"names image {shown(name)} twice", file=path, record=position)
            paths[name] = row.image
        return paths

    def _find(self, name: str) -> Path:
        path = first_there([self.root / name, self.root / "PatternNet" / name])
        if path is None:
            raise MissingFileError(
                f"no file {self.root / name}: expected the folder of PatternNet", setting="data.root"
            )
        return path


def _label(image: str) -> str:
    """Return the class in the name of a file: what stands before the first digit."""
    return re.split(r"\d", image)[0]


def _class_of(image: str) -> str:
    label = _label(image)
    return ONE_CLASS.get(label, label)


def _texts_of(attribute: str, row: PatternComRow) -> str:
    """Return the class whose values are the texts of an image."""
    label = _label(row.image)
    return row.attribute + (ONE_CLASS[label] if label in ONE_FOR_TEXTS.get(attribute, ()) else label)
