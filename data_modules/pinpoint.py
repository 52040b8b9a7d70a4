"""PinPoint: several right and wrong answers, paraphrases, and queries of two images (Mahadev et al., CVPR 2026)."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.evaluation.metrics import AveragePrecisionAt
from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.query_groups import SpreadOfGroups, WorstOfGroups
from contextcir.evaluation.whole_rankings import PrecisionAt
from contextcir.evaluation.wrong_answers import AnyNegativeAt, AveragePrecisionWithoutNegativesAt, NegRecallAt
from data_modules.loading.folders import first_there
from data_modules.reading.annotations import AnnotationFile, CaptionRecord, Listed, Problem
from data_modules.reading.reader import BenchmarkReader, Counts, Strata, check_split, positions_of
from data_modules.reading.tables import read_lines, read_parquet
from data_modules.records import Evaluation, Origin, QueryRecord

SPLIT = "test"  # the only one
QUERIES, INDEX = "pinpoint_licensed.parquet", "index_signatures.txt"
SIGNATURE = re.compile(r"[0-9a-f]{32}")
METRICS = (
    *AveragePrecisionAt.at(1, 5, 10, 50),
    *PrecisionAt.at(1, 5, 10, 50),
    *NegRecallAt.at(1, 5, 10, 50),
    *AnyNegativeAt.at(1, 10),
    *AveragePrecisionWithoutNegativesAt.at(1, 5, 10, 50),
    SpreadOfGroups(PrecisionAt(10)),
    WorstOfGroups(AveragePrecisionAt(10)),
)


def _number(given: Any) -> Any:
    digits = given.removeprefix("query_") if isinstance(given, str) else ""
    if not re.fullmatch(r"[0-9]{1,9}", digits):
        raise Problem("must be a number like query_00001", f", got {shown(given)}")
    return int(digits)


def _signature(given: Any) -> Any:
    if not isinstance(given, str) or not SIGNATURE.fullmatch(given):
        raise Problem("must be a signature of 32 hexadecimal digits", f", got {shown(given)}")
    return given


Signature = Annotated[str, BeforeValidator(_signature)]
# The published file writes "None" where there is no second image.
Optional = Annotated[Signature | None, BeforeValidator(lambda given: None if given in (None, "None", "") else given)]


# The published lists hold an empty entry here and there, which their own code counts.
Signatures = list[Signature | None]


class PinPointCaption(CaptionRecord):
    """The text of a query."""

    instruction: str

    def texts(self) -> list[str]:
        """Return the text."""
        return [self.instruction]


class PinPointRecord(PinPointCaption):
    """A query of PinPoint, one of the wordings of what is asked of its images."""

    query_id: Annotated[int, BeforeValidator(_number)]
    query_image_signature: Signature
    query_image_signature2: Optional = None
    positive_candidates: list[Signature]
    negative_candidates: Signatures | None = None


class PinPointReader(BenchmarkReader):
    """PinPoint, which has one split, here called test, and none to train on. Needs the extra ``parquet``.

    Reads ``pinpoint_licensed.parquet`` (7,635 queries, 1,006 of them of two images) and ``index_signatures.txt``
    (109,600 images) of the repository pinterest/pinpoint-dataset (commit e4ebb38), whose README and ``evaluate.py``
    state the columns. Images are named by their signature as in the addresses of the README,
    ``images/ab/cd/ef/SIGNATURE.jpg`` below ``root``.

    Scored as by ``evaluate.py`` and ``utils/metrics.py`` there: mAP@k with denominator min(positives, k), precision,
    share of wrong answers among the first k (`NegRecallAt`), mAP without them, and the spread of precision at 10 over
    queries of the same images, which are paraphrases for the most part. The reference stays in the gallery. Beside
    these stand `AnyNegativeAt`, the worst mAP@10 of the paraphrases, and all of it by the number of reference images.

    As there, an image that a list names several times, and an empty entry, count in the denominators (of mAP@10 of 821
    queries, of NegRecall@10 of 222). For a query of two images, the published baseline averages the embeddings of the
    images; here the composed embeddings are averaged (`Protocol.further_references`).
    """

    benchmark = "pinpoint"
    expected: ClassVar[Counts] = {SPLIT: {"queries": 7_635, "gallery": 109_600}}
    captions = PinPointCaption

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to."""
        return [self.root / name for name in ("images", "736x", "")]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries."""
        check_split(split)
        if split != SPLIT:
            raise MissingFileError(f"PinPoint has the split {SPLIT} only, got {split!r}", setting="data.split")
        names, listed_in = self._read_index()
        index = positions_of(names)
        path = self._find(QUERIES)
        rows = dict(enumerate(read_parquet(path, list(PinPointRecord.model_fields))))
        if not rows:
            raise InputError("holds no queries", file=path)
        context = Listed(index, listed_in)
        file = AnnotationFile(path, PinPointRecord, "query_id", context, self.report, listed=rows)

        def query(record: PinPointRecord, origin: Origin) -> QueryRecord:
            outside = [name for name in record.positive_candidates if name not in index]
            if not record.positive_candidates or outside:
                what = f"names image {shown(outside[0])}, which is not in {listed_in}" if outside else "is empty"
                raise Problem(what, inside="positive_candidates")
            target = record.positive_candidates[0]
            return QueryRecord(
                record.query_image_signature, record.instruction, target=target, id=record.query_id, origin=origin
            )

        built = file.build(query)
        read = [file[position] for position in built]
        records = tuple(built.values())
        images = [(record.query_image_signature, record.query_image_signature2) for record in read]
        groups = positions_of(dict.fromkeys(str(pair) for pair in images))
        seconds = [() if second is None else (second,) for _, second in images]
        strata = Strata()
        for number, second in enumerate(seconds):
            strata.put(f"references_{1 + len(second)}", number)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(names),
            query_ids=tuple(record.id for record in records),
            targets=tuple(_places(record.positive_candidates, index) for record in read),
            references=tuple(index.get(record.reference, -1) for record in records),
            exclude_reference=False,
            negatives=tuple(_places(record.negative_candidates or (), index) for record in read),
            query_groups=tuple(groups[str(pair)] for pair in images),
            counted_targets=tuple(len(record.positive_candidates) for record in read),
            counted_negatives=tuple(len(record.negative_candidates or ()) for record in read),
            further_references=tuple(tuple(index.get(name, -1) for name in names) for names in seconds),
            metrics=METRICS,
            strata=strata.as_mapping(),
            headline="map_at_10",
            options={"several_references": "mean of the composed embeddings"},
            version=self.protocol_version,
        )
        others = [
            record._replace(reference=name) for record, names in zip(records, seconds, strict=True) for name in names
        ]
        every = dict.fromkeys([*names, *(record.reference for record in (*records, *others))])
        return Evaluation(protocol, (*records, *others), {name: image_path(name) for name in every})

    def _read_index(self) -> tuple[list[str], Path]:
        path = self._find(INDEX)
        names = read_lines(path)
        for position, name in enumerate(names):
            if not SIGNATURE.fullmatch(name):
                raise InputError(f"must be a signature, got {shown(name)}", file=path, record=position)
        if len(set(names)) < len(names) or not names:
            raise InputError("lists an image twice" if names else "lists no images", file=path)
        return names, path

    def _find(self, name: str) -> Path:
        path = first_there([self.root / name, self.root / "pinpoint-dataset" / name])
        if path is None:
            expected = "expected the folder of pinterest/pinpoint-dataset"
            raise MissingFileError(f"no file {self.root / name}: {expected}", setting="data.root")
        return path


def _places(names: Any, index: dict[str, int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(index[name] for name in names if name in index))


def image_path(signature: str) -> str:
    """Return the path of an image as on its address."""
    return f"{signature[:2]}/{signature[2:4]}/{signature[4:6]}/{signature}.jpg"
