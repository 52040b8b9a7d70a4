"""CIRCO: composed retrieval on COCO's unlabelled images, with several right answers (Baldrati et al., ICCV 2023)."""

import os
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationInfo, field_validator

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.evaluation.metrics import WORD, AveragePrecisionAt, FirstTargetRecallAt
from contextcir.evaluation.protocol import Protocol
from contextcir.phrases.parser import clean
from data_modules.loading.folders import first_there
from data_modules.reading.annotations import (
    AnnotationFile,
    CaptionRecord,
    Concepts,
    ImageNumber,
    ImageNumbers,
    ImagePath,
    ImageSize,
    Listed,
    PhraseField,
    Problem,
    Record,
    phrase_records,
)
from data_modules.reading.json_files import read_json
from data_modules.reading.reader import BenchmarkReader, Counts, Strata, check_split, paths_by_id, positions_of
from data_modules.records import Evaluation, Origin, QueryRecord

IMAGE_LIST = Path("annotations") / "image_info_unlabeled2017.json"


class QueryText(ABC):
    """Makes the text of a query from CIRCO's two fields. The relative caption comes last in it.

    Published results differ in this more than in anything else: state it with every figure.
    """

    @property
    @abstractmethod
    def template(self) -> str:
        """The text, with {shared_concept} and {relative_caption} where these go."""

    def compose(self, relative_caption: str, shared_concept: str) -> tuple[str, int]:
        """Return the text, and where the relative caption begins in it once the tokenizer has cleaned both."""
        text = self.template.format(relative_caption=relative_caption, shared_concept=shared_concept)
        before = self.template.removesuffix(".").removesuffix("{relative_caption}")
        # cleaning strips the blank between the two
        return text, len(clean(before.format(shared_concept=shared_concept))) + 1 if before else 0


class RelativeCaption(QueryText):
    """The relative caption alone, as SEARLE, LinCIR and CIReVL use it."""

    template = "{relative_caption}"


class SharedConceptMagicLens(QueryText):
    """The text of MagicLens: ``find {shared_concept} but {relative_caption}``."""

    template = "find {shared_concept} but {relative_caption}"


class SharedConceptSentence(QueryText):
    """The text of ConText-CIR and BGE-VL: ``Find a picture that also {shared_concept}, but {relative_caption}.``"""

    template = "Find a picture that also {shared_concept}, but {relative_caption}."


class CIRCOCaption(CaptionRecord):
    """The two texts of a query."""

    relative_caption: str
    shared_concept: str

    def texts(self) -> list[str]:
        """Return the text of every `QueryText`."""
        return [kind().compose(self.relative_caption, self.shared_concept)[0] for kind in QueryText.__subclasses__()]


class CIRCORecord(CIRCOCaption):
    """A query of CIRCO. The right answers are hidden where ``gt_img_ids`` is missing or empty."""

    id: int
    reference_img_id: ImageNumber
    gt_img_ids: ImageNumbers | None = None
    target_img_id: int | None = None
    semantic_aspects: list[str] | None = None
    concepts: Concepts | None = None
    phrases: list[PhraseField] | None = None
    image_size: ImageSize | None = None

    @field_validator("target_img_id")
    @classmethod
    def _check_target(cls, target: int | None, info: ValidationInfo) -> int | None:
        targets = info.data.get("gt_img_ids")
        if targets and target is not None and str(target) not in targets:
            raise Problem(f"is {target}, which is not among gt_img_ids")
        return target

    @field_validator("semantic_aspects")
    @classmethod
    def _check_aspects(cls, aspects: list[str] | None) -> list[str] | None:
        for place, aspect in enumerate(aspects or ()):
            if not WORD.fullmatch(f"aspect_{aspect}") or aspect in (aspects or ())[:place]:
                raise Problem("must hold different words (letters, digits, _)", f", got {shown(aspect)}")
        return aspects

    def targets(self) -> list[str]:
        """Return the names of the right answers, the one that the query was written for first."""
        if not self.gt_img_ids:
            return []
        if self.target_img_id is None:
            raise Problem("is missing", inside="target_img_id")
        return sorted(self.gt_img_ids, key=lambda name: name != str(self.target_img_id))

    def groups(self) -> list[str]:
        """Return the groups of queries that this one belongs to."""
        groups = [f"aspect_{aspect}" for aspect in self.semantic_aspects or ()]
        return groups if self.concepts is None else [*groups, f"concepts_{self.concepts}"]


class _Anything(Container[str]):
    """Contains every name."""

    def __contains__(self, name: object) -> bool:
        return True


class UnlabelledImage(Record):
    """An image of COCO's list."""

    id: int
    file_name: ImagePath


class CIRCOReader(BenchmarkReader):
    """CIRCO, which has no training split.

    Looks for ``annotations/SPLIT.json`` in ``root`` and ``root/CIRCO``. The gallery is every entry of
    ``COCO2017_unlabeled/annotations/image_info_unlabeled2017.json``, with the images in
    ``COCO2017_unlabeled/unlabeled2017``.

    Scored as on the official server: mAP@k with denominator min(targets, k), and recall@k of the one target that the
    query was written for. ``semantic_aspects`` and the optional integer ``concepts`` of the records give groups for
    which every metric is repeated; the official figure of an aspect is its mAP@10. Optional ``phrases`` have their
    spans in the relative caption.

    The arguments are explained in `data_modules.benchmarks.CIRCO`.
    """

    benchmark = "circo"
    expected: ClassVar[Counts] = {
        "val": {"queries": 220, "gallery": 123_403},
        "test": {"queries": 800, "gallery": 123_403},
    }
    captions = CIRCOCaption

    def __init__(self, root: str | Path, query_text: QueryText | None = None, exclude_reference: bool = False) -> None:
        super().__init__(root)
        self.query_text = SharedConceptSentence() if query_text is None else query_text
        self.exclude_reference = exclude_reference

    def image_folders(self) -> list[Path]:
        """Return the folders that the listed image paths may be relative to, the official one first."""
        return [base / name for base in self._coco_folders() for name in ("unlabeled2017", "data", "")]

    def read_evaluation(self, split: str) -> Evaluation:
        """Return the protocol and queries of a split; without ``gt_img_ids`` in any record its labels are hidden."""
        paths, listed_in = self._read_paths()
        file = AnnotationFile(self.find_file(split), CIRCORecord, "id", Listed(paths, listed_in), self.report)
        file.require_all_or_none("gt_img_ids", lambda record: record.gt_img_ids or None)
        queries = file.build(self._query)
        records = [query for query, _ in queries.values()]
        index = positions_of(paths)
        targets = [tuple(index[name] for name in names) for _, names in queries.values()]
        strata = Strata()
        for query, position in enumerate(queries):
            for group in file[position].groups():
                strata.put(group, query)
        protocol = Protocol(
            benchmark=self.benchmark,
            split=split,
            gallery=tuple(paths),
            query_ids=tuple(record.id for record in records),
            targets=tuple(targets),
            references=tuple(index[record.reference] for record in records),
            exclude_reference=self.exclude_reference,
            metrics=(*FirstTargetRecallAt.at(1, 5, 10, 25, 50), *AveragePrecisionAt.at(5, 10, 25, 50)),
            strata=strata.as_mapping(),
            headline="map_at_5",
            version=self.protocol_version,
            options={"query_text": self.query_text.template},
        )
        return Evaluation(protocol, tuple(records), paths)

    def read_without_images(self, split: str) -> list[CIRCORecord]:
        """Return the records of a split, without COCO's list of images to compare their images with."""
        path = self.find_file(split)
        return [record for _, record in AnnotationFile(path, CIRCORecord, "id", Listed(_Anything(), path)).items()]

    def _query(self, record: CIRCORecord, origin: Origin) -> tuple[QueryRecord, list[str]]:
        """Return a record in the form that all benchmarks share, and its right answers."""
        text, offset = self.query_text.compose(record.relative_caption, record.shared_concept)
        targets = record.targets()
        query = QueryRecord(
            reference=record.reference_img_id,
            caption=text,
            phrases=phrase_records(record.phrases, text, offset),
            target=targets[0] if targets else None,
            id=record.id,
            image_size=record.image_size,
            origin=origin,
        )
        return query, targets

    def _coco_folders(self) -> list[Path]:
        bases = (self.root, self.root / "CIRCO")
        return [base / name for base in bases for name in ("COCO2017_unlabeled", "")]

    def find_file(self, split: str) -> Path:
        """Return the annotation file of a split."""
        check_split(split)
        folders = [base / "annotations" for base in (self.root, self.root / "CIRCO")]
        return first_file(
            [folder / f"{split}.json" for folder in folders],
            "expected the folder of CIRCO, and one of its splits",
            "data.split" if any(map(os.path.isdir, folders)) else "data.root",
        )

    def _read_paths(self) -> tuple[dict[str, str], Path]:
        """Return the file names of the gallery by image id, and the file that lists them."""
        file = first_file(
            [base / IMAGE_LIST for base in self._coco_folders()],
            "it comes with COCO's 2017 unlabeled images (image_info_unlabeled2017.zip)",
            "data.root",
        )
        listed = read_json(file, dict).get("images")
        if not isinstance(listed, list) or not listed:
            raise InputError(f"must be a list of images, got {shown(listed)}", file=file, field="images")
        images = AnnotationFile(file, UnlabelledImage, "id", listed=dict(enumerate(listed)))
        return paths_by_id(images, lambda image: (image.id, image.file_name), "file_name"), file


def first_file(tried: Sequence[Path], advice: str, setting: str) -> Path:
    """Return the first of the files that exists.

    Raises:
        MissingFileError: if none does; the message lists them.
    """
    path = first_there(tried)
    if path is not None:
        return path
    raise MissingFileError(f"no file {' or '.join(map(str, tried))}: {advice}", setting=setting)
